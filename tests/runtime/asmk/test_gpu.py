"""Matching on a GPU against matching on the CPU, to the bit.

Without a GPU the kernels run all the same: compiled for the CPU, one thread after the other (`tests/cuda`).
"""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime import native
from runtime.asmk.codes import AsmkCodes, AsmkQuery, code_length, pack_signs
from runtime.asmk.gpu import GpuScorer, matcher
from runtime.asmk.gpu.matcher import DeviceFile, Matcher, Scoring
from runtime.asmk.inverted_file import InvertedFile
from runtime.asmk.kernel import AsmkParameters, selectivity
from runtime.errors import DeviceError, HowlError, IncompatibleError, UnknownIdError
from runtime.first_stage import ASMK, VECTORS, Layout
from runtime.gpu.device import Device
from runtime.index import Hit, Index

from ...cuda.stand_in import StandIn

pytestmark = pytest.mark.slow  # the kernels are compiled

SEGMENTS = (120, 9, 1)  # images; descending, so that the index does not merge them
WORDS = 70
EVERY_KIND = [
    AsmkParameters(),
    AsmkParameters(alpha=2.5, threshold=0.25),
    AsmkParameters(threshold=-1),
    AsmkParameters(alpha=1, threshold=-0.2),
    AsmkParameters(threshold=1),
]


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
    files = [InvertedFile.build(part, Layout(ASMK, dimensions)) for part in [*parts[:1], [], *parts[1:]]]
    return files, [np.random.default_rng(2).random(len(file)) < 0.8 for file in files]


def asked(images: Sequence[AsmkCodes], table: NDArray[np.float64]) -> list[AsmkQuery]:
    """The images as queries of a kernel with this similarity table."""
    return [AsmkQuery(*image, table) for image in images]


def make_matcher(device: Device, files: Sequence[InvertedFile], live: Sequence[NDArray[np.bool_]]) -> Matcher:
    scoring = Scoring(device, files[0].codes.shape[1])
    return Matcher(scoring, [DeviceFile.upload(device, file) for file in files], live)


def searched(index: Index, queries: Sequence[AsmkCodes], table: NDArray[np.float64], top: int) -> list[list[Hit]]:
    """What the CPU finds."""
    return [index.search(AsmkQuery(*query, table), top) for query in queries]


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
def test_hits_are_those_of_the_index(device: Device, tmp_path: Path, dimensions: int, asmk: AsmkParameters) -> None:
    index, images = make_index(tmp_path / "index", dimensions)
    assert len(index.parts()) == len(SEGMENTS)
    table = selectivity(dimensions, asmk)
    scorer = GpuScorer(index, device)
    queries = draw_queries(dimensions, images)
    for top in (1, 3, 10, 1000):
        expected = searched(index, queries, table, top)
        assert scorer.search_many(asked(queries, table), top) == expected
        assert [scorer.search(AsmkQuery(*query, table), top) for query in queries] == expected
    assert expected[0][0].score == pytest.approx(1)
    scores = [hit.score for hit in expected[1]]
    assert asmk.threshold == 1 or len(set(scores)) < len(scores), "there are ties"


def test_totals_are_those_of_the_cpu(device: Device) -> None:
    """Negative ones too, which are no hits."""
    files, live = make_files(128)
    table = selectivity(128, AsmkParameters(threshold=-1))
    queries = draw_queries(128, draw_images(1, 128, seed=1))
    searching = make_matcher(device, files, live)
    found = device.download(searching.totals(searching.load(asked(queries, table))))
    expected = [np.concatenate([file._totals(AsmkQuery(*query, table)) for file in files]) for query in queries]
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, expected)
    assert found.min() < 0 < found.max()


@pytest.mark.parametrize("seed", range(8))
def test_the_order_of_the_threads_does_not_matter(gpu: StandIn, seed: int) -> None:
    files, live = make_files(128)
    table = selectivity(128, AsmkParameters(threshold=-0.1))
    queries = draw_queries(128, draw_images(1, 128, seed=1))
    searching = make_matcher(Device("a test"), files, live)
    in_order = searching.search(asked(queries, table), 10)
    gpu.shuffle = seed
    shuffled = searching.search(asked(queries, table), 10)
    assert [hits.tobytes() for hits in shuffled] == [hits.tobytes() for hits in in_order]
    assert [hits.tolist() for hits in shuffled] == [best_on_cpu(files, live, q, table, 10) for q in queries]


