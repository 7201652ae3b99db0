"""The ``asmk`` package's public names on top of this engine: its users change one import.

    from runtime import asmk_method                           # from asmk import asmk_method
    from runtime import asmk_method, asmk_method as kern_pkg  # from asmk import asmk_method, kernel as kern_pkg
    from runtime.asmk_method import ASMKMethod, io_helpers    # from asmk import ASMKMethod, io_helpers

Code that patches ``asmk.index`` for machines without a GPU (MASt3R's) can drop the patch: nothing here needs faiss.

Parameters, steps, metadata and scores are asmk 0.1.1's (https://github.com/jenicek/asmk), with these differences:

- Only binary codes without IDF weights; ``index.gpu_id`` is ignored, with a warning.
- A ``cache_path`` may hold what asmk saved there. What is saved is ours: a codebook as .npy, an IVF as the folder of an
  index. Images may be added to an IVF that was loaded; a pickle then becomes a folder, and is kept as ``PATH.asmk``.
- Image ids may come in any order, and an image's rows may be scattered; an image is added once. Ids are whole numbers
  below 2⁶³. As in asmk, every number up to the largest is ranked; where more than 65,536 of them have no image, only
  images are, so that ids can be times.
- Distractors are ranked under the numbers that follow the images', never under negative ones.
- Descriptors of any dimension are compared over as many bits as they have, not over the next multiple of 32.
- Equal scores are ranked by number. With a threshold below 0, similarities keep their sign for any alpha.
"""

import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from runtime.asmk.codebook import kmeans
from runtime.asmk.kernel import AsmkKernel, AsmkParameters
from runtime.asmk_method.ivf import Ivf, image_ids_of, topk_of
from runtime.asmk_method.kernel import AsmkCodebook, ASMKKernel, by_image, descriptors_of, finite
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
        codebook: AsmkCodebook | None = None,
        kernel: ASMKKernel | None = None,
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
        """Learns the codebook by k-means, or loads it. Warns of ``index.gpu_id``, which is ignored.

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
        _warn_of_gpu(self.params)
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
                distractors' follow the largest image's.
            scores: float64 [q, r], of ``ranks``.
        """
        if self.codebook is None or self.inverted_file is None:
            raise UsageError("there is no inverted file to query; call build_ivf first")
        search, topk = _search_parameters(step_params or self.params.get("query_ivf"))
        kernel = AsmkKernel(self.codebook, search)
        begin = time.perf_counter()
        descriptors = descriptors_of(qvecs, self.codebook.dimensions)
        ids = image_ids_of(qimids, len(descriptors))
        queries = list(by_image(ids))
        columns = len(self.inverted_file) if topk is None else min(topk, len(self.inverted_file))
        ranks, scores = np.empty((len(queries), columns), np.int64), np.empty((len(queries), columns))
        for row, (_, rows) in enumerate(tqdm(queries, desc="querying", unit="image", disable=not progress)):
            codes = kernel.encode(descriptors[rows], search.multiple_assignment)
            ranks[row], scores[row] = self.inverted_file.best(self.inverted_file.scores(kernel.query(codes)), topk)
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
        codebook: AsmkCodebook,
        kernel: ASMKKernel,
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
            HowlError: an image was added before, an id is out of range, or the arrays do not fit.
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


def _warn_of_gpu(params: Mapping[str, Any]) -> None:
    gpu = (params.get("index") or {}).get("gpu_id")
    if gpu is not None:
        warnings.warn(
            f"index.gpu_id is {gpu!r} and is ignored: visual words are learned and assigned on the CPU; "
            "set it to None, or assign words on a GPU yourself and give them to kernel.aggregate",
            RuntimeWarning,
            stacklevel=3,
        )


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
    descriptors = finite(vecs)
    if descriptors.ndim != 2 or len(descriptors) < size:
        raise UsageError(f"{size} visual words need as many descriptors [n, D] at least, not {descriptors.shape}")
    return AsmkCodebook(kmeans(descriptors, size, seed=SEED).centroids)


def _search_parameters(step_params: Any) -> tuple[AsmkParameters, int | None]:
    """How to compare, and how many images to return (None: all)."""
    parameters = AsmkParameters(
        alpha=_parameter("query_ivf", step_params, "similarity", "alpha"),
        threshold=_parameter("query_ivf", step_params, "similarity", "similarity_threshold"),
        multiple_assignment=_assignments("query_ivf", step_params),
    )
    return parameters, topk_of((step_params.get("search") or {}).get("topk"), "query_ivf.search.topk")


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
