"""Matching on a GPU against matching on the CPU, to the bit.

Without a GPU the kernels run all the same: compiled for the CPU, one thread after the other (`tests/cuda`).
"""

import importlib.util
import runpy
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime import native
from runtime.asmk.codes import AsmkCodes, AsmkQuery, code_length, pack_signs
from runtime.asmk.gpu import GpuScorer, device, matcher
from runtime.asmk.gpu.device import BINS, Device, load_cupy
from runtime.asmk.gpu.matcher import DeviceFile, Matcher
from runtime.asmk.inverted_file import InvertedFile
from runtime.asmk.kernel import AsmkParameters, selectivity
from runtime.errors import HowlError
from runtime.first_stage import ASMK, Layout
from runtime.gpu import Gpu, find_gpus
from runtime.index import Index

pytestmark = pytest.mark.slow  # the kernels are compiled

StandIn = runpy.run_path(str(Path(__file__).parents[2] / "cuda" / "stand_in.py"))["StandIn"]

SEGMENTS = (120, 9, 1)  # images; descending, so that the index does not merge them
WORDS = 70
EVERY_KIND = [
    AsmkParameters(),
    AsmkParameters(alpha=2.5, threshold=0.25),
    AsmkParameters(threshold=-1),
    AsmkParameters(alpha=1, threshold=-0.2),
    AsmkParameters(threshold=1),
]


@pytest.fixture
def gpu(compiled: Path) -> Any:
    """The stand-in for CuPy, with 1 GiB of memory."""
    return StandIn(compiled)


@pytest.fixture(scope="module", params=["stand-in", pytest.param("a GPU", marks=pytest.mark.gpu)])
def cupy(request: pytest.FixtureRequest) -> Any:
    """The stand-in, and the real CuPy where there is a GPU."""
    if request.param == "stand-in":
        return StandIn(request.getfixturevalue("compiled"))
    if not find_gpus():
        pytest.skip("needs an NVIDIA GPU, none was found")
    return pytest.importorskip("cupy", reason="needs CuPy")


def draw_images(n: int, dimensions: int, seed: int) -> list[AsmkCodes]:
    """Images of up to 40 words out of 70, every tenth without any; every fifth is its predecessor once more.

    Codes of a word are alike.
    """
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(WORDS, dimensions))
    images: list[AsmkCodes] = []
    for i in range(n):
        size = 0 if i % 10 == 7 else int(random.integers(1, 40))
        words = np.sort(random.choice(WORDS, size, replace=False)).astype(np.uint32)
        drawn = AsmkCodes(words, pack_signs(centres[words] + random.normal(size=(size, dimensions))))
        images.append(images[-1] if i % 5 == 4 else drawn)
    return images


def draw_queries(dimensions: int, images: Sequence[AsmkCodes]) -> list[AsmkCodes]:
    """An image of the index, others, one with words that no image has, one without any, and one of a single word."""
    none = AsmkCodes(np.empty(0, np.uint32), np.empty((0, code_length(dimensions)), np.uint64))
    beyond = AsmkCodes(np.array([3, WORDS + 1, 2**32 - 1], np.uint32), images[0].codes[:1].repeat(3, axis=0))
    single = AsmkCodes(images[0].words[:1], images[0].codes[:1])
    return [images[0], *draw_images(5, dimensions, seed=9), beyond, none, single]


def make_index(path: Path, dimensions: int, sizes: Sequence[int] = SEGMENTS) -> tuple[Index, list[AsmkCodes]]:
    """An index of several segments, some of whose images are removed, and all its images."""
    index = Index.create(path, fingerprint="an engine", layout=Layout(ASMK, dimensions))
    images = draw_images(sum(sizes), dimensions, seed=1)
    ids = [f"image{i}" for i in range(len(images))]
    for start, end in pairwise(np.cumsum([0, *sizes]).tolist()):
        index.add(ids[start:end], images[start:end])
    if len(ids) > 10:
        index.remove(ids[2:90:11])
    return index, images