def test_long_lists_are_scored_whole(device: Device) -> None:
    """Lists of every length around what the threads of a block take at a time."""
    at_once = 4 * matcher.ENTRY_THREADS
    lengths = [1, matcher.ENTRY_THREADS - 1, matcher.ENTRY_THREADS + 1, at_once - 1, at_once, at_once + 1, 3 * at_once]
    words = [np.array([w for w, n in enumerate(lengths) if i < n], np.uint32) for i in range(max(lengths))]
    random = np.random.default_rng(0)
    images = [AsmkCodes(own, random.integers(0, 2**64, (len(own), 2), np.uint64)) for own in words]
    file, live = InvertedFile.build(images, Layout(ASMK, 128)), np.ones(len(images), bool)
    table = selectivity(128, AsmkParameters())
    hits = make_matcher(device, [file], [live]).search(asked(images[:3], table), 2000)
    assert [own.tolist() for own in hits] == [best_on_cpu([file], [live], query, table, 2000) for query in images[:3]]


@pytest.mark.parametrize("spare", [0, 40])
def test_more_ties_than_are_collected_are_ranked_on_the_host(
    device: Device, monkeypatch: pytest.MonkeyPatch, spare: int
) -> None:
    monkeypatch.setattr(matcher, "SPARE_HITS", spare)
    same, other = draw_images(2, 128, seed=3)
    images = [other, *[same] * 50, other, *[same] * 50]
    files, live = [InvertedFile.build(images, Layout(ASMK, 128))], [np.arange(len(images)) != 5]
    table = selectivity(128, AsmkParameters())
    for top in (1, 2, 30, 60, 200):
        hits = make_matcher(device, files, live).search(asked([same, other], table), top)
        assert [own.tolist() for own in hits] == [best_on_cpu(files, live, q, table, top) for q in (same, other)]


def test_the_smallest_and_the_largest_scores_have_bins(device: Device) -> None:
    """Scores below the lowest octave share a bin; those that weights above 1 give are no reason to fail."""
    random = np.random.default_rng(0)
    images = [AsmkCodes(np.array([i % 3], np.uint32), random.integers(0, 2**64, (1, 1), np.uint64)) for i in range(60)]
    files, live = [InvertedFile.build(images, Layout(ASMK, 64))], [np.ones(60, bool)]
    for exponent in (-40, -36, -31, -20, 0, 5):
        table = 2.0**exponent * np.arange(1, 66)
        for top in (1, 7, 100):
            hits = make_matcher(device, files, live).search(asked(images[:3], table), top)
            assert [own.tolist() for own in hits] == [best_on_cpu(files, live, q, table, top) for q in images[:3]]


def test_few_images_are_collected_beyond_those_asked_for(device: Device) -> None:
    """A bin is less than a hundredth wide."""
    files, live = make_files(128)
    query, table = draw_images(1, 128, seed=1)[0], selectivity(128, AsmkParameters())
    searching = make_matcher(device, files, live)
    batch = searching.load(asked([query], table))
    found = device.download(searching.collect(batch, searching.totals(batch), 10).found).item()
    scores = [score for score, _ in best_on_cpu(files, live, query, table, 1000)]
    assert 10 <= found <= sum(score > 0.99 * scores[9] for score in scores) < len(scores)


def test_a_batch_is_one_launch(gpu: StandIn) -> None:
    files, live = make_files(40)
    searching = make_matcher(Device("a test"), files, live)
    queries = draw_images(matcher.MAX_QUERIES + 1, 40, seed=4)
    searching.search(asked(queries[: matcher.MAX_QUERIES], selectivity(40, AsmkParameters())), 3)
    assert gpu.launches == ["add_weights", "count_hits", "find_lowest", "collect_hits"]
    searching.search(asked(queries, selectivity(40, AsmkParameters())), 3)
    assert gpu.launches.count("add_weights") == 3


