"""The seam between features and an index: what every first stage of retrieval gives, and how its segments are kept.

A first stage (``FirstStage``) turns the features of a photo into what an index keeps and what a search asks with. A
store (``Store``) holds the images of one segment and ranks them. ASMK has ``AsmkKernel`` and ``InvertedFile``, global
descriptors have ``InnerProduct`` and ``VectorFile``; nothing else in the index or the retriever knows which it is.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from runtime.features import Features

ASMK, VECTORS = "asmk", "vectors"  # the methods that there are
MAX_IMAGES = 65_536  # of a store: an inverted file numbers them by uint16


@dataclass(frozen=True)
class Layout:
    """What the segments of an index hold.

    Attributes:
        method: ``asmk`` for entries of an inverted file, ``vectors`` for global descriptors.
        dimensions: D of the descriptors behind the codes, or of the vectors.
    """

    method: str
    dimensions: int


class FirstStage(Protocol):
    """From features to an index and its queries. ``str()`` of it names its parameters, for people."""

    @property
    def layout(self) -> Layout:
        """How an index keeps what this encodes."""
        ...

    @property
    def settings(self) -> dict[str, Any]:
        """The method and its parameters, as JSON takes them."""
        ...

    def encode_database(self, features: Features) -> Any:
        """What an index keeps of an image, as ``Store.build`` takes it."""
        ...

    def encode_query(self, features: Features, *, threads: int = 1) -> Any:
        """What ``Store.best`` and ``Store.scores`` are asked with."""
        ...

    def build(self, images: Sequence[Any]) -> "Store":
        """A store of encoded images, in memory."""
        ...


class MapFile(Protocol):
    """Opens one large file of a segment as a read-only memory map of the type and shape that are said."""

    def __call__(self, name: str, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> NDArray: ...


class Store(Protocol):
    """Up to 65,536 images of a segment as a first stage searches them, in memory or on the disk.

    Attributes:
        LARGE_FILES: names of the files that hold nearly all of the bytes: opening checks their sizes alone.
        SMALL_FILES: names of the files that are read whole at opening, and checked.
    """

    LARGE_FILES: ClassVar[tuple[str, ...]]
    SMALL_FILES: ClassVar[tuple[str, ...]]

    @classmethod
    def build(cls, images: Sequence[Any], dimensions: int) -> Self:
        """The store of encoded images."""
        ...

    @classmethod
    def merge(cls, parts: Sequence[Self], kept: Sequence[NDArray[np.bool_]]) -> Self:
        """One store of the images of several, in their order, without those that are not kept (bool [n] a part)."""
        ...

    @classmethod
    def open(cls, small: Mapping[str, NDArray], map_file: MapFile, entries: int, dimensions: int) -> Self:
        """A store on the disk.

        Args:
            small: the arrays of ``SMALL_FILES``, by name.
            map_file: opens those of ``LARGE_FILES``.
            entries: how many there are, as the catalogue says.
            dimensions: as of ``Layout``.

        Raises:
            ValueError: the arrays do not fit each other.
        """
        ...

    @property
    def entries(self) -> int:
        """What the index counts: entries of an inverted file, or vectors."""
        ...

    def arrays(self) -> dict[str, NDArray]:
        """What is written to the disk, by file name."""
        ...

    def __len__(self) -> int: ...

    def scores(self, query: Any) -> NDArray[np.float64]:
        """The score of every image, float64 [n]."""
        ...

    def best(self, query: Any, live: NDArray[np.bool_], top: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The live images with the largest scores, at most ``top``, best first; of equals the earlier comes first.

        Returns:
            their numbers, int64 [h], and scores, float64 [h].
        """
        ...

    def shape_faults(self, images: int) -> Iterator[tuple[str, str]]:
        """Arrays that do not fit each other or so many images: file and fault. ``content_faults`` relies on them."""
        ...

    def content_faults(self, dimensions: int) -> Iterator[tuple[str, str]]:
        """What is wrong with the content of the arrays: file and fault."""
        ...


def shape_fault(name: str, array: NDArray, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> Iterator[tuple[str, str]]:
    """The file and how its array is not of the type and shape that it should have, if it is not."""
    if array.dtype != dtype or array.shape != shape:
        yield name, f"{array.dtype} {list(array.shape)} instead of {np.dtype(dtype)} {list(shape)}"


Progress = Callable[[int], object]  # is told how many images are done since it was last called
