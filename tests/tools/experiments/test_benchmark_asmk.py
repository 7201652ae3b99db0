"""The benchmark of ASMK: what it makes, what it measures, and the whole of it without the package asmk."""

import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from runtime.asmk.codes import AsmkCodes
from runtime.errors import DependencyError
from runtime.index import Index
from tools.experiments import benchmark_asmk
from tools.experiments.asmk_benchmark import measuring, sides
from tools.experiments.asmk_benchmark.comparison import compare
from tools.experiments.asmk_benchmark.sides import Answer
from tools.experiments.asmk_benchmark.workload import (
    MATCHES,
    Size,
    Workload,
    image_id,
    image_number,
    make_workload,
)

WORDS = 200


@pytest.fixture(scope="module")
def workload(tmp_path_factory: pytest.TempPathFactory) -> Workload:
    size = Size(images=300, queries=2, words=WORDS, seed=7)
    return make_workload(tmp_path_factory.mktemp("made") / "workload", size, threads=1)


def test_a_workload_is_made_of_images_and_planted_matches(workload: Workload) -> None:
    images = workload.aggregated(0, 300)
    assert [len(image.words) for image in images] == workload.word_counts.tolist()
    assert all((np.diff(image.words.astype(int)) > 0).all() for image in images)
    assert workload.centroids.shape == (WORDS, 128)
    assert len(workload.queries) == 2
    assert workload.matches(1).tolist() == list(range(MATCHES, 2 * MATCHES))
    assert workload.list_lengths(300).sum() == workload.entries(300) == len(workload.codes)
    assert workload.statistics(300)["imbalance"] >= 1


def test_built_images_are_the_first_of_the_workload(workload: Workload) -> None:
    """Their words are those that the workload holds for them."""
    built = workload.built()
    words = np.split(built.words, np.cumsum(built.counts)[:-1])
    for own, image in zip(words[:20], workload.aggregated(0, 20), strict=True):
        np.testing.assert_array_equal(np.unique(own), image.words)


@pytest.mark.slow
def test_the_same_seed_makes_the_same_workload(workload: Workload, tmp_path: Path) -> None:
    again = make_workload(tmp_path / "again", Size(images=300, queries=2, words=WORDS, seed=7), threads=2)
    np.testing.assert_array_equal(again.codes, workload.codes)
    other = make_workload(tmp_path / "other", Size(images=300, queries=2, words=WORDS, seed=8), threads=1)
    assert not np.array_equal(other.centroids, workload.centroids)


def test_ids_tell_their_image() -> None:
    assert [image_number(image_id(number)) for number in (0, 123, 9_999_999)] == [0, 123, 9_999_999]


def test_asmks_codes_have_their_bits_in_the_other_order() -> None:
    """Component i is bit i of ours; of theirs, bit 31 − i of the first uint32."""
    codes = np.array([[1, 1 << 63]], np.uint64)
    assert sides.their_codes(codes).tolist() == [[1 << 31, 0, 0, 1]]


def test_a_list_has_the_room_that_asmk_would_have_made() -> None:
    assert [len(sides.with_room(np.ones(n))) for n in (1, 10, 11, 15, 16)] == [10, 10, 15, 15, 23]


class Fixed:
    """A side that scores every image as it was told."""

    def __init__(self, scores: Sequence[float]) -> None:
        self._scores = np.array(scores)

    def quantise(self, descriptors: np.ndarray) -> np.ndarray:
        return descriptors

    def aggregate(self, descriptors: np.ndarray, words: np.ndarray) -> AsmkCodes:
        return AsmkCodes(words, descriptors)

    def scores(self, query: AsmkCodes) -> np.ndarray:
        return self._scores


def ranked(images: Sequence[int], scores: Sequence[float]) -> Answer:
    return Answer(np.array(images), np.array(scores))


@pytest.mark.parametrize(
    ("theirs", "same", "wrong"),
    [
        (([2, 1, 0], [0.5, 0.4, 0.3]), 1, 0),
        (([1, 2, 0], [0.5, 0.5, 0.3]), 0, 1),
        (([2, 0, 1], [0.5, 0.4, 0.4]), 0, 1),
    ],
)
def test_rankings_may_differ_by_ties_alone(
    workload: Workload, theirs: tuple[list[int], list[float]], same: int, wrong: int
) -> None:
    answers = {"howl": [ranked([2, 1, 0], [0.5, 0.4, 0.3])], "asmk": [ranked(*theirs)]}
    found = compare({"howl": Fixed([0.3, 0.4, 0.5]), "asmk": Fixed([0.3, 0.4, 0.25])}, answers, workload)
    assert found == {"largest_difference": 0.25, "queries": 1, "same_ranking": same, "more_than_ties": wrong}


