"""The ``asmk`` package's public names on top of this engine: its users change one import.

    from runtime import asmk_method                           # from asmk import asmk_method
    from runtime import asmk_method, asmk_method as kern_pkg  # from asmk import asmk_method, kernel as kern_pkg

Code that patches ``asmk.index`` for machines without a GPU (MASt3R's) can drop the patch: nothing here needs faiss.

Parameters, steps, metadata and scores are asmk 0.1.1's (https://github.com/jenicek/asmk), with these differences:

- Only binary codes without IDF weights; ``index.gpu_id`` is ignored.
- A ``cache_path`` may hold what asmk saved there. What is saved is ours: a codebook as .npy, an IVF as the folder of an
  index. Images may be added to an IVF that was loaded; a pickle then becomes a folder, and is kept as ``PATH.asmk``.
- Image ids may come in any order, and an image's rows may be scattered; an image is added once. As in asmk, ids number
  the images from 0, and every number up to the largest is an image that can be ranked.
- Distractors are ranked under the numbers that follow the images', never under negative ones.
- Descriptors of any dimension are compared over as many bits as they have, not over the next multiple of 32.
- Equal scores are ranked by number. With a threshold below 0, similarities keep their sign for any alpha.
"""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray
from tqdm import tqdm

from runtime.asmk.codebook import Codebook, kmeans
from runtime.asmk.codes import code_length
from runtime.asmk.kernel import AsmkKernel, AsmkParameters, aggregate
from runtime.asmk_method.ivf import Ivf, image_ids_of
from runtime.asmk_method.pickles import load_any_codebook, words_of_size
from runtime.errors import IncompatibleError, UsageError

SEED = 0  # of k-means