def make_files(dimensions: int) -> tuple[list[InvertedFile], list[NDArray[np.bool_]]]:
    """Inverted files, one of them empty, and the images that compete."""
    images = draw_images(sum(SEGMENTS), dimensions, seed=1)
    parts = [images[start:end] for start, end in pairwise(np.cumsum([0, *SEGMENTS]).tolist())]
    files = [InvertedFile.build(part, dimensions) for part in [*parts[:1], [], *parts[1:]]]
    return files, [np.random.default_rng(2).random(len(file)) < 0.8 for file in files]


def asked(images: Sequence[AsmkCodes], table: NDArray[np.float64]) -> list[AsmkQuery]:
    """The images as queries of a kernel with this similarity table."""
    return [AsmkQuery(*image, table) for image in images]


def make_matcher(cupy: Any, files: Sequence[InvertedFile], live: Sequence[NDArray[np.bool_]]) -> Matcher:
    device = Device(files[0].codes.shape[1], cupy)
    return Matcher(device, [DeviceFile.upload(device, file) for file in files], live)


def best_on_cpu(
    files: Sequence[InvertedFile],
    live: Sequence[NDArray[np.bool_]],
    query: AsmkCodes,
    table: NDArray[np.float64],
    top: int,
) -> list[tuple[float, int]]:
    """Scores and numbers of the best images of several files."""
    hits, first = [], 0
    for file, alive in zip(files, live, strict=True):
        images, scores = file.best(AsmkQuery(*query, table), alive, top)
        hits += zip(scores.tolist(), (images + first).tolist(), strict=True)
        first += len(file)
    return sorted(hits, key=lambda hit: (-hit[0], hit[1]))[:top]


@pytest.mark.parametrize("dimensions", [40, 128, 130, 200])
@pytest.mark.parametrize("asmk", EVERY_KIND, ids=str)
def test_hits_are_those_of_the_index(cupy: Any, tmp_path: Path, dimensions: int, asmk: AsmkParameters) -> None:
    index, images = make_index(tmp_path / "index", dimensions)
    assert len(index.parts()) == len(SEGMENTS)
    table = selectivity(dimensions, asmk)
    scorer = GpuScorer(index, Device(code_length(index.layout.dimensions), cupy))
    queries = draw_queries(dimensions, images)
    for top in (1, 3, 10, 1000):
        expected = [index.search(AsmkQuery(*query, table), top) for query in queries]
        assert scorer.search_many(asked(queries, table), top) == expected
        assert [scorer.search(AsmkQuery(*query, table), top) for query in queries] == expected
    assert expected[0][0].score == pytest.approx(1)
    scores = [hit.score for hit in expected[1]]
    assert asmk.threshold == 1 or len(set(scores)) < len(scores), "there are ties"


def test_totals_are_those_of_the_cpu(cupy: Any) -> None:
    """Negative ones too, which are no hits."""
    files, live = make_files(128)
    table = selectivity(128, AsmkParameters(threshold=-1))
    queries = draw_queries(128, draw_images(1, 128, seed=1))
    searching = make_matcher(cupy, files, live)
    found = searching.totals(searching.load(asked(queries, table))).get()
    expected = [np.concatenate([file._totals(AsmkQuery(*query, table)) for file in files]) for query in queries]
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, expected)
    assert found.min() < 0 < found.max()


@pytest.mark.parametrize("seed", range(8))
def test_the_order_of_the_threads_does_not_matter(gpu: Any, seed: int) -> None:
    files, live = make_files(128)
    table = selectivity(128, AsmkParameters(threshold=-0.1))
    queries = draw_queries(128, draw_images(1, 128, seed=1))
    searching = make_matcher(gpu, files, live)
    in_order = searching.search(asked(queries, table), 10)
    gpu.shuffle = seed
    shuffled = searching.search(asked(queries, table), 10)
    assert [hits.tobytes() for hits in shuffled] == [hits.tobytes() for hits in in_order]
    assert [hits.tolist() for hits in shuffled] == [best_on_cpu(files, live, q, table, 10) for q in queries]


