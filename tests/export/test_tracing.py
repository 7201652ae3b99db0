"""The exported graph: plain ONNX Runtime against PyTorch, and what its shapes promise."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from export.parity import TOLERANCES, global_difference, local_difference
from export.plan import build_plan
from export.tracing import export_onnx, fold
from runtime.features import LocalFeatures
from train.data.synthetic import render_view
from train.models.base import ExtractionConfig
from train.models.extractor import LocalExtractor, extract
from train.models.how import HowNetwork

pytestmark = pytest.mark.slow

Build = Callable[..., HowNetwork]
Export = Callable[..., Path]
K = 300
SIZES = [(96, 128), (131, 77), (64, 64), (33, 40)]  # of the last, the pyramid has fewer than K positions


VARIANTS = {
    "HOW": {"smoothing": "average", "refine": "none"},
    "both": {"smoothing": "learned", "refine": "graph", "kernel": 5},
    "self-attention": {"smoothing": "average", "refine": "self-attention", "border": True},
    "both, one bandwidth, a graph larger than the map": {"bandwidth": "shared", "graph_nodes": 2000},
}


@pytest.fixture(scope="module")
def exported(network: Build, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Exports a variant, once."""
    folder = tmp_path_factory.mktemp("exported")

    def export(variant: str, precision: str = "fp32") -> Path:
        path = folder / f"{variant} {precision}.onnx"
        if not path.exists():
            extractor = LocalExtractor(fold(network(**VARIANTS[variant]), precision), scales_of(variant, precision), K)
            export_onnx(extractor.eval(), path, {"howl.fingerprint": "abc"})
        return path

    return export


def scales_of(variant: str, precision: str = "fp32") -> tuple[float, ...]:
    """A pyramid where it matters: each of its levels takes seconds to trace."""
    return (1.414, 0.5) if variant == "HOW" and precision == "fp32" else (1.0,)


def run(path: Path, image: np.ndarray) -> list[np.ndarray]:
    return onnxruntime.InferenceSession(str(path)).run(None, {"image": image})


def test_the_smallest_levels_have_any_size(network: Build, tmp_path: Path) -> None:
    """Maps of one cell, of one row or column, and larger ones: the tracer must not tie the graph to one of them."""
    both, scale = network(backbone="small_stride32", graph_neighbours=2, border=True), 0.353
    export_onnx(LocalExtractor(fold(both, "fp32"), (scale,), 60).eval(), tmp_path / "small.onnx", {})
    for height, width in [(32, 32), (33, 700), (700, 33), (288, 416), (700, 700)]:
        image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        cells = -(-int(height * scale) // 32) * -(-int(width * scale) // 32)
        assert run(tmp_path / "small.onnx", image)[3].tolist() == [min(cells, 60)]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_graph_equals_pytorch_at_any_size(variant: str, network: Build, exported: Export) -> None:
    original, path = network(**VARIANTS[variant]), exported(variant)
    pytorch = LocalExtractor(original, scales_of(variant), K).eval()
    counts = []
    for height, width in SIZES:
        image = render_view(3, 0, 0, width=width, height=height)
        descriptors, strengths, positions, count = run(path, image)
        assert descriptors.shape == (K, 16)
        assert descriptors.dtype == strengths.dtype == positions.dtype == np.float32
        n = int(count[0])
        counts.append(n)
        assert not descriptors[n:].any()
        assert not strengths[n:].any()
        got = LocalFeatures(descriptors[:n], strengths[:n], positions[:n])
        result = local_difference(got, extract(pytorch, image).need_local(), image, TOLERANCES["fp32"])
        assert not result.exceeds(TOLERANCES["fp32"]), str(result)
    assert counts[0] == K > counts[-1] > 0


def test_a_half_precision_backbone_stays_near(network: Build, exported: Export) -> None:
    path = exported("both", "fp16")
    assert any(t.data_type == onnx.TensorProto.FLOAT16 for t in onnx.load(path).graph.initializer)
    image = render_view(3, 0, 0, width=128, height=96)
    descriptors, strengths, positions, _ = run(path, image)
    assert np.isfinite(descriptors).all()
    pytorch = LocalExtractor(network(**VARIANTS["both"]), scales_of("both", "fp16"), K).eval()
    got = LocalFeatures(descriptors, strengths, positions)
    result = local_difference(got, extract(pytorch, image).need_local(), image, TOLERANCES["fp16"])
    assert result.median < 0.02, str(result)


def test_the_graph_is_whole_static_in_k_and_dynamic_in_size(exported: Export) -> None:
    model = onnx.load(exported("both"))
    onnx.checker.check_model(model)
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in [*model.graph.input, *model.graph.output]
    }
    assert shapes.pop("image") == ["height", "width", 3]
    assert shapes == {"descriptors": [K, 16], "strengths": [K], "positions": [K, 3], "count": [1]}
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    assert {p.key: p.value for p in model.metadata_props}["howl.fingerprint"] == "abc"


def test_a_global_system_on_a_real_backbone_has_one_output_and_equals_pytorch(network: Build, tmp_path: Path) -> None:
    extraction = ExtractionConfig(128, (0.5,), features=None)
    gem = network(system="gem", backbone="efficientnet_lite0")
    pytorch, path = gem.extractor(extraction).eval(), tmp_path / "gem.onnx"
    export_onnx(fold(gem, "fp32").extractor(extraction).eval(), path, {})
    (output,) = onnx.load(path).graph.output
    assert (output.name, [d.dim_value for d in output.type.tensor_type.shape.dim]) == ("global_descriptor", [12])
    for height, width in SIZES:
        image = render_view(3, 0, 0, width=width, height=height)
        (descriptor,) = run(path, image)
        result = global_difference("global descriptor", descriptor, extract(pytorch, image).need_global(), image)
        assert not result.exceeds(TOLERANCES["fp32"]), str(result)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_tensorrt_rtx_builds_a_plan_of_the_whole_graph(precision: str, exported: Export, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX, which builds plans without a GPU, is not installed")
    info = build_plan(exported("both", precision), tmp_path / "g.plan", smallest=32, typical=(96, 128), largest=256)
    assert info.size == (tmp_path / "g.plan").stat().st_size > 10_000
    assert not [warning for warning in info.warnings if "self-consistent" in warning]