class ASMKMethod:
    """The steps of ASMK: train the codebook, build the inverted file, query it. The first two return a new object.

    method = ASMKMethod.initialize_untrained(params).train_codebook(training_descriptors)
    metadata, images, ranks, scores = method.build_ivf(descriptors, image_ids).query_ivf(queries, query_ids)

    Attributes:
        params: asmk's: ``index``, and the parameters of the steps ``train_codebook``, ``build_ivf``, ``query_ivf``.
        metadata: for each step, its times and what it made.
        codebook: None before ``train_codebook``.
        kernel: None before ``build_ivf``.
        inverted_file: None before ``build_ivf``.
    """

    def __init__(
        self,
        params: Mapping[str, Any],
        metadata: Mapping[str, Any],
        *,
        codebook: "AsmkCodebook | None" = None,
        kernel: "ASMKKernel | None" = None,
        inverted_file: Ivf | None = None,
    ) -> None:
        self.params = params
        self.metadata = metadata
        self.codebook = codebook
        self.kernel = kernel
        self.inverted_file = inverted_file

    @classmethod
    def initialize_untrained(cls, params: Mapping[str, Any]) -> "ASMKMethod":
        """The method before its first step."""
        return cls(params, {})

    def train_codebook(
        self,
        vecs: ArrayLike | None = None,
        *,
        cache_path: str | Path | None = None,
        step_params: Mapping[str, Any] | None = None,
    ) -> "ASMKMethod":
        """Learns the codebook by k-means, or loads it.

        Args:
            vecs: float [n, D]; may be None if the codebook is loaded.
            cache_path: the codebook is loaded from here if the file exists, otherwise saved here.
            step_params: in place of ``params["train_codebook"]``.

        Raises:
            HowlError: there is a codebook already, the cache is damaged or of another size, or there are no
                descriptors to learn from, or too few.
        """
        if self.codebook is not None:
            raise UsageError("the codebook is trained already; begin with initialize_untrained for another")
        params = step_params or self.params.get("train_codebook")
        size = words_of_size(_parameter("train_codebook", params, "codebook", "size"))
        cache = Path(cache_path) if cache_path is not None else None
        begin = time.perf_counter()
        if cache is not None and cache.exists():
            codebook = _load_codebook(cache, size)
            metadata: dict[str, Any] = {"load_time": time.perf_counter() - begin}
        else:
            codebook = _learn_codebook(vecs, size, cache)
            seconds = time.perf_counter() - begin
            metadata = {"index_time": 0.0, "cluster_time": seconds, "train_time": seconds}
            if cache is not None:
                codebook.save(cache)
        metadata["index_class"] = type(codebook).__name__
        return type(self)(
            {**self.params, "train_codebook": params},
            {**self.metadata, "train_codebook": metadata},
            codebook=codebook,
        )

    def build_ivf(
        self,
        vecs: ArrayLike | None = None,
        imids: ArrayLike | None = None,
        *,
        distractors_path: str | Path | None = None,
        cache_path: str | Path | None = None,
        step_params: Mapping[str, Any] | None = None,
    ) -> "ASMKMethod":
        """Builds the inverted file of all images at once, or loads it.

        Args:
            vecs: float [n, D], the descriptors of all images; may be None if the inverted file is loaded.
            imids: integer [n], the image of each.
            distractors_path: a saved inverted file, whose images become distractors of this one.
            cache_path: the inverted file is loaded from here if it exists, otherwise saved here.
            step_params: in place of ``params["build_ivf"]``.

        Raises:
            HowlError: an argument, a parameter or a file is wrong; the line says which.
        """
        builder = self.create_ivf_builder(cache_path=cache_path, step_params=step_params)
        if not builder.loaded_from_cache:
            if vecs is None or imids is None:
                raise UsageError(f"no descriptors to build an inverted file from, and none is saved at {cache_path}")
            if distractors_path is not None:
                builder.initialize_with_distractors(distractors_path)
            builder.add(vecs, imids)
        return self.add_ivf_builder(builder)

    def create_ivf_builder(
        self, *, cache_path: str | Path | None = None, step_params: Mapping[str, Any] | None = None
    ) -> "IvfBuilder":
        """A builder, to which images are added bit by bit, for ``add_ivf_builder``; arguments as in ``build_ivf``."""
        if self.codebook is None:
            raise UsageError("an inverted file needs a codebook; call train_codebook first")
        if self.inverted_file is not None:
            raise UsageError("the inverted file is built already; call this on what train_codebook gave")
        params: Any = step_params or self.params.get("build_ivf")
        kernel = ASMKKernel(self.codebook, binary=_parameter("build_ivf", params, "kernel", "binary"))
        return IvfBuilder(params, self.codebook, kernel, cache_path=cache_path)

    def add_ivf_builder(self, ivf_builder: "IvfBuilder") -> "ASMKMethod":
        """Takes the inverted file of a builder, after saving it to the builder's cache path.

        As in asmk, images added to the builder later are found too; they are saved when this is called again.
        """
        metadata = ivf_builder.save()
        return type(self)(
            {**self.params, "build_ivf": ivf_builder.step_params},
            {**self.metadata, "build_ivf": metadata},
            codebook=self.codebook,
            kernel=ivf_builder.kernel,
            inverted_file=ivf_builder.ivf,
        )

    def query_ivf(
        self,
        qvecs: ArrayLike,
        qimids: ArrayLike,
        *,
        step_params: Mapping[str, Any] | None = None,
        progress: int | None = None,
    ) -> tuple[dict[str, float], NDArray[np.integer], NDArray[np.int64], NDArray[np.float64]]:
        """Ranks all images for every query image.

        Args:
            qvecs: float [n, D].
            qimids: integer [n], the query image of each, in any order.
            step_params: in place of ``params["query_ivf"]``.
            progress: anything true shows a progress bar.

        Returns:
            metadata: ``query_avg_time`` in seconds.
            images: [q], the distinct ids of ``qimids``, ascending.
            ranks: int64 [q, r], the numbers of all images, or of the ``topk`` best, best first, ties by number. The
                distractors' follow the images'.
            scores: float64 [q, r], of ``ranks``.
        """
        if self.codebook is None or self.inverted_file is None:
            raise UsageError("there is no inverted file to query; call build_ivf first")
        search, topk = _search_parameters(step_params or self.params.get("query_ivf"))
        kernel = AsmkKernel(self.codebook, search)
        begin = time.perf_counter()
        descriptors = _descriptors(qvecs, self.codebook.dimensions)
        ids = image_ids_of(qimids, len(descriptors))
        queries = list(_by_image(ids))
        columns = len(self.inverted_file) if topk is None else min(topk, len(self.inverted_file))
        ranks, scores = np.empty((len(queries), columns), np.int64), np.empty((len(queries), columns))
        for row, (_, rows) in enumerate(tqdm(queries, desc="querying", unit="image", disable=not progress)):
            codes = kernel.encode(descriptors[rows], search.multiple_assignment)
            every = self.inverted_file.scores(kernel.query(codes))
            ranks[row] = _best(every, columns)
            scores[row] = every[ranks[row]]
        metadata = {"query_avg_time": (time.perf_counter() - begin) / max(1, len(queries))}
        return metadata, np.array([image for image, _ in queries], ids.dtype), ranks, scores


