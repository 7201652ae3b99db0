"""Global descriptors as a first stage: exact inner products with every vector of an index.

Descriptors are L2-normalised, so that the inner product is the cosine (Radenović et al., TPAMI 2018). An index stores
them in half precision, which halves what a search reads and moves a score by at most 2⁻¹¹; products are summed in
float32. The vectors are memory-mapped, so an index may be larger than the memory.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from runtime import native
from runtime.errors import UsageError
from runtime.features import Features
from runtime.first_stage import VECTORS, Layout, MapFile, Searcher, shape_fault

FILE = "vectors.npy"
CHECK_BATCH = 1 << 16  # vectors that are checked at a time, to save memory
BLOCK = 64  # images of which the best is looked at first


class InnerProduct:
    """The first stage of global descriptors: encoding rounds them.

    Attributes:
        dimensions: G.
    """

    def __init__(self, dimensions: int) -> None:
        self.dimensions = dimensions

    def __str__(self) -> str:
        return "inner product"

    @property
    def layout(self) -> Layout:
        """How an index stores what this encodes."""
        return Layout(VECTORS, self.dimensions)

    @property
    def settings(self) -> dict[str, Any]:
        """The method, as a value for JSON."""
        return {"method": VECTORS}

    def for_regions(self, levels: int) -> "InnerProduct":
        """Vectors have no regions: raises UsageError if some are asked for."""
        if levels:
            raise UsageError(
                f"regions {levels}: local descriptors are aggregated by regions, and the engine gives global ones; "
                "leave it out"
            )
        return self

    def encode_database(self, features: Features) -> NDArray[np.float16]:
        """float16 [G], as an index stores it."""
        return features.need_global().astype(np.float16)

    def encode_query(self, features: Features, *, threads: int = 1) -> NDArray[np.float32]:
        """float32 [G], not rounded."""
        return np.ascontiguousarray(features.need_global(), np.float32)

    def build(self, images: Sequence[NDArray[np.float16]]) -> "VectorFile":
        """The store of a segment's images."""
        return VectorFile.build(images, self.layout)

    def searcher(self, index: Searcher) -> Searcher:
        """What searches an index: the index itself."""
        return index


@dataclass(frozen=True)
class VectorFile:
    """The vectors of up to 65,536 images. The array may be a memory map.

    ``scores``, ``best`` and ``images_at`` raise OSError if its file was truncated since, or its disk failed.

    Attributes:
        vectors: float16 [n, G].
    """

    LARGE_FILES: ClassVar[tuple[str, ...]] = (FILE,)
    SMALL_FILES: ClassVar[Mapping[str, npt.DTypeLike]] = {}

    vectors: NDArray[np.float16]

    @classmethod
    def large_files(cls, layout: Layout) -> tuple[str, ...]:
        """The vectors, whatever the layout."""
        return cls.LARGE_FILES

    @classmethod
    def build(cls, images: Sequence[NDArray[np.float16]], layout: Layout) -> "VectorFile":
        """The vectors of encoded images."""
        return cls(np.array(images, np.float16).reshape(len(images), layout.dimensions))

    @classmethod
    def merge(cls, parts: Sequence["VectorFile"], kept: Sequence[NDArray[np.bool_]]) -> "VectorFile":
        """One file of the kept vectors of several: ``Store.merge``."""
        return cls(np.concatenate([part.vectors[keep] for part, keep in zip(parts, kept, strict=True)]))

    @classmethod
    def open(cls, small: Mapping[str, NDArray], map_file: MapFile, entries: int, layout: Layout) -> "VectorFile":
        """Vectors on the disk: ``Store.open``."""
        return cls(map_file(FILE, np.float16, (entries, layout.dimensions)))

    @property
    def entries(self) -> int:
        """An image has one vector."""
        return len(self.vectors)

    def arrays(self) -> dict[str, NDArray]:
        """What is written to the disk, by file name."""
        return {FILE: self.vectors}

    def __len__(self) -> int:
        return len(self.vectors)

    def scores(self, query: NDArray[np.float32]) -> NDArray[np.float64]:
        """The inner product of a query, float32 [G], with every vector: float64 [n]."""
        return native.products(self.vectors, query).astype(np.float64)

    def best(
        self, query: NDArray[np.float32], live: NDArray[np.bool_], top: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The live images with the largest scores, at most ``top``, best first: ``Store.best``."""
        scores = native.products(self.vectors, query)
        scores[~live] = -np.inf
        images = np.flatnonzero(live & (scores >= _bound(scores, top)))
        order = np.argsort(-scores[images], kind="stable")[: max(0, top)]  # of equal scores the earliest win
        return images[order], scores[images[order]].astype(np.float64)

    def images_at(self, rows: NDArray[np.int64]) -> list[NDArray[np.float16]]:
        """The vectors of some images, int64 [k]: ``Store.images_at``."""
        return list(native.take_rows(self.vectors, np.ascontiguousarray(rows)))

    @classmethod
    def similarities(cls, images: Sequence[NDArray[np.float16]], query: NDArray[np.float32]) -> NDArray[np.float64]:
        """The inner products of vectors with each other, float64 [n, n]: ``Store.similarities``."""
        vectors = np.array(images, np.float64).reshape(len(images), len(query))
        return vectors @ vectors.T

    def shape_faults(self, images: int) -> Iterator[tuple[str, str]]:
        """The vectors, if there is not one per image: ``Store.shape_faults``."""
        yield from shape_fault(FILE, self.vectors, np.float16, (images, self.vectors.shape[1]))

    def content_faults(self, dimensions: int) -> Iterator[tuple[str, str]]:
        """Vectors with infinite or NaN components: ``Store.content_faults``."""
        for start in range(0, len(self.vectors), CHECK_BATCH):
            if not np.isfinite(self.vectors[start : start + CHECK_BATCH]).all():
                yield FILE, "a vector is not finite"
                return


def _bound(scores: NDArray[np.float32], top: int) -> float:
    """A number that at least ``top`` of the scores reach, and few others where they are many.

    The maxima of blocks are scores of different images, and the largest of them are found sooner than those of all.
    """
    maxima = scores[: len(scores) // BLOCK * BLOCK].reshape(-1, BLOCK).max(axis=1)
    some = maxima if top <= len(maxima) else scores
    return float(np.partition(some, len(some) - top)[len(some) - top]) if 0 < top <= len(some) else -np.inf