def test_batches_are_as_large_as_the_memory_allows(gpu: StandIn) -> None:
    files, live = make_files(40)
    table, queries = selectivity(40, AsmkParameters()), draw_queries(40, draw_images(1, 40, seed=1)) * 3
    searching = make_matcher(Device("a test"), files, live)
    expected = searching.search(asked(queries, table), 3)
    assert gpu.launches.count("add_weights") == 1

    gpu.memory = gpu.taken() + 12 * matcher.search_bytes(sum(SEGMENTS), top=3) + 20_000
    searching = None
    hits = make_matcher(Device("a test"), files, live).search(asked(queries, table), 3)
    assert gpu.launches.count("add_weights") == 1 + -(-len(queries) // 6), "half of the memory is left to others"
    assert [own.tolist() for own in hits] == [own.tolist() for own in expected]


def test_an_index_without_images_has_no_hits(device: Device, tmp_path: Path) -> None:
    index, _ = make_index(tmp_path / "index", 40, sizes=())
    scorer = GpuScorer(index, device)
    queries = asked(draw_images(3, 40, seed=0), selectivity(40, AsmkParameters()))
    assert scorer.search_many(queries, 10) == [[], [], []]
    assert scorer.search_many([], 10) == []
    index.add(["a"], [AsmkCodes(np.empty(0, np.uint32), np.empty((0, 1), np.uint64))])
    assert scorer.search_many(queries, 10) == [[], [], []]


def test_nothing_is_asked_for_nothing_is_found(device: Device) -> None:
    files, live = make_files(40)
    searching = make_matcher(device, files, live)
    queries = draw_images(2, 40, seed=1)
    assert [len(hits) for hits in searching.search(asked(queries, selectivity(40, AsmkParameters())), 0)] == [0, 0]
    assert [len(hits) for hits in searching.search(asked(queries, np.zeros(41)), 5)] == [0, 0]
    assert searching.search(asked([], selectivity(40, AsmkParameters())), 5) == []


def test_codes_of_another_length_are_refused(device: Device) -> None:
    files, live = make_files(40)
    with pytest.raises(ValueError, match="expected codes of 1 uint64 words"):
        make_matcher(device, files, live).search(
            asked(draw_images(2, 128, seed=1), selectivity(128, AsmkParameters())), 5
        )


# ------------------------------------------------------------------------------------------------- a search among some


def some_ids(index: Index) -> list[str]:
    """Of all segments, one of them removed."""
    return [*index.ids()[::3], "image13"]


@pytest.mark.parametrize("top", [1, 5, 1000])
def test_a_search_among_some_images_finds_those_of_the_index(device: Device, tmp_path: Path, top: int) -> None:
    index, images = make_index(tmp_path / "index", 40)
    table, some = selectivity(40, AsmkParameters()), some_ids(index)
    live = [id_ for id_ in some if id_ in set(index.ids())]
    assert len(live) < len(some)
    scorer = GpuScorer(index, device)
    for query in asked(draw_queries(40, images), table):
        for choice in ({"only": live}, {"exclude": some}, {"only": live, "exclude": live[1::2]}, {"only": []}):
            expected = index.search(query, top, **choice)
            assert scorer.search(query, top, **choice) == expected
            assert scorer.search_many([query, query], top, **choice) == [expected, expected]
        assert scorer.search(query, top) == index.search(query, top), "the next search is among all"


def test_more_ties_than_are_collected_are_still_only_among_some(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matcher, "SPARE_HITS", 0)
    index, images = make_index(tmp_path / "index", 40, sizes=())[0], draw_images(1, 40, seed=3) * 50
    index.add([f"image{i}" for i in range(50)], images)
    query = asked(images[:1], selectivity(40, AsmkParameters()))[0]
    found = GpuScorer(index, device).search(query, 3, exclude=["image0", "image2"])
    assert [hit.id for hit in found] == ["image1", "image3", "image4"]


def test_wrong_arguments_are_those_of_the_index(device: Device, tmp_path: Path) -> None:
    index, images = make_index(tmp_path / "index", 40, sizes=(20,))
    scorer = GpuScorer(index, device)
    query = asked(images[:1], selectivity(40, AsmkParameters()))[0]
    with pytest.raises(UnknownIdError):
        scorer.search(query, 3, only=["nobody"])
    assert scorer.search(query, 3, exclude=["nobody"]) == index.search(query, 3)
    for top, wrong in [(0, {}), (3, {"only": "image1"}), (3, {"exclude": ""}), (3, {"exclude": np.array(["image1"])})]:
        with pytest.raises(HowlError) as by_index:
            index.search(query, top, **wrong)
        with pytest.raises(HowlError) as by_gpu:
            scorer.search(query, top, **wrong)
        assert (type(by_gpu.value), str(by_gpu.value)) == (type(by_index.value), str(by_index.value))


# ----------------------------------------------------------------------------------------------- following the index


def test_a_scorer_follows_its_index(device: Device, tmp_path: Path) -> None:
    """Through additions, removals and compaction; those of another process once the index has loaded them."""
    index, images = make_index(tmp_path / "index", 40)
    table, queries = selectivity(40, AsmkParameters()), draw_queries(40, images)
    scorer = GpuScorer(index, device)
    before = searched(index, queries, table, 50)
    elsewhere = Index(index.path)
    elsewhere.remove(["image0"])
    elsewhere.add(["new"], images[:1])
    assert scorer.search_many(asked(queries, table), 50) == before
    index.refresh()
    assert scorer.search(AsmkQuery(*images[0], table), 1)[0].id == "new"
    for change in (
        lambda: None,
        lambda: index.add(["newer", "newest"], images[1:3]),
        lambda: index.remove(["new", "image1"]),
        index.compact,
        lambda: index.remove(index.ids()),
    ):
        change()
        assert scorer.search_many(asked(queries, table), 50) == searched(index, queries, table, 50)


def test_only_what_is_new_is_uploaded(gpu: StandIn, tmp_path: Path) -> None:
    index, images = make_index(tmp_path / "index", 40)
    query = asked(images[:1], selectivity(40, AsmkParameters()))[0]
    scorer = GpuScorer(index, Device("a test"))

    def copied_by_a_search() -> int:
        before = gpu.calls["cudaMemcpyAsync"]
        scorer.search(query, 3)
        return gpu.calls["cudaMemcpyAsync"] - before

    of_a_query = copied_by_a_search()
    index.remove(["image1"])
    of_a_commit = copied_by_a_search() - of_a_query
    assert of_a_commit == 2, "the images that compete, and where the files are"
    index.add(["new"], images[:1])
    assert copied_by_a_search() == of_a_query + of_a_commit + 3, "codes, images and offsets of one file"
    assert copied_by_a_search() == of_a_query


def test_what_is_compacted_away_is_freed(gpu: StandIn, tmp_path: Path) -> None:
    index, images = make_index(tmp_path / "index", 40)
    query = asked(images[:1], selectivity(40, AsmkParameters()))[0]
    scorer = GpuScorer(index, Device("a test"))
    before = gpu.taken()
    index.remove(index.ids()[5:])
    index.compact()
    scorer.search(query, 3)
    assert gpu.taken() < before
    after, again = gpu.taken(), GpuScorer(index, Device("another"))
    assert gpu.taken() == 2 * after, "as much as a new scorer takes"
    del scorer, again
    assert gpu.taken() == 0


def test_the_room_of_what_is_compacted_away_counts(gpu: StandIn, tmp_path: Path) -> None:
    """There is none for both of the segments, and searches need not end in between."""
    index, images = make_index(tmp_path / "index", 40, sizes=(1000,))
    query = asked(images[:1], selectivity(40, AsmkParameters()))[0]
    scorer = GpuScorer(index, Device("a test"))
    gpu.memory = gpu.taken() + matcher.search_bytes(1000, top=3) + 20_000
    scorer.search(query, 3)
    index.remove(index.ids()[::5])
    index.compact()
    assert scorer.search(query, 3) == index.search(query, 3)


def test_threads_upload_a_commit_once(gpu: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index, images = make_index(tmp_path / "index", 40, sizes=(20,))
    query = asked(images[:1], selectivity(40, AsmkParameters()))[0]
    scorer = GpuScorer(index, Device("a test"))
    index.add(["new"], images[:1])
    uploads: list[InvertedFile] = []
    upload = DeviceFile.upload

    def slowly(device: Device, file: InvertedFile) -> DeviceFile:
        uploads.append(file)
        time.sleep(0.05)
        return upload(device, file)

    monkeypatch.setattr(DeviceFile, "upload", slowly)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: scorer.search(query, 3), range(4)))
    assert len(uploads) == 1
    assert found == [index.search(query, 3)] * 4