def test_long_lists_are_scored_whole(gpu: Any) -> None:
    """Lists of every length around what the threads of a block take at a time."""
    at_once = 4 * matcher.ENTRY_THREADS
    lengths = [1, matcher.ENTRY_THREADS - 1, matcher.ENTRY_THREADS + 1, at_once - 1, at_once, at_once + 1, 3 * at_once]
    words = [np.array([w for w, n in enumerate(lengths) if i < n], np.uint32) for i in range(max(lengths))]
    random = np.random.default_rng(0)
    images = [AsmkCodes(own, random.integers(0, 2**64, (len(own), 2), np.uint64)) for own in words]
    file, live = InvertedFile.build(images, 128), np.ones(len(images), bool)
    table = selectivity(128, AsmkParameters())
    hits = make_matcher(gpu, [file], [live]).search(asked(images[:3], table), 2000)
    assert [own.tolist() for own in hits] == [best_on_cpu([file], [live], query, table, 2000) for query in images[:3]]


@pytest.mark.parametrize("spare", [0, 40])
def test_more_ties_than_are_collected_are_ranked_on_the_host(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, spare: int
) -> None:
    monkeypatch.setattr(matcher, "SPARE_HITS", spare)
    same, other = draw_images(2, 128, seed=3)
    images = [other, *[same] * 50, other, *[same] * 50]
    files, live = [InvertedFile.build(images, 128)], [np.arange(len(images)) != 5]
    table = selectivity(128, AsmkParameters())
    for top in (1, 2, 30, 60, 200):
        hits = make_matcher(gpu, files, live).search(asked([same, other], table), top)
        assert [own.tolist() for own in hits] == [best_on_cpu(files, live, q, table, top) for q in (same, other)]


def test_the_smallest_and_the_largest_scores_have_bins(gpu: Any) -> None:
    """Scores below the lowest octave share a bin; those that weights above 1 give are no reason to fail."""
    random = np.random.default_rng(0)
    images = [AsmkCodes(np.array([i % 3], np.uint32), random.integers(0, 2**64, (1, 1), np.uint64)) for i in range(60)]
    files, live = [InvertedFile.build(images, 64)], [np.ones(60, bool)]
    for exponent in (-40, -36, -31, -20, 0, 5):
        table = 2.0**exponent * np.arange(1, 66)
        for top in (1, 7, 100):
            hits = make_matcher(gpu, files, live).search(asked(images[:3], table), top)
            assert [own.tolist() for own in hits] == [best_on_cpu(files, live, q, table, top) for q in images[:3]]


def test_few_images_are_collected_beyond_those_asked_for(gpu: Any) -> None:
    """A bin is less than a hundredth wide."""
    files, live = make_files(128)
    query, table = draw_images(1, 128, seed=1)[0], selectivity(128, AsmkParameters())
    searching = make_matcher(gpu, files, live)
    batch = searching.load(asked([query], table))
    found = searching.collect(batch, searching.totals(batch), 10).found.get().item()
    scores = [score for score, _ in best_on_cpu(files, live, query, table, 1000)]
    assert 10 <= found <= sum(score > 0.99 * scores[9] for score in scores) < len(scores)


def test_a_batch_is_one_launch(gpu: Any) -> None:
    files, live = make_files(40)
    searching = make_matcher(gpu, files, live)
    queries = draw_images(matcher.MAX_QUERIES + 1, 40, seed=4)
    searching.search(asked(queries[: matcher.MAX_QUERIES], selectivity(40, AsmkParameters())), 3)
    assert gpu.launches == ["add_weights", "count_hits", "find_lowest", "collect_hits"]
    searching.search(asked(queries, selectivity(40, AsmkParameters())), 3)
    assert gpu.launches.count("add_weights") == 3