def test_images_of_equal_score_may_change_places(workload: Workload) -> None:
    answers = {"howl": [ranked([2, 1], [0.5, 0.5])], "asmk": [ranked([1, 2], [0.5, 0.5])]}
    found = compare({"howl": Fixed([0]), "asmk": Fixed([0])}, answers, workload)
    assert (found["same_ranking"], found["more_than_ties"]) == (0, 0)


@pytest.mark.skipif(not measuring.CAN_DROP, reason="pages are dropped from the page cache on Linux only")
def test_what_is_read_is_cached_and_what_is_dropped_is_not(tmp_path: Path) -> None:
    """On a file system without a disk, tmpfs, nothing can be dropped: then the share says so."""
    file = tmp_path / "file"
    file.write_bytes(bytes(1 << 20))
    assert measuring.cached_share([file]) == 1
    measuring.drop_from_page_cache([file])
    assert measuring.cached_share([file]) in (0, 1)
    file.read_bytes()
    assert measuring.cached_share([file]) == 1


@pytest.mark.skipif(not measuring.MAPPINGS.exists(), reason="only Linux says what is mapped")
def test_mapped_bytes_are_those_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "within").mkdir()
    file = tmp_path / "within" / "file"
    file.write_bytes(bytes(1 << 20))
    mapped = np.memmap(file, np.uint8, "r")
    assert measuring.mapped_bytes(tmp_path / "within") == 0
    assert mapped.sum() == 0
    assert measuring.mapped_bytes(tmp_path / "within") == 1 << 20
    assert measuring.mapped_bytes(tmp_path / "with") == 0


@pytest.mark.slow
def test_the_whole_benchmark_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    json_file, plot = tmp_path / "result.json", tmp_path / "plot.png"
    for package in ("matplotlib", "pandas", "tabulate"):
        pytest.importorskip(package, reason=f"needs {package}")
    sizes = ["--images", "300", "100", "--queries", "2", "--words", str(WORDS)]
    files = ["--folder", str(tmp_path), "--json", str(json_file), "--plot", str(plot)]
    benchmark_asmk.main(["--alone", *sizes, *files])
    lines = capfd.readouterr().out.splitlines()
    cells = [[cell.strip() for cell in line.split("|")] for line in lines if line.startswith("|")]
    rows = [row[1:3] for row in cells if row[1].isdigit()]
    stages = ["quantise", "aggregate", "search", "aggregate + search", "whole query"]
    assert rows == [[str(images), stage] for images in (100, 300) for stage in stages]
    runs = json.loads(json_file.read_text())["runs"]
    assert [run["images"] for run in runs] == [100, 300]
    for run in runs:
        assert [len(each["howl"]["search"]) for each in run["alone"]["rounds"]] == [2, 2, 2]
        assert 0 < run["alone"]["mAP"]["howl"] <= 1
        assert run["bytes"] > run["payload_bytes"] == 18 * run["entries"]
    assert plot.stat().st_size > 10_000
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["plot.png", "result.json"]


def test_an_index_is_built_of_the_first_images(workload: Workload, tmp_path: Path) -> None:
    benchmark_asmk.build(tmp_path / "index", workload, 50)
    with closing(Index(tmp_path / "index")) as index:
        assert index.ids() == [image_id(number) for number in range(50)]
        assert index.stats().entries == workload.entries(50)


def test_without_asmk_it_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DependencyError, match=r"no_such_module is not installed, .*: pip install asmk.*--alone"):
        benchmark_asmk.measure(tmp_path, [300], queries=2, words=WORDS, modules=("no_such_module",))
    assert not list(tmp_path.iterdir())


def test_too_few_images_for_the_queries_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        benchmark_asmk.main(["--alone", "--images", "10", "--queries", "30"])
    assert f"30 queries need {2 * MATCHES * 30} images" in capsys.readouterr().err
