"""The int8 backbone: what is quantised and what is not, and how near it stays."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from export import exporter, to_trt
from export.options import ExportOptions
from export.parity import TOLERANCES, local_difference
from export.quantise import backbone_nodes, quantise_backbone
from export.tracing import export_onnx, fold
from runtime.bundle import load_manifest
from runtime.engine import open_engine
from runtime.errors import HowlError, UsageError
from runtime.io.image import Image
from train.data.synthetic import render_view, write_scenes
from train.models.extractor import LocalExtractor, extract
from train.models.how import HowNetwork

pytestmark = pytest.mark.slow

K = 200
SCALES = (1.0,)


@pytest.fixture(scope="module")
def photos() -> list[Image]:
    return [render_view(3, scene, 0, width=128, height=96) for scene in range(6)]


@pytest.fixture(scope="module")
def exported(
    network: Callable[..., HowNetwork], tmp_path_factory: pytest.TempPathFactory
) -> tuple[LocalExtractor, Path]:
    """A float32 graph, and the PyTorch network that it was exported from."""
    path = tmp_path_factory.mktemp("exported") / "fp32.onnx"
    export_onnx(LocalExtractor(fold(network(), "int8"), SCALES, K).eval(), path, {})
    return LocalExtractor(network(), SCALES, K).eval(), path


def convolutions(path: Path) -> dict[str, bool]:
    """Whether a convolution's weight is kept in 8 bits, by the name that it has in PyTorch."""
    graph = onnx.load(path).graph
    made_by = {output: node for node in graph.node for output in node.output}
    found = {}
    for node in graph.node:
        if node.op_type == "Conv":
            source = made_by.get(node.input[1])
            weight = node.input[1].removesuffix("_DequantizeLinear_Output")
            found[weight] = source is not None and source.op_type == "DequantizeLinear"
    return found


def test_the_backbone_is_quantised_and_the_head_is_not(
    exported: tuple[LocalExtractor, Path], photos: list[Image], tmp_path: Path
) -> None:
    _, source = exported
    quantise_backbone(source, tmp_path / "int8.onnx", [], photos)
    quantised = convolutions(tmp_path / "int8.onnx")
    backbone = {"network.backbone.conv1.weight", "network.backbone.conv2.weight"}
    assert {name for name, is_int8 in quantised.items() if is_int8} == backbone
    assert "network.whitening.projection.weight" in quantised


def test_layers_that_are_named_stay_in_float(
    exported: tuple[LocalExtractor, Path], photos: list[Image], tmp_path: Path
) -> None:
    """conv1 alone: not conv10, were there one."""
    _, source = exported
    quantise_backbone(source, tmp_path / "int8.onnx", ["conv1"], photos)
    assert {name for name, is_int8 in convolutions(tmp_path / "int8.onnx").items() if is_int8} == {
        "network.backbone.conv2.weight"
    }
    model = onnx.load(source)
    assert set(backbone_nodes(model, ["conv"])) == set(backbone_nodes(model, []))


def test_descriptors_stay_near_those_of_pytorch(
    exported: tuple[LocalExtractor, Path], photos: list[Image], tmp_path: Path
) -> None:
    """Photos that it was not calibrated on, at other sizes: not equal, but within the tolerance."""
    pytorch, source = exported
    quantise_backbone(source, tmp_path / "int8.onnx", [], photos)
    engine = open_engine(tmp_path / "int8.onnx", "cpu")
    for width, height in ((128, 96), (77, 131)):
        image = render_view(4, 0, 0, width=width, height=height)
        got, wanted = engine.extract(image).need_local(), extract(pytorch, image).need_local()
        found = local_difference(got, wanted, image, TOLERANCES["int8"])
        assert not found.exceeds(TOLERANCES["int8"]), found
        assert found.median > 1e-4


@pytest.mark.usefixtures("trace_once")
def test_the_command_writes_an_int8_engine_and_no_plan(
    checkpoint: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(exporter, "find_gpus", lambda: ["a GPU"])
    plan = tmp_path / "out" / "e.plan"
    write_scenes(tmp_path / "photos", scenes=2, views=2, image_size=128, seed=0)
    options = ["--precision", "int8", "--calibrate", str(tmp_path / "photos")]
    to_trt.main([str(checkpoint()), "--out", str(plan), *options])
    assert f"{plan}: not built, int8 is for CPUs" in capsys.readouterr().out
    assert sorted(file.suffix for file in plan.parent.iterdir()) == [".json", ".npy", ".onnx"]
    manifest = load_manifest(plan.with_suffix(".onnx"))
    assert manifest.precision == "int8"
    assert any(convolutions(plan.with_suffix(".onnx")).values())


@pytest.mark.usefixtures("trace_once")
def test_a_quantised_graph_that_is_far_off_is_not_kept(
    checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calibrated on black images, every photo is out of range."""
    monkeypatch.setattr(exporter, "find_gpus", list)
    black = tmp_path / "black"
    black.mkdir()
    cv2.imwrite(str(black / "a.png"), np.zeros((96, 128, 3), np.uint8))
    options = ExportOptions(checkpoint(), tmp_path / "e.onnx", precision="int8", calibrate=black)
    with pytest.raises(HowlError, match="differs from the PyTorch network"):
        exporter.export_checkpoint(options)
    assert not (tmp_path / "e.onnx").exists()


def test_calibration_photos_are_for_int8(checkpoint: Callable[..., Path]) -> None:
    with pytest.raises(UsageError, match="--calibrate is for --precision int8"):
        to_trt.main([str(checkpoint()), "--calibrate", "photos"])