class IvfBuilder:
    """An inverted file that images are added to.

    Attributes:
        step_params: parameters of the step ``build_ivf``.
        codebook: the codebook of its words.
        kernel: makes its codes.
        ivf: the inverted file.
        metadata: in seconds, ``load_time`` if it was loaded, ``index_time`` if images were added.
    """

    def __init__(
        self,
        step_params: Mapping[str, Any],
        codebook: "AsmkCodebook",
        kernel: "ASMKKernel",
        *,
        cache_path: str | Path | None,
    ) -> None:
        """Loads the inverted file from ``cache_path`` if it exists; otherwise starts an empty one to be saved there."""
        if _parameter("build_ivf", step_params, "ivf", "use_idf"):
            raise UsageError("build_ivf.ivf.use_idf is on: howl has no IDF weights; set it to False")
        self.step_params = step_params
        self.codebook = codebook
        self.kernel = kernel
        self.cache_path = Path(cache_path) if cache_path is not None else None
        self._assignments = _assignments("build_ivf", step_params)
        begin = time.perf_counter()
        if self.cache_path is not None and self.cache_path.exists():
            self.ivf = Ivf.load(self.cache_path, codebook)
            self.metadata = {"load_time": time.perf_counter() - begin}
        else:
            self.ivf = Ivf(codebook)
            self.metadata = {"index_time": 0.0}

    @property
    def loaded_from_cache(self) -> bool:
        """Whether there was an inverted file at the cache path."""
        return "load_time" in self.metadata

    def initialize_with_distractors(self, path: str | Path) -> None:
        """Starts with the images of a saved inverted file as distractors. Raises HowlError after the first ``add``."""
        if len(self.ivf):
            raise UsageError(f"{path}: distractors come before all images; call initialize_with_distractors first")
        self.ivf = Ivf.of_distractors(Path(path), self.codebook)

    def add(self, vecs: ArrayLike, imids: ArrayLike, *, progress: int | None = None) -> None:
        """Adds images: all of them, or none if it raises.

        Args:
            vecs: float [n, D], the descriptors of all of them.
            imids: integer [n], the image of each, in any order.
            progress: anything true shows a progress bar.

        Raises:
            HowlError: an image was added before, an id is negative, or the arrays do not fit.
        """
        begin = time.perf_counter()
        quantized = self.codebook.quantize(vecs, imids, multiple_assignment=self._assignments)
        self.ivf.add(*self.kernel.aggregate(*quantized, progress=progress))
        self.metadata["index_time"] = self.metadata.get("index_time", 0.0) + time.perf_counter() - begin

    def save(self) -> dict[str, Any]:
        """Saves what is not at the cache path yet, if there is one. Returns the metadata, with ``ivf_stats``."""
        if self.cache_path is not None:
            self.ivf.save(self.cache_path)
        return {**self.metadata, "ivf_stats": self.ivf.stats}


class AsmkCodebook(Codebook):
    """A codebook with asmk's name for ``assign``."""

    @property
    def size(self) -> int:
        """The number of words."""
        return len(self)

    def quantize(self, des: ArrayLike, *cols: Any, multiple_assignment: int) -> tuple[Any, ...]:
        """Descriptors [n, D] and their columns → descriptors, words int64 [n, m], the columns."""
        descriptors = _descriptors(des, self.dimensions)
        return descriptors, self.assign(descriptors, multiple_assignment), *cols


class ASMKKernel:
    """Turns descriptors and their words into codes."""

    def __init__(self, codebook: Codebook, *, binary: bool | str) -> None:
        if binary not in (True, "bin"):
            raise UsageError(f"build_ivf.kernel.binary is {binary!r}: howl compares binary codes only; set it to True")
        self.codebook = codebook

    def aggregate(
        self, des: ArrayLike, word_ids: ArrayLike, image_ids: ArrayLike, *, progress: int | None = None
    ) -> tuple[NDArray[np.uint64], NDArray[np.uint32], NDArray[np.integer]]:
        """Aggregates image by image.

        Args:
            des: float [n, D].
            word_ids: integer [n, m], the words of each descriptor.
            image_ids: integer [n], the image of each descriptor, in any order.
            progress: anything true shows a progress bar.

        Returns:
            entry by entry, in the order of images and words: codes uint64 [e, L], words uint32 [e], image ids [e].
        """
        descriptors, words = _descriptors(des, self.codebook.dimensions), np.asarray(word_ids)
        ids = image_ids_of(image_ids, len(descriptors))
        images, codes, all_words = [], [], []
        for image, rows in tqdm(list(_by_image(ids)), desc="aggregating", unit="image", disable=not progress):
            aggregated = aggregate(descriptors[rows], words[rows], self.codebook.centroids)
            images.append(np.full(len(aggregated.words), image))
            codes.append(aggregated.codes)
            all_words.append(aggregated.words)
        none = np.empty((0, code_length(self.codebook.dimensions)), np.uint64)
        return np.concatenate(codes or [none]), _joined(all_words, np.uint32), _joined(images, ids.dtype)