def test_batches_are_as_large_as_the_memory_allows(compiled: Path) -> None:
    files, live = make_files(40)
    table, queries = selectivity(40, AsmkParameters()), draw_images(20, 40, seed=4)
    taken = make_matcher(large := StandIn(compiled), files, live)._device.cupy.taken
    small = StandIn(compiled, memory=taken + 12 * matcher.search_bytes(sum(SEGMENTS), top=3) + 20_000)
    hits = make_matcher(small, files, live).search(asked(queries, table), 3)
    assert small.launches.count("add_weights") == 4
    expected = make_matcher(large, files, live).search(asked(queries, table), 3)
    assert [own.tolist() for own in hits] == [own.tolist() for own in expected]


def test_an_index_without_images_has_no_hits(gpu: Any, tmp_path: Path) -> None:
    index, _ = make_index(tmp_path / "index", 40, sizes=())
    scorer = GpuScorer(index, Device(1, gpu))
    table = selectivity(40, AsmkParameters())
    assert scorer.search_many(asked(draw_images(3, 40, seed=0), table), 10) == [[], [], []]
    assert scorer.search_many([], 10) == []
    index.add(["a"], [AsmkCodes(np.empty(0, np.uint32), np.empty((0, 1), np.uint64))])
    scorer.refresh()
    assert scorer.search_many(asked(draw_images(3, 40, seed=0), table), 10) == [[], [], []]


def test_nothing_is_asked_for_nothing_is_found(gpu: Any) -> None:
    files, live = make_files(40)
    searching = make_matcher(gpu, files, live)
    queries = draw_images(2, 40, seed=1)
    assert [len(hits) for hits in searching.search(asked(queries, selectivity(40, AsmkParameters())), 0)] == [0, 0]
    assert [len(hits) for hits in searching.search(asked(queries, np.zeros(41)), 5)] == [0, 0]
    assert searching.search(asked([], selectivity(40, AsmkParameters())), 5) == []


def test_codes_of_another_length_are_refused(gpu: Any) -> None:
    files, live = make_files(40)
    with pytest.raises(ValueError, match="expected codes of 1 uint64 words"):
        make_matcher(gpu, files, live).search(asked(draw_images(2, 128, seed=1), selectivity(128, AsmkParameters())), 5)


