"""The export command: what it writes, and what it leaves alone when it fails."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from export import exporter, to_trt
from export.exporter import configured, fingerprint_of
from export.options import PRESETS, ExportOptions
from runtime.asmk.kernel import AsmkKernel, AsmkParameters
from runtime.bundle import EngineFiles, load_first_stage, load_manifest
from runtime.engine import open_engine
from runtime.errors import HowlError, UsageError
from runtime.first_stage import ASMK, VECTORS, Layout
from runtime.gpu import Gpu
from runtime.index import Index
from runtime.io.cli import run_command
from runtime.retriever import Retriever
from train.checkpoint import Checkpoint
from train.data.synthetic import render_view, write_scenes
from train.models.base import ExtractionConfig

Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "find_gpus", list)


def write_photos(folder: Path) -> list[str]:
    """Four photos of different scenes, by path."""
    paths = [str(folder / f"{scene}.jpg") for scene in range(4)]
    for scene, path in enumerate(paths):
        cv2.imwrite(path, render_view(5, scene, 0, width=128, height=96)[:, :, ::-1])
    return paths


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_program_is_proven_written_and_searches(
    checkpoint: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str], precision: str
) -> None:
    """engine.pt2 beside engine.onnx: both can use the same index."""
    program = tmp_path / "out" / "engine.pt2"
    to_trt.main([str(checkpoint(refine="none")), "--out", str(program), "--precision", precision])
    printed = capsys.readouterr().out
    assert "engine.pt2 against PyTorch, PyTorch" in printed
    assert f"{program}: " in printed
    assert set(load_manifest(program).checksums) == {"engine.onnx", "engine.codebook.npy", "engine.pt2"}
    paths = write_photos(tmp_path)
    with Retriever(program, device="cpu") as retriever:
        retriever.add(paths)
        scores = [{hit.id: hit.score for hit in retriever.search(path)} for path in paths]
    with Retriever(program.with_suffix(".onnx"), device="cpu") as retriever:
        for path, expected in zip(paths, scores, strict=True):
            hits = {hit.id: hit.score for hit in retriever.search(path)}
            assert hits == pytest.approx(expected, abs=1e-4 if precision == "fp32" else 0.05)
    with pytest.raises(HowlError, match=r"engine\.pt2: takes images from .* use engine\.onnx"):
        open_engine(program, "cpu").extract(np.zeros((8, 300, 3), np.uint8))


@pytest.mark.slow
def test_on_a_gpu_without_tensorrt_a_program_takes_the_place_of_a_plan(
    checkpoint: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "find_gpus", lambda: [Gpu("Test GPU", (9, 0))])
    monkeypatch.setattr(exporter, "has_tensorrt", lambda: False)
    out = tmp_path / "engine.plan"
    to_trt.main([str(checkpoint(refine="none")), "--out", str(out)])
    assert f"{out}: not built, TensorRT is not installed; engine.pt2 takes its place" in capsys.readouterr().out
    assert sorted(file.suffix for file in tmp_path.glob("engine*")) == [".json", ".npy", ".onnx", ".pt2"]


@pytest.mark.slow
def test_the_engine_is_proven_written_and_searches(
    checkpoint: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = checkpoint(refine="none")
    plan = tmp_path / "out" / "engine.plan"
    to_trt.main([str(source), "--out", str(plan)])
    printed = capsys.readouterr().out
    assert printed.count("relative error") == 6
    assert f"python export/to_trt.py {source} --out {plan}" in printed
    assert sorted(file.name for file in plan.parent.iterdir()) == [
        "engine.codebook.npy",
        "engine.json",
        "engine.onnx",
    ]

    manifest = load_manifest(plan.with_suffix(".onnx"))
    kernel = load_first_stage(plan.with_suffix(".onnx"), manifest)
    assert isinstance(kernel, AsmkKernel)
    assert (manifest.features, manifest.image_size, len(kernel.codebook)) == (200, 128, 32)
    assert manifest.network["smoothing"] == "learned"
    photos = write_photos(tmp_path)
    with Retriever(plan.with_suffix(".onnx"), device="cpu") as retriever:
        retriever.add(photos)
        assert all(photo in [hit.id for hit in retriever.search(photo)] for photo in photos)


@pytest.mark.slow
@pytest.mark.parametrize("system", ["gem", "rmac", "solar"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_global_system_is_exported_and_searches(
    precision: str, system: str, checkpoint: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = tmp_path / "out" / "engine.onnx"
    to_trt.main([str(checkpoint(system=system)), "--out", str(engine), "--precision", precision])
    printed = capsys.readouterr().out
    assert printed.count("global descriptor") == 6
    assert "codebook" not in printed
    assert sorted(file.name for file in engine.parent.iterdir()) == ["engine.json", "engine.onnx"]

    manifest = load_manifest(engine)
    assert (manifest.system, manifest.method, manifest.dimensions) == (system, VECTORS, 12)
    assert (manifest.features, manifest.asmk, manifest.precision) == (None, None, precision)
    photos = write_photos(tmp_path)
    with Retriever(engine, device="cpu") as retriever:
        retriever.add(photos)
        assert [retriever.search(photo)[0].id for photo in photos] == photos


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_system_with_a_learned_attention_is_exported_and_searches(
    precision: str, checkpoint: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine, folder = tmp_path / "out" / "engine.onnx", tmp_path / "photos"
    folder.mkdir()
    photos = write_photos(folder)
    flags = ["--precision", precision, "--codebook", str(folder)]
    to_trt.main([str(checkpoint(system="delf")), "--out", str(engine), *flags])
    assert capsys.readouterr().out.count("descriptors  matched") == 6
    manifest = load_manifest(engine)
    assert (manifest.system, manifest.method, manifest.dimensions, manifest.features) == ("delf", ASMK, 16, 200)
    with Retriever(engine, device="cpu") as retriever:
        retriever.add(photos)
        assert all(photo in [hit.id for hit in retriever.search(photo)] for photo in photos)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_an_engine_of_both_kinds_of_features_is_proven_in_both(
    precision: str, checkpoint: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = tmp_path / "out" / "engine.onnx"
    flags = ["--precision", precision, "--features", "150", "--scales", "1", "0.707"]
    to_trt.main([str(checkpoint(system="delg")), "--out", str(engine), *flags])
    printed = capsys.readouterr().out
    assert printed.count("descriptors  matched") == printed.count("global descriptor  cosine") == 6
    assert sorted(file.name for file in engine.parent.iterdir()) == ["engine.json", "engine.onnx"]
    assert onnx_outputs(engine) == ["descriptors", "strengths", "positions", "count", "global_descriptor"]

    manifest = load_manifest(engine)
    assert (manifest.system, manifest.method, manifest.dimensions) == ("delg", VECTORS, 12)
    assert (manifest.features, manifest.asmk) == (150, None)
    photos = write_photos(tmp_path)
    with Retriever(engine, device="cpu") as retriever:
        retriever.add(photos)
        assert [retriever.search(photo)[0].id for photo in photos] == photos
        features = retriever.encoder.extract(photos[0])
    assert features.need_global().shape == (12,)
    local = features.need_local()
    assert local.descriptors.shape == (len(local), 20)
    assert 0 < len(local) <= 150


def onnx_outputs(engine: Path) -> list[str]:
    return [output.name for output in onnx.load(engine).graph.output]


@pytest.mark.parametrize(
    ("system", "flags", "line"),
    [
        ("gem", ["--codebook", "words.npy"], "--codebook words.npy: gem has no visual words; leave it out"),
        ("gem", ["--features", "9"], "--features 9: the checkpoint's system has no local features; leave it out"),
        ("delg", ["--codebook", "words.npy"], "--codebook words.npy: delg has no visual words; leave it out"),
        (
            "delf",
            ["--graph-nodes", "9"],
            "--graph-nodes 9: the checkpoint's network refines no positions; leave it out",
        ),
    ],
)
def test_what_a_system_has_not_is_refused(
    system: str, flags: list[str], line: str, checkpoint: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = checkpoint(system=system)
    assert run_command(lambda _: to_trt.main([str(source), "--out", str(tmp_path / "e.onnx"), *flags])) == 2
    assert capsys.readouterr().err == f"error: {line}\n"
    assert list(tmp_path.iterdir()) == [source]


def test_a_preset_numbers_the_local_features_of_a_system_that_has_both(checkpoint: Write) -> None:
    loaded, fast = Checkpoint.load(checkpoint(system="delg")), PRESETS["fast"]
    extraction = configured(loaded, to_trt.parse(["ckpt.pt", "--preset", "fast"])).extraction
    assert extraction == ExtractionConfig(fast.image_size, fast.scales, fast.features)


def test_a_preset_says_how_many_words_a_query_s_descriptors_have(checkpoint: Write) -> None:
    loaded, asked = Checkpoint.load(checkpoint()), to_trt.parse(["ckpt.pt", "--preset", "best"])
    assert configured(loaded, asked).asmk == AsmkParameters(multiple_assignment=PRESETS["best"].multiple_assignment)
    assert configured(loaded, to_trt.parse(["ckpt.pt"])).asmk == loaded.asmk
    assert asked.search(None) is None


def test_a_preset_leaves_a_global_system_without_features(checkpoint: Write) -> None:
    loaded, fast = Checkpoint.load(checkpoint(system="gem")), PRESETS["fast"]
    extraction = configured(loaded, to_trt.parse(["ckpt.pt", "--preset", "fast"])).extraction
    assert extraction == ExtractionConfig(fast.image_size, fast.scales, features=None)


@pytest.mark.slow
def test_options_replace_the_checkpoint_s_settings_and_the_photos(
    checkpoint: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, photos = tmp_path / "e.plan", tmp_path / "photos"
    photos.mkdir()
    cv2.imwrite(str(photos / "a.png"), np.random.default_rng(0).integers(0, 255, (70, 91, 3), np.uint8))
    options = ["--features", "50", "--scales", "0.5", "--image-size", "96", "--precision", "fp16"]
    to_trt.main(
        [str(checkpoint(smoothing="average", refine="none")), "--out", str(plan), "--photos", str(photos), *options]
    )
    assert "91×70" in capsys.readouterr().out
    manifest = load_manifest(plan.with_suffix(".onnx"))
    assert (manifest.features, manifest.scales, manifest.image_size) == (50, (0.5,), 96)
    assert manifest.precision == "fp16"


@pytest.mark.parametrize(
    ("flags", "nodes"),
    [
        ([], 45 * 45),  # the map of 180 pixels, 1.414 times 128, at stride 4
        (["--image-size", "96", "--scales", "0.5", "1"], 24 * 24),
        (["--image-size", "1024"], 3840),  # TensorRT's most
        (["--image-size", "96", "--graph-nodes", "9"], 9),
    ],
)
def test_the_graph_covers_the_largest_map(flags: list[str], nodes: int, checkpoint: Write) -> None:
    loaded = Checkpoint.load(checkpoint())
    network = configured(loaded, to_trt.parse(["ckpt.pt", *flags])).network
    assert network == replace(loaded.network, graph_nodes=nodes)


@pytest.mark.parametrize("changes", [{"refine": "none"}, {"system": "gem"}], ids=["HOW without a graph", "GeM"])
def test_without_a_graph_there_are_no_nodes_to_change(changes: dict, checkpoint: Write) -> None:
    loaded = Checkpoint.load(checkpoint(**changes))
    assert configured(loaded, to_trt.parse(["ckpt.pt"])).network == loaded.network
    with pytest.raises(
        UsageError, match="--graph-nodes 9: the checkpoint's network refines no positions; leave it out"
    ):
        configured(loaded, to_trt.parse(["ckpt.pt", "--graph-nodes", "9"]))


def test_a_preset_gives_what_is_not_named() -> None:
    options, fast = to_trt.parse(["ckpt.pt", "--preset", "fast", "--features", "9"]), PRESETS["fast"]
    assert options.extraction(ExtractionConfig()) == ExtractionConfig(fast.image_size, fast.scales, features=9)
    assert options.decided_precision == fast.precision
    plain = to_trt.parse(["ckpt.pt"])
    assert plain.extraction(ExtractionConfig(96, (1.0,), 5)) == ExtractionConfig(96, (1.0,), 5)
    assert plain.decided_precision == "fp32"


def test_the_command_for_another_machine_is_what_was_decided() -> None:
    options = to_trt.parse(
        ["a b.pt", "--out", "e.plan", "--preset", "fast", "--scales", "1", "0.5", "--photos", "photos"]
    )
    asked = "--out e.plan --preset fast --scales 1.0 0.5 --codebook e.codebook.npy"
    assert options.elsewhere(Path("e.codebook.npy")).command() == f"python export/to_trt.py 'a b.pt' {asked}"
    assert to_trt.parse(["ckpt.pt"]).command() == "python export/to_trt.py ckpt.pt"


def test_a_precision_keeps_the_identity_and_other_weights_change_it(checkpoint: Write) -> None:
    first = Checkpoint.load(checkpoint())
    assert fingerprint_of(first) == fingerprint_of(Checkpoint.load(checkpoint()))
    assert fingerprint_of(first) != fingerprint_of(Checkpoint.load(checkpoint(seed=1)))


@pytest.mark.slow
def test_a_graph_that_differs_is_not_kept(checkpoint: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, plan = checkpoint(refine="none", smoothing="average"), tmp_path / "e.plan"
    plan.with_suffix(".onnx").write_text("an earlier engine")
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}

    fold = exporter.fold

    def spoiled(network, precision):  # a fault such as a wrong fold would be
        folded = fold(network, precision)
        folded.whitening.projection.weight.data *= 1.01
        return folded

    monkeypatch.setattr(exporter, "fold", spoiled)
    with pytest.raises(HowlError, match="differs from the PyTorch network beyond the tolerance"):
        to_trt.main([str(source), "--out", str(plan)])
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("code", "arguments", "line"),
    [
        (1, ["missing.pt"], "missing.pt: no such file"),
        (1, ["text.pt"], "text.pt: "),
        (1, ["good.pt", "--precision", "int8", "--calibrate", "nowhere"], "nowhere: no such file or folder"),
        (1, ["good.pt", "--photos", "nowhere"], "nowhere: no such file or folder"),
        (2, ["good.pt", "--out", "engine.pt"], "--out engine.pt: name an engine.plan"),
        (
            2,
            ["good.pt", "--out", "engine.pt2", "--preset", "fast"],
            "--out engine.pt2: int8 is for engine.onnx on a CPU",
        ),
        (1, ["good.pt", "--out", "text.pt/engine.onnx"], "text.pt/engine.onnx: cannot be written: "),
        (1, ["good.pt", "--out", "dir.onnx"], "dir.onnx: cannot be written: it is a folder; name another --out"),
        (2, ["good.pt", "--preset", "slow"], "--preset slow: there is how, best"),
        (2, ["good.pt", "--precision", "fp12"], "--precision fp12: there is fp32, fp16, int8"),
        (2, ["good.pt", "--graph-nodes", "4000"], "--graph-nodes 4000: at most 3840"),
        (2, ["good.pt", "--graph-nodes", "4"], "--graph-neighbours 4 needs more than 4 nodes"),
        (2, ["good.pt", "--features", "0"], "--features 0: must be at least 1"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(
    code: int,
    arguments: list[str],
    line: str,
    checkpoint: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint().rename("good.pt")
    Path("text.pt").write_text("not a checkpoint")
    Path("dir.onnx").mkdir()
    before = sorted(tmp_path.rglob("*"))
    assert run_command(lambda _: to_trt.main(arguments)) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert line in error
    assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_an_index_that_the_new_engine_will_refuse_is_named(tmp_path: Path) -> None:
    files = EngineFiles.of(tmp_path / "engine.onnx")
    assert exporter.orphaned_index(files, "new") is None
    Index.create(files.index, fingerprint="old", layout=Layout(VECTORS, 4)).close()
    assert exporter.orphaned_index(files, "old") is None
    line = exporter.orphaned_index(files, "new")
    assert line is not None
    assert line.startswith(f"{files.index}: ")
    assert "index them again, or export to another --out" in line
    (files.index / "catalogue.sqlite").write_text("no catalogue")
    assert "catalogue.sqlite" in (exporter.orphaned_index(files, "new") or "")


@pytest.mark.slow
def test_the_command_writes_an_int8_engine_and_no_plan(
    checkpoint: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(exporter, "find_gpus", lambda: ["a GPU"])
    plan = tmp_path / "out" / "e.plan"
    write_scenes(tmp_path / "photos", scenes=2, views=2, image_size=128, seed=0)
    options = ["--precision", "int8", "--calibrate", str(tmp_path / "photos")]
    to_trt.main([str(checkpoint(refine="none")), "--out", str(plan), *options])
    assert f"{plan}: not built, int8 is for CPUs" in capsys.readouterr().out
    assert sorted(file.suffix for file in plan.parent.iterdir()) == [".json", ".npy", ".onnx"]
    manifest = load_manifest(plan.with_suffix(".onnx"))
    assert manifest.precision == "int8"
    assert "DequantizeLinear" in {node.op_type for node in onnx.load(plan.with_suffix(".onnx")).graph.node}


@pytest.mark.slow
def test_a_quantised_graph_that_is_far_off_is_not_kept(checkpoint: Write, tmp_path: Path) -> None:
    """Calibrated on black images, every photo is out of range."""
    black = tmp_path / "black"
    black.mkdir()
    cv2.imwrite(str(black / "a.png"), np.zeros((96, 128, 3), np.uint8))
    options = ExportOptions(checkpoint(refine="none"), tmp_path / "e.onnx", precision="int8", calibrate=black)
    with pytest.raises(HowlError, match="differs from the PyTorch network"):
        exporter.export_checkpoint(options)
    assert not (tmp_path / "e.onnx").exists()


def test_calibration_photos_are_for_int8(checkpoint: Write) -> None:
    with pytest.raises(UsageError, match="--calibrate is for --precision int8"):
        to_trt.main([str(checkpoint()), "--calibrate", "photos"])
