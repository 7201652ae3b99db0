"""The benchmark of matching on a GPU: what it makes, and the whole of it on the stand-in for a GPU."""

import json
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.asmk.inverted_file import InvertedFile
from runtime.errors import DeviceError
from runtime.gpu import Gpu, device, find_gpus
from runtime.gpu.device import Device
from runtime.io.cli import run_command
from tools.experiments import benchmark_gpu
from tools.experiments.benchmark_gpu import Effort

from ...cuda.stand_in import StandIn


@pytest.fixture(scope="module")
def popularity() -> NDArray[np.float64]:
    return benchmark_gpu.draw_popularity(np.random.default_rng(0))


@pytest.fixture(scope="module")
def file(popularity: NDArray[np.float64]) -> InvertedFile:
    return benchmark_gpu.make_file(np.random.default_rng(1), popularity, 5000)


SMALL = Effort(batches={1: 3, 2: 2}, copies=3, copied_bytes=1000, checked_images=300, checked_file=128, max_images=300)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, gpu: StandIn) -> Device:
    """The stand-in for a GPU."""
    monkeypatch.setattr(benchmark_gpu, "find_gpus", lambda: [Gpu("Test GPU", (9, 0))])
    return Device("the benchmark")


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
def test_the_whole_benchmark(opened: Device) -> None:
    measured = benchmark_gpu.measure(opened, 700, 7, SMALL)
    report = json.loads(benchmark_gpu.as_json(measured))
    assert (report["gpu"], report["images"], report["files"]) == ("Test GPU (compute capability 9.0)", 700, 3)
    assert report["entries"] == pytest.approx(700 * 435, rel=0.02)
    assert report["list_bytes"] == pytest.approx(0.058 * 18 * report["entries"], rel=0.1)
    assert report["index_bytes"] == pytest.approx(18 * report["entries"] + 3 * 8 * 65_536, rel=0.01)
    assert [timing["queries"] for timing in report["timings"]] == [1, 2]
    for timing in report["timings"]:
        reached = report["list_bytes"] / (timing["scoring"] / 1e3)
        assert timing["share"] == pytest.approx(reached / report["bandwidth"])
    pytest.importorskip("tabulate", reason="needs pandas and tabulate")
    lines = benchmark_gpu.as_text(measured).splitlines()
    assert "the 7 best of 16 queries among 300 images are the CPU's, to the bit" in lines
    first_cells = [line.split("|")[1].strip() for line in lines[-4:]]
    assert (first_cells[0], first_cells[2:]) == ("queries at once", ["1", "2"])


@pytest.mark.slow
def test_hits_that_are_not_the_cpus_are_an_error(opened: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    best = benchmark_gpu.best_on_cpu
    monkeypatch.setattr(benchmark_gpu, "best_on_cpu", lambda *arguments: best(*arguments)[1:])
    with pytest.raises(DeviceError, match="hits of query 0 are not those of the CPU"):
        benchmark_gpu.measure(opened, 700, 100, SMALL)


@pytest.mark.slow
def test_an_index_that_does_not_fit_is_refused(opened: Device) -> None:
    with pytest.raises(
        DeviceError, match=r"--images 1000000 needs \d\.\d\d GB of the GPU's memory, and 1\.07 GB are free"
    ):
        benchmark_gpu.measure(opened, 1_000_000, 100, SMALL)


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(device, "find_gpus", lambda: [])
    command: Callable[..., None] = lambda _: benchmark_gpu.main([])  # noqa: E731
    assert run_command(command) == 1
    assert capsys.readouterr().err.startswith("error: the benchmark: needs an NVIDIA GPU, and none was found")


@pytest.mark.gpu
@pytest.mark.skipif(not find_gpus(), reason="needs an NVIDIA GPU, none was found")
def test_on_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("cuda.bindings", reason="needs cuda-bindings")
    benchmark_gpu.main(["--images", "20000", "--json"])
    assert json.loads(capsys.readouterr().out)["images"] == 20_000