def test_large_arrays_go_to_the_gpu_in_pieces(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces: list[int] = []
    monkeypatch.setattr(device, "CHUNK_BYTES", 100)
    monkeypatch.setattr(np, "ascontiguousarray", lambda array: pieces.append(array.nbytes) or np.array(array))
    array = np.arange(33 * 3, dtype=np.uint64).reshape(33, 3)
    np.testing.assert_array_equal(Device(1, gpu).upload(array).get(), array)
    assert pieces == [96] * 8 + [24]


def test_refreshing_uploads_only_what_is_new(gpu: Any, tmp_path: Path) -> None:
    index, images = make_index(tmp_path / "index", 40)
    table, queries = selectivity(40, AsmkParameters()), draw_queries(40, images)
    scorer = GpuScorer(index, Device(1, gpu))
    first = [id(file) for file in scorer._files]

    def found() -> list[list[tuple[str, float]]]:
        return [[(hit.id, hit.score) for hit in hits] for hits in scorer.search_many(asked(queries, table), 50)]

    before = found()
    with_another = Index(index.path)
    with_another.remove(["image0"])
    with_another.add(["new"], images[:1])
    assert found() == before, "the commit that was uploaded"
    scorer.refresh()
    assert [id(file) for file in scorer._files[:3]] == first
    assert [hit.id for hit in scorer.search(AsmkQuery(*images[0], table), 1)] == ["new"]
    index.compact()
    scorer.refresh()
    assert scorer.search_many(asked(queries, table), 50) == [
        index.search(AsmkQuery(*query, table), 50) for query in queries
    ]
    assert gpu.taken == taken_by_a_new_scorer(gpu, index), "what was compacted away is freed"


def taken_by_a_new_scorer(gpu: Any, index: Index) -> int:
    before = gpu.taken
    scorer = GpuScorer(index, Device(code_length(index.layout.dimensions), gpu))
    taken = gpu.taken - before
    del scorer
    return taken


def test_an_index_that_does_not_fit_is_refused_with_both_sizes(compiled: Path, tmp_path: Path) -> None:
    index, _ = make_index(tmp_path / "index", 128)
    small = StandIn(compiled, memory=40_000)
    with pytest.raises(HowlError, match=r"index: needs 0\.00 GB of the GPU's memory, and 0\.00 GB are free"):
        GpuScorer(index, Device(2, small))
    assert small.taken == 0


def test_searches_go_on_where_a_commit_does_not_fit(compiled: Path, tmp_path: Path) -> None:
    index, images = make_index(tmp_path / "index", 40, sizes=(20,))
    table = selectivity(40, AsmkParameters())
    scorer = GpuScorer(index, Device(1, StandIn(compiled, memory=60_000)))
    before = scorer.search(AsmkQuery(*images[0], table), 10)
    index.add([f"new{i}" for i in range(500)], draw_images(500, 40, seed=5))
    with pytest.raises(HowlError, match="are free: end what else uses the GPU, or search on the CPU"):
        scorer.refresh()
    assert scorer.search(AsmkQuery(*images[0], table), 10) == before


def test_memory_that_others_took_meanwhile_is_said_to_be_full(gpu: Any, tmp_path: Path) -> None:
    """After a failed upload there are no answers, rather than wrong ones."""
    index, images = make_index(tmp_path / "index", 40, sizes=(20,))
    table = selectivity(40, AsmkParameters())
    scorer = GpuScorer(index, Device(1, gpu))
    index.add(["new"], images[:1])
    size, gpu._size = gpu._size, gpu.taken + 100
    gpu.cuda.runtime.memGetInfo = lambda: (size, size)
    with pytest.raises(HowlError, match=r"the GPU's memory is full \(out of memory allocating"):
        scorer.refresh()
    with pytest.raises(HowlError, match="index: its last upload to the GPU failed; refresh it, or search on the CPU"):
        scorer.search(AsmkQuery(*images[0], table), 3)
    gpu._size = size
    scorer.refresh()
    assert scorer.search(AsmkQuery(*images[0], table), 3) == index.search(AsmkQuery(*images[0], table), 3)


def test_damaged_entries_are_refused(gpu: Any, tmp_path: Path) -> None:
    """A kernel would write beyond the totals. Opening an index does not read its entries."""
    index, _ = make_index(tmp_path / "index", 40, sizes=(20,))
    file = next(index.path.glob("*/images.npy"))
    file.write_bytes(file.read_bytes()[:-2] + b"\xff\xff")
    with pytest.raises(HowlError, match=r"index: damaged \(entries name images beyond the 20 of the file\); "):
        GpuScorer(Index(index.path), Device(1, gpu))


def test_without_a_gpu_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "find_gpus", lambda: [])
    with pytest.raises(HowlError, match="needs an NVIDIA GPU, and none was found: search on the CPU"):
        load_cupy()


@pytest.mark.parametrize("error", [ModuleNotFoundError("No module named 'cupy'"), OSError("libnvrtc.so:\nnot found")])
def test_without_cupy_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(name: str) -> ModuleType:
        raise error

    monkeypatch.setattr(device, "find_gpus", lambda: [Gpu("Test GPU", (9, 0))])
    monkeypatch.setattr(device, "import_module", fail)
    with pytest.raises(HowlError, match=r"needs CuPy \([^\n]*\): in howl's folder, pip install '\.\[gpu-search\]', or"):
        load_cupy()


def test_a_cupy_that_does_not_run_is_one_line(gpu: Any) -> None:
    def fail(**_: object) -> SimpleNamespace:
        raise RuntimeError("cudaErrorInsufficientDriver: CUDA driver version is insufficient\nfor CUDA runtime version")

    gpu.RawModule = fail
    with pytest.raises(HowlError, match=r"^CuPy cannot use the GPU \(cudaErrorInsufficientDriver[^\n]*$"):
        Device(2, gpu)


def test_importing_needs_neither_cupy_nor_a_gpu() -> None:
    assert "cupy" not in sys.modules or importlib.util.find_spec("cupy")
    assert BINS == 32 * 128
    assert native.HIT.itemsize == 16
