"""The int8 backbone: what is quantised and what is not, and how near it stays."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from export.parity import TOLERANCES, local_difference
from export.quantise import SCOPES, backbone_nodes, quantise_backbone
from export.tracing import export_onnx, fold
from runtime.engine import open_engine
from runtime.io.image import Image
from train.data.synthetic import render_view
from train.models.base import ExtractionConfig
from train.models.extractor import LocalExtractor, extract
from train.models.how import HowNetwork

pytestmark = pytest.mark.slow

EXTRACTION = ExtractionConfig(128, (1.414,), features=200)


@pytest.fixture(scope="module")
def photos() -> list[Image]:
    return [render_view(3, scene, 0, width=128, height=96) for scene in range(6)]


@pytest.fixture(scope="module")
def exported(
    network: Callable[..., HowNetwork], tmp_path_factory: pytest.TempPathFactory
) -> tuple[LocalExtractor, Path]:
    """A float32 graph, and the PyTorch network that it was exported from."""
    path = tmp_path_factory.mktemp("exported") / "fp32.onnx"
    export_onnx(fold(network(refine="none"), "int8").extractor(EXTRACTION).eval(), path, {})
    return network(refine="none").extractor(EXTRACTION).eval(), path


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


def test_a_module_of_the_head_that_the_backbone_calls_stays_in_float() -> None:
    graph = onnx.GraphProto()
    for name, scope in {
        "convolution": "['', 'network', 'network.backbone', 'network.backbone.layer3', 'conv2d']",
        "addition": "['', 'network', 'network.backbone', 'add']",
        "attention": "['', 'network', 'network.backbone', 'network.attention.layer3', 'matmul']",
        "pooling": "['', 'network', 'network.pooling', 'mean']",
    }.items():
        node = onnx.helper.make_node("Relu", ["x"], ["y"], name=name)
        node.metadata_props.add(key=SCOPES, value=scope)
        graph.node.append(node)
    model = onnx.ModelProto(graph=graph)
    assert backbone_nodes(model, ()) == ["convolution", "addition"]
    assert backbone_nodes(model, ("layer3",)) == ["addition"]