def _joined(parts: list[NDArray], dtype: DTypeLike) -> NDArray:
    return np.concatenate(parts) if parts else np.empty(0, dtype)


def _load_codebook(path: Path, size: int) -> AsmkCodebook:
    codebook = AsmkCodebook(load_any_codebook(path).centroids)
    if len(codebook) != size:
        raise IncompatibleError(
            f"{path}: has {len(codebook)} visual words, train_codebook.codebook.size is {size}; change one"
        )
    return codebook


def _learn_codebook(vecs: ArrayLike | None, size: int, cache: Path | None) -> AsmkCodebook:
    if vecs is None:
        raise UsageError(f"no descriptors to learn a codebook from, and none is saved at {cache}")
    descriptors = _finite(np.ascontiguousarray(vecs, np.float32))
    if descriptors.ndim != 2 or len(descriptors) < size:
        raise UsageError(f"{size} visual words need as many descriptors [n, D] at least, not {descriptors.shape}")
    return AsmkCodebook(kmeans(descriptors, size, seed=SEED).centroids)


def _by_image(ids: NDArray[np.integer]) -> Iterator[tuple[np.integer, NDArray[np.intp]]]:
    """The distinct ids, ascending, each with its rows in their order."""
    order = np.argsort(ids, kind="stable")
    distinct, starts = np.unique(ids[order], return_index=True)
    for image, start, end in zip(distinct, starts, [*starts[1:], len(ids)], strict=False):
        yield image, order[start:end]


def _best(scores: NDArray[np.float64], top: int) -> NDArray[np.intp]:
    """The positions of the ``top`` largest scores, largest first, ties by position."""
    candidates = np.arange(len(scores))
    if 0 < top < len(scores):
        # All images that tie for the last place compete for it, and the earliest win.
        candidates = np.flatnonzero(scores >= np.partition(scores, len(scores) - top)[len(scores) - top])
    return candidates[np.argsort(-scores[candidates], kind="stable")][:top]


def _descriptors(vecs: ArrayLike, dimensions: int) -> NDArray[np.float32]:
    """Descriptors as contiguous float32 [n, D]; an empty array of any shape becomes [0, D].

    Raises:
        UsageError: one of them is not finite.
    """
    descriptors = _finite(np.ascontiguousarray(vecs, np.float32))
    return descriptors if descriptors.size else np.empty((0, dimensions), np.float32)


def _finite(descriptors: NDArray[np.float32]) -> NDArray[np.float32]:
    """The descriptors. Raises UsageError, naming the first row, if a component is NaN or infinite."""
    is_finite = np.isfinite(descriptors)
    if not is_finite.all():
        wrong = int(np.argwhere(~is_finite)[0, 0])
        raise UsageError(f"descriptor {wrong} of {len(descriptors)} is not finite")
    return descriptors


def _search_parameters(step_params: Any) -> tuple[AsmkParameters, int | None]:
    """How to compare, and how many images to return (None: all)."""
    parameters = AsmkParameters(
        alpha=_parameter("query_ivf", step_params, "similarity", "alpha"),
        threshold=_parameter("query_ivf", step_params, "similarity", "similarity_threshold"),
        multiple_assignment=_assignments("query_ivf", step_params),
    )
    topk = (step_params.get("search") or {}).get("topk")
    if topk is None:
        return parameters, None
    if not isinstance(topk, int | np.integer) or topk < 1:
        raise UsageError(f"query_ivf.search.topk is {topk!r}: it is a whole number of at least 1, or None for all")
    return parameters, int(topk)


def _assignments(step: str, step_params: Any) -> int:
    value = _parameter(step, step_params, "quantize", "multiple_assignment")
    if not isinstance(value, int | np.integer) or value < 1:
        raise UsageError(f"{step}.quantize.multiple_assignment is {value!r}: it is a whole number of at least 1")
    return int(value)


def _parameter(step: str, step_params: Any, *keys: str) -> Any:
    """A value in asmk's nested parameters. Raises HowlError, with its full name, if it is missing."""
    value = step_params
    for key in keys:
        if not isinstance(value, Mapping) or key not in value:
            raise UsageError(f"parameter {'.'.join((step, *keys))} is missing")
        value = value[key]
    return value
