"""The benchmark of matching on a GPU: what it makes, and the whole of it on the stand-in for a GPU."""

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.asmk.gpu import device
from runtime.asmk.inverted_file import InvertedFile
from runtime.errors import HowlError
from runtime.gpu import Gpu, find_gpus
from runtime.io.cli import run_command
from tools.experiments import benchmark_gpu

StandIn = runpy.run_path(str(Path(__file__).parents[2] / "cuda" / "stand_in.py"))["StandIn"]


@pytest.fixture(scope="module")
def popularity() -> NDArray[np.float64]:
    return benchmark_gpu.draw_popularity(np.random.default_rng(0))


@pytest.fixture(scope="module")
def file(popularity: NDArray[np.float64]) -> InvertedFile:
    return benchmark_gpu.make_file(np.random.default_rng(1), popularity, 5000)


@pytest.fixture
def gpu(compiled: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A stand-in for a GPU, and a benchmark small enough for it."""
    for name, value in {"COPIED_BYTES": 1000, "COPIES": 3, "CHECKED_IMAGES": 300, "CHECKED_FILE": 128}.items():
        monkeypatch.setattr(benchmark_gpu, name, value)
    monkeypatch.setattr(benchmark_gpu, "BATCHES", {1: 3, 2: 2})
    monkeypatch.setattr(benchmark_gpu, "MAX_IMAGES", 300)
    monkeypatch.setattr(benchmark_gpu, "find_gpus", lambda: [Gpu("Test GPU", (9, 0))])
    gpu = StandIn(compiled)
    monkeypatch.setattr(benchmark_gpu, "load_cupy", lambda: gpu)
    return gpu


def test_lists_are_as_long_as_those_of_real_words(popularity: NDArray[np.float64]) -> None:
    """The longest about twenty times the average; weighted by popularity, 1.9 times."""
    assert popularity.sum() == pytest.approx(1)
    assert (popularity == 0).mean() == pytest.approx(0.05, abs=1e-4)
    average = 1 / benchmark_gpu.WORDS
    assert 12 < popularity.max() / average < 40
    assert (popularity**2).sum() / average == pytest.approx(1.9, abs=0.1)


def test_a_made_file_is_an_inverted_file(file: InvertedFile) -> None:
    """Words ascend, and images within each; counts are those of the entries."""
    entries = np.diff(file.offsets)
    assert (np.diff(file.words.astype(int)) > 0).all()
    assert entries.min() > 0
    assert file.offsets[0] == 0
    assert len(file.images) == len(file.codes) == file.offsets[-1]
    of_word = np.repeat(np.arange(len(file.words)), entries)
    assert (np.diff(of_word * 70_000 + file.images) > 0).all()
    np.testing.assert_array_equal(np.bincount(file.images, minlength=5000), file.word_counts)
    assert file.word_counts.mean() == pytest.approx(435, rel=0.01)
    dtypes = [array.dtype for array in (file.words, file.offsets, file.images, file.codes, file.word_counts)]
    assert dtypes == [np.uint32, np.int64, np.uint16, np.uint64, np.uint32]


def test_a_query_scans_as_much_as_a_real_one(file: InvertedFile, popularity: NDArray[np.float64]) -> None:
    """2,006 of 65,536 words are 3.1 %, their lists nearly twice that."""
    query = benchmark_gpu.make_query(np.random.default_rng(2), popularity)
    assert len(np.unique(query.words)) == len(query.words) == len(query.codes) == 2006
    scanned = np.diff(file.offsets)[np.isin(file.words, query.words)].sum() / len(file.images)
    assert scanned == pytest.approx(0.058, abs=0.004)


def test_files_hold_all_images(popularity: NDArray[np.float64]) -> None:
    files = benchmark_gpu.make_files(np.random.default_rng(3), popularity, 250, largest=100)
    assert [len(made) for made in files] == [100, 100, 50]


@pytest.mark.slow
def test_the_whole_benchmark(gpu: Any, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark_gpu.main(["--images", "700", "--top", "7", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert (report["gpu"], report["images"], report["files"]) == ("Test GPU (compute capability 9.0)", 700, 3)
    assert report["entries"] == pytest.approx(700 * 435, rel=0.02)
    assert report["list_bytes"] == pytest.approx(0.058 * 18 * report["entries"], rel=0.1)
    assert report["index_bytes"] == pytest.approx(18 * report["entries"] + 3 * 8 * 65_536, rel=0.01)
    assert [timing["queries"] for timing in report["timings"]] == [1, 2]
    for timing in report["timings"]:
        reached = report["list_bytes"] / (timing["scoring"] / 1e3)
        assert timing["share"] == pytest.approx(reached / report["bandwidth"])
    benchmark_gpu.main(["--images", "700", "--top", "7"])
    lines = capsys.readouterr().out.splitlines()
    assert "the 7 best of 16 queries among 300 images are the CPU's, to the bit" in lines
    assert [line.split()[0] for line in lines[-3:]] == ["at", "1", "2"]


@pytest.mark.slow
def test_hits_that_are_not_the_cpus_are_an_error(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    best = benchmark_gpu.best_on_cpu
    monkeypatch.setattr(benchmark_gpu, "best_on_cpu", lambda *arguments: best(*arguments)[1:])
    with pytest.raises(HowlError, match="hits of query 0 are not those of the CPU"):
        benchmark_gpu.main(["--images", "700"])


@pytest.mark.slow
def test_an_index_that_does_not_fit_is_refused(gpu: Any) -> None:
    with pytest.raises(
        HowlError, match=r"--images 1000000 needs \d\.\d\d GB of the GPU's memory, and 1\.07 GB are free"
    ):
        benchmark_gpu.main([])


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(device, "find_gpus", lambda: [])
    command: Callable[..., None] = lambda _: benchmark_gpu.main([])  # noqa: E731
    assert run_command(command) == 1
    assert capsys.readouterr().err.startswith("error: matching on a GPU needs an NVIDIA GPU, and none was found")


@pytest.mark.gpu
@pytest.mark.skipif(not find_gpus(), reason="needs an NVIDIA GPU, none was found")
def test_on_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("cupy", reason="needs CuPy")
    benchmark_gpu.main(["--images", "20000", "--json"])
    assert json.loads(capsys.readouterr().out)["images"] == 20_000
