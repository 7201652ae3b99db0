"""The latency benchmark: what it asks in which order, what it makes of the samples, and the whole of it."""

import json
import sys
import threading
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import pytest

from runtime.asmk.kernel import AsmkParameters
from runtime.bundle import Manifest
from runtime.errors import DependencyError, HowlError
from runtime.first_stage import ASMK
from runtime.retriever import Retriever
from tools import benchmark
from tools.benchmarking import measuring
from tools.benchmarking.levels import levels_of_nodes, profile_levels
from tools.benchmarking.measuring import Ratio, compare, measure_load, measure_stages
from tools.benchmarking.report import Measured, Report, as_dict, as_text, draw
from tools.benchmarking.system_under_test import STAGES, SystemUnderTest, open_system
from tools.environment import load_pyplot, require_packages

# Two levels, of which the first takes a shared product, and the selection behind the joins.
PYRAMID = """
<ir_version: 10, opset_import: ["" : 18]> pyramid (uint8[h, w, 3] image)
=> (float[n, w, 3] descriptors, float[n, w, 3] strengths, float[n, w, 3] positions) {
    pixels = Cast <to = 1> (image)
    large = Sin (pixels)
    small = Cos (pixels)
    small_root = Sqrt (small)
    joined = Concat <axis = 0> (large, small_root)
    joined_too = Concat <axis = 0> (large, small)
    joined_last = Concat <axis = 0> (pixels, small)
    descriptors = Tanh (joined)
    strengths = Erf (joined_too)
    positions = Neg (joined_last)
}"""


class Recorder:
    """A stand-in for a system that writes down when it is asked; every stage takes it a millisecond."""

    def __init__(self, name: str, asked: list[tuple[str, str]]) -> None:
        self.name, self.asked = name, asked

    def ask(self, photo: Path, top: int) -> tuple[list, dict[str, float]]:
        self.asked.append((self.name, photo.name))
        return [], dict.fromkeys(STAGES, 1.0)


class Meeting:
    """A stand-in for a system that answers only when so many callers ask at a time."""

    def __init__(self, callers: int) -> None:
        self._all_are_here = threading.Barrier(callers, timeout=5)

    def ask(self, photo: Path, top: int) -> None:
        self._all_are_here.wait()


@pytest.fixture
def pyramid() -> onnx.ModelProto:
    """The graph, its nodes named by what they do; Sqrt of a cosine may be nan, which takes its time too."""
    model = onnx.parser.parse_model(PYRAMID)
    for node in model.graph.node:
        node.name = node.output[0]
    return model


def test_asking_stage_by_stage_finds_what_search_finds(engine: Path, photos: list[str]) -> None:
    paths = [Path(photo) for photo in photos]
    with open_system(engine, None, paths, device="cpu", threads=1) as system:
        hits, laps = system.ask(paths[2], top=3)
        with Retriever(engine, system.index.path, device="cpu") as retriever:
            assert hits == retriever.search(paths[2], top=3)
    assert hits[0].id == photos[2]
    assert tuple(laps) == STAGES
    assert not system.index.path.exists()


def test_two_subjects_take_turns_and_warm_up_is_not_counted() -> None:
    asked: list[tuple[str, str]] = []
    systems = cast(list[SystemUnderTest], [Recorder("A", asked), Recorder("B", asked)])
    taken = measure_stages(systems, [Path("x"), Path("y")], rounds=2, top=1)
    counted = asked[2 * measuring.WARM_UP :]
    assert [f"{name}{photo}" for name, photo in counted] == ["Ax", "Bx", "By", "Ay", "Bx", "Ax", "Ay", "By"]
    assert [each.shape for each in taken] == [(2, 2, len(STAGES))] * 2


def test_the_ratio_of_two_subjects_has_the_spread_of_the_photos() -> None:
    first = np.array([[10.0, 20.0, 30.0], [10.0, 20.0, 30.0]])
    assert compare(first, first / 2) == Ratio(0.5, 0.5, 0.5)
    spread = compare(first, first * [0.5, 1.0, 2.0])
    assert spread.ratio == 1
    assert (spread.low, spread.high) == (0.5, 2.0)


def test_callers_ask_at_a_time() -> None:
    load = measure_load(cast(SystemUnderTest, Meeting(3)), [Path("x")], callers=3, queries=1, top=1)
    assert len(load.milliseconds) == 3 * measuring.QUERIES_A_CALLER
    assert load.throughput == pytest.approx(len(load.milliseconds) / load.seconds)


def test_rows_are_percentiles_and_shares_and_levels_divide_the_networks() -> None:
    milliseconds = {stage: [1.0] * 101 for stage in STAGES}
    milliseconds |= {"encode": [2.0] * 101, "network": np.linspace(0, 10, 101).tolist()}
    rows = measured(milliseconds, levels=[[6.0, 2.0, 0.0], [6.0, 2.0, 0.0]]).rows()
    names = ["network", "network, scale 1", "network, scale 0.5", "network, the rest"]
    assert list(rows) == ["decode", "resize", *names, "encode", "score + top-k", "whole query"]
    assert rows["network"].percentiles == pytest.approx([5.0, 9.5, 9.9])
    assert rows["whole query"].percentiles == pytest.approx([10.0, 14.5, 14.9])
    assert [rows[name].share for name in names] == pytest.approx([0.5, 0.375, 0.125, 0])
    assert rows["network, scale 1"].percentiles == [6.0, 6.0, 6.0]


def measured(milliseconds: dict[str, list[float]], levels: list[list[float]]) -> Measured:
    manifest = Manifest("", "how", ASMK, 1024, (1.0, 0.5), 128, 1000, AsmkParameters(), {}, "fp32")
    return Measured("e.onnx", None, 1, "CPUExecutionProvider", manifest, milliseconds, levels, [1.0], [])