def test_threads_search_while_the_index_changes(device: Device, tmp_path: Path) -> None:
    """Every search sees one commit whole: of two images that are added together, both or none."""
    index, images = make_index(tmp_path / "index", 40, sizes=(60,))
    query = asked(images[:1], selectivity(40, AsmkParameters()))[0]
    scorer = GpuScorer(index, device)
    with ThreadPoolExecutor(3) as pool:
        searches = [pool.submit(scorer.search, query, 1000) for _ in range(30)]
        for i in range(8):
            index.add([f"first{i}", f"second{i}"], [images[0], images[0]])
        found = [{hit.id for hit in search.result()} for search in searches]
    assert all(
        {f"first{i}", f"second{i}"} & ids in (set(), {f"first{i}", f"second{i}"}) for ids in found for i in range(8)
    )
    assert scorer.search(query, 1000) == index.search(query, 1000)


# -------------------------------------------------------------------------------------------------------------- errors


def test_an_index_that_does_not_fit_is_refused_with_both_sizes(gpu: StandIn, tmp_path: Path) -> None:
    index, _ = make_index(tmp_path / "index", 128)
    gpu.memory = 40_000
    with pytest.raises(DeviceError, match=r"index: needs 0\.00 GB of the GPU's memory, and 0\.00 GB are free: .* CPU$"):
        GpuScorer(index, Device("a test"))
    assert gpu.taken() == 0


def test_a_commit_that_does_not_fit_is_an_error_until_there_is_room(gpu: StandIn, tmp_path: Path) -> None:
    """Rather than answers from an index that is no more."""
    index, images = make_index(tmp_path / "index", 40, sizes=(20,))
    query = asked(images[:1], selectivity(40, AsmkParameters()))[0]
    scorer = GpuScorer(index, Device("a test"))
    gpu.memory = 60_000
    before = scorer.search(query, 10)
    index.add(ids := [f"new{i}" for i in range(500)], draw_images(500, 40, seed=5))
    for _ in range(2):
        with pytest.raises(DeviceError, match="are free: end what else uses the GPU, or search on the CPU"):
            scorer.search(query, 10)
    index.remove(ids)
    index.compact()
    assert scorer.search(query, 10) == before


@pytest.mark.parametrize("function", ["cudaMallocAsync", "cudaMemcpyAsync"])
def test_a_failed_upload_is_tried_again_at_the_next_search(gpu: StandIn, tmp_path: Path, function: str) -> None:
    index, images = make_index(tmp_path / "index", 40, sizes=(20,))
    query = asked(images[:1], selectivity(40, AsmkParameters()))[0]
    scorer = GpuScorer(index, Device("a test"))
    index.add(["new"], images[:1])
    gpu.failing = {function}
    for _ in range(2):
        with pytest.raises(DeviceError, match=r"^a test: the GPU"):
            scorer.search(query, 3)
    gpu.failing = set()
    assert scorer.search(query, 3) == index.search(query, 3)
    fresh = GpuScorer(index, Device("another"))
    taken = gpu.taken()
    del fresh
    assert gpu.taken() == taken / 2, "what the failed uploads left is freed"


def test_damaged_entries_are_refused(device: Device, tmp_path: Path) -> None:
    """A kernel would write beyond the totals. Opening an index does not read its entries."""
    index, _ = make_index(tmp_path / "index", 40, sizes=(20,))
    file = next(index.path.glob("*/images.npy"))
    file.write_bytes(file.read_bytes()[:-2] + b"\xff\xff")
    with pytest.raises(HowlError, match=r"index: damaged \(entries name images beyond the 20 of the file\); "):
        GpuScorer(Index(index.path), device)


def test_an_index_of_vectors_is_refused(device: Device, tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index", fingerprint="an engine", layout=Layout(VECTORS, 8))
    with pytest.raises(IncompatibleError, match=r"index: holds .*, and a GPU matches ASMK's codes only"):
        GpuScorer(index, device)


def test_errors_name_the_index_whose_scorer_opened_the_gpu(gpu: StandIn, tmp_path: Path) -> None:
    index, _ = make_index(tmp_path / "index", 40, sizes=(20,))
    gpu.failing = {"cuLaunchKernel"}
    with pytest.raises(DeviceError, match=r"^.*index: matching: the GPU failed in cuLaunchKernel"):
        GpuScorer(index).search(asked(draw_images(1, 40, seed=1), selectivity(40, AsmkParameters()))[0], 3)


def test_hits_have_the_layout_of_the_kernels() -> None:
    assert matcher.BINS == 32 * 128
    assert native.HIT.itemsize == 16