def test_global_descriptors_are_joined_too() -> None:
    graph = """
        <ir_version: 10, opset_import: ["" : 18]> pooled (float[n] image) => (float[m] global_descriptor) {
            large = Sin (image)
            small = Cos (image)
            joined = Concat <axis = 0> (large, small)
            global_descriptor = Tanh (joined)
        }"""
    model = onnx.parser.parse_model(graph)
    for node in model.graph.node:
        node.name = node.output[0]
    assert levels_of_nodes(model.graph, 2) == {"large": 0, "small": 1}


def test_a_node_belongs_to_the_level_that_alone_needs_it(pyramid: onnx.ModelProto) -> None:
    assert levels_of_nodes(pyramid.graph, 2) == {"large": 0, "small": 1, "small_root": 1}
    assert levels_of_nodes(pyramid.graph, 3) is None


def test_the_profiler_tells_levels_and_the_rest(pyramid: onnx.ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "pyramid.onnx"
    onnx.save(pyramid, path)
    images = [np.full((64, 64, 3), number, np.uint8) for number in range(4)]
    taken = profile_levels(path, 2, images, threads=1)
    assert taken is not None
    assert taken.shape == (4, 3)
    assert (taken > 0).all()
    assert [file.name for file in tmp_path.iterdir()] == ["pyramid.onnx"]


@pytest.mark.slow
def test_the_whole_benchmark(engine: Path, photos: list[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    empty, plot = tmp_path / "empty.jpg", tmp_path / "plot.png"
    empty.touch()
    asked = [*map(Path, photos), empty]
    report = benchmark.benchmark(
        [(engine, None), (engine, None)], asked, callers=[1, 2], rounds=2, device="cpu", cold_starts=1
    )

    printed = as_text(report)
    assert f"n = {2 * len(photos)} queries" in printed
    assert f"left out 1 unreadable photo:\n  {empty}: empty file" in printed
    rows = [line.split(" | ")[0] for line in printed.splitlines() if line.startswith("| ")]
    table = ["| stage", *(f"| {stage}" for stage in STAGES), "| whole query"]
    assert rows == [*table, *table, "| under load", *[f"| {engine}"] * 4]
    assert "bootstrap of 6 photos" in printed

    result = json.loads(json.dumps(as_dict(report)))
    assert result["skipped"] == {str(empty): f"{empty}: empty file"}
    assert result["peak_memory"] > 10_000_000
    for system in result["systems"]:
        assert [len(samples) for samples in system["milliseconds"].values()] == [2 * len(photos)] * len(STAGES)
        assert sum(system["table"][stage]["share"] for stage in STAGES) == pytest.approx(1)
        assert len(system["cold_starts"]) == 1
        assert [load["callers"] for load in system["loads"]] == [1, 2]
    draw(report, plot)
    assert plot.stat().st_size > 10_000


def test_the_command_prints_and_writes_the_report(
    engine: Path, photos: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    systems, asked, options = [], [], {}

    def measure(pairs: list, paths: list, **given: object) -> Report:
        systems.extend(pairs)
        asked.extend(map(str, paths))
        options.update(given)
        system = measured({stage: [1.0, 2.0] for stage in STAGES}, levels=[])
        return Report({"processor": "test"}, list(map(str, paths)), {}, 3, 1, 10, 1, [system], None, 1)

    monkeypatch.setattr(benchmark, "benchmark", measure)
    written = tmp_path / "result.json"
    benchmark.main([str(engine), *photos, "--repeat", "2", "--load", "2", "--device", "cpu", "--json", str(written)])
    assert (systems, asked) == ([(engine, None)], photos)
    assert options == {"callers": [2], "rounds": 2, "top": 10, "device": "cpu", "threads": None}
    assert "| whole query |" in capsys.readouterr().out
    assert json.loads(written.read_text())["photos"] == photos


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["{engine}", "nowhere.jpg"], "nowhere.jpg: no such file"),
        (["{engine}", "{empty}"], "empty file; no photo is left to ask"),
        (["missing.onnx", "{photo}"], "missing.onnx: no such engine"),
        (["{engine}", "{photo}", "--index", "nowhere"], "nowhere: no index here"),
    ],
)
def test_wrong_input_is_one_line(
    arguments: list[str], line: str, engine: Path, photos: list[str], tmp_path: Path
) -> None:
    empty = tmp_path / "empty.jpg"
    empty.touch()
    with pytest.raises(HowlError, match=line) as caught:
        benchmark.main([argument.format(engine=engine, photo=photos[0], empty=empty) for argument in arguments])
    assert "\n" not in str(caught.value)


def test_without_matplotlib_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(DependencyError, match="pip install matplotlib"):
        load_pyplot()


def test_a_module_in_a_package_that_is_missing_is_missing() -> None:
    require_packages("numpy", "numpy.linalg")
    with pytest.raises(DependencyError, match=r"no_such\.module is not installed, and this needs it: ask a friend"):
        require_packages("numpy", "no_such.module", hint="ask a friend")


def test_an_engine_or_an_index_is_compared_with_the_first() -> None:
    def compared(*arguments: str) -> list[tuple[str, str | None]]:
        options = benchmark.parse(["a.onnx", "photo.jpg", *arguments])
        found = benchmark.pairs(Path(options.engine), options.index, options.compare, options.compare_index)
        return [(str(engine), None if index is None else str(index)) for engine, index in found]

    assert compared() == [("a.onnx", None)]
    assert compared("--index", "x", "--compare", "b.onnx") == [("a.onnx", "x"), ("b.onnx", "x")]
    assert compared("--index", "x", "--compare-index", "y") == [("a.onnx", "x"), ("a.onnx", "y")]
