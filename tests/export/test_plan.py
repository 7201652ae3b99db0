"""Plans built by a real TensorRT from small graphs with the exported graph's interface and kinds of node."""

import importlib.util
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from export import plan as plan_module
from export.plan import build_plan
from runtime.bundle import EngineFiles
from runtime.engine.tensorrt.api import TENSORRT, TENSORRT_RTX, Messages, load_tensorrt
from runtime.errors import HowlError
from runtime.gpu import Gpu, find_gpus

_installed = [name for name in ("tensorrt", "tensorrt_rtx") if importlib.util.find_spec(name)]
pytestmark = [
    pytest.mark.skipif(not _installed, reason="neither tensorrt nor tensorrt_rtx is installed"),
    pytest.mark.skipif(TENSORRT in _installed and not find_gpus(), reason="tensorrt builds only with an NVIDIA GPU"),
]

SIZES = {"smallest": 64, "typical": (96, 128), "largest": 256}

HEADER = '<ir_version: 10, opset_import: ["" : 18]> howl (uint8[h, w, 3] image)'

# Every kind of node that the exported graph is made of, K = 50: at 64×64 pixels there are fewer candidates.
LOCAL_DESCRIPTORS = (
    HEADER
    + """
=> (float[50, 8] descriptors, float[50] strengths, float[50, 3] positions, int32 count)
<float[8, 3, 8, 8] backbone, float[8, 1, 3, 3] ring> {
    first = Constant <value_ints = [0]> ()
    second = Constant <value_ints = [1]> ()
    third = Constant <value_ints = [2]> ()
    zero = Constant <value_int = 0> ()
    one = Constant <value_int = 1> ()
    nothing = Constant <value_float = 0.0> ()
    never = Constant <value = float {-inf}> ()

    pixels = Cast <to = 1> (image)
    planes = Transpose <perm = [2, 0, 1]> (pixels)
    full = Unsqueeze (planes, first)
    size = Shape <start = 0, end = 2> (image)
    size_float = Cast <to = 1> (size)
    scale = Constant <value_float = 0.707> ()
    smaller_float = Mul (size_float, scale)
    smaller_floor = Floor (smaller_float)
    smaller = Cast <to = 7> (smaller_floor)
    batch = Constant <value_ints = [1, 3]> ()
    target = Concat <axis = 0> (batch, smaller)
    half = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel"> (full, , , target)

    map = Conv <kernel_shape = [8, 8], strides = [8, 8]> (half, backbone)
    smooth = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1], group = 8> (map, ring)
    bounded = Tanh (smooth)
    rows = Constant <value_ints = [8, -1]> ()
    flat = Reshape (bounded, rows)
    features = Transpose <perm = [1, 0]> (flat)
    attention = ReduceL2 <keepdims = 0> (features, second)

    padding = Constant <value_ints = [0, 50]> ()
    padded_attention = Pad (attention, padding, never)
    K = Constant <value_ints = [50]> ()
    best, index = TopK <axis = 0> (padded_attention, K)
    padding_rows = Constant <value_ints = [0, 0, 50, 0]> ()
    padded_features = Pad (features, padding_rows, nothing)
    nodes = Gather <axis = 0> (padded_features, index)
    is_padding = IsInf (best)
    strengths = Where (is_padding, nothing, best)

    transposed = Transpose <perm = [1, 0]> (nodes)
    similarity = MatMul (nodes, transposed)
    k = Constant <value_ints = [4]> ()
    nearness, neighbours = TopK <axis = 1> (similarity, k)
    weights = Softmax <axis = 1> (nearness)
    messages = Gather <axis = 0> (nodes, neighbours)
    refined = Einsum <equation = "nk,nkd->nd"> (weights, messages)
    rows_of_index = Unsqueeze (index, second)
    wide = Constant <value_ints = [50, 8]> ()
    everywhere = Expand (rows_of_index, wide)
    refined_map = ScatterElements <axis = 0> (padded_features, everywhere, refined)
    descriptors = GatherElements <axis = 0> (refined_map, everywhere)

    map_size = Shape <start = 2, end = 4> (map)
    map_width = Gather <axis = 0> (map_size, one)
    columns = Range (zero, map_width, one)
    row = Div (index, map_width)
    column = Mod (index, map_width)
    x = Cast <to = 1> (column)
    y = Cast <to = 1> (row)
    level = Expand (scale, K)
    x_column = Unsqueeze (x, second)
    y_column = Unsqueeze (y, second)
    level_column = Unsqueeze (level, second)
    positions = Concat <axis = 1> (x_column, y_column, level_column)

    is_valid = Not (is_padding)
    valid = Cast <to = 6> (is_valid)
    count = ReduceSum <keepdims = 0> (valid, first)
}"""
)

UNSUPPORTED = HEADER + "=> (float[n] found) { pixels = Cast <to = 1> (image)\n found = Unique <axis = 0> (pixels) }"
TOO_MANY = (
    HEADER
    + """=> (float[5000] best) {
    pixels = Cast <to = 1> (image)
    one_row = Constant <value_ints = [-1]> ()
    flat = Reshape (pixels, one_row)
    K = Constant <value_ints = [5000]> ()
    best, index = TopK <axis = 0> (flat, K)
}"""
)
ANOTHER_INPUT = HEADER.replace("image", "picture") + "=> (float[h, w, 3] pixels) { pixels = Cast <to = 1> (picture) }"


def write_onnx(path: Path, text: str, **weights: np.ndarray) -> Path:
    model = onnx.parser.parse_model(text)
    del model.graph.initializer[:]
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    onnx.save(model, path)
    return path


@pytest.fixture
def descriptors_onnx(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    weights = {
        "backbone": random.normal(0, 1e-3, (8, 3, 8, 8)).astype(np.float32),
        "ring": np.full((8, 1, 3, 3), 1 / 9, np.float32),
    }
    return write_onnx(tmp_path / "engine.onnx", LOCAL_DESCRIPTORS, **weights)


def test_the_kinds_of_node_howl_exports_become_a_plan(descriptors_onnx: Path) -> None:
    plan = descriptors_onnx.with_name("engine.plan")
    info = build_plan(descriptors_onnx, plan, **SIZES)

    assert plan.stat().st_size == info.size > 0
    assert info.flavour == load_tensorrt().flavour in _installed
    assert info.version == load_tensorrt().version
    assert info.seconds > 0
    assert not any("kMIN" in warning for warning in info.warnings)  # the smallest image fits too
    assert {path.name for path in plan.parent.iterdir()} - {"engine.timing"} == {"engine.onnx", "engine.plan"}


def test_weights_in_a_neighbouring_file_are_found(descriptors_onnx: Path) -> None:
    model = onnx.load(descriptors_onnx)
    folder = descriptors_onnx.parent / "split"
    folder.mkdir()
    onnx.save(model, folder / "engine.onnx", save_as_external_data=True, location="engine.data", size_threshold=0)
    assert build_plan(folder / "engine.onnx", folder / "engine.plan", **SIZES).size > 0


def test_a_new_plan_replaces_the_old(descriptors_onnx: Path) -> None:
    plan = descriptors_onnx.with_name("engine.plan")
    plan.write_bytes(b"old")
    assert build_plan(descriptors_onnx, plan, **SIZES).size == plan.stat().st_size > len(b"old")


def refusal(onnx_path: Path, sizes: dict = SIZES) -> str:
    """The one line with which the build is refused; an older plan stays as it was, with nothing beside it."""
    plan = onnx_path.with_name("engine.plan")
    plan.write_bytes(b"old")
    before = sorted(onnx_path.parent.iterdir())
    with pytest.raises(HowlError) as caught:
        build_plan(onnx_path, plan, **sizes)
    assert plan.read_bytes() == b"old"
    assert sorted(onnx_path.parent.iterdir()) == before
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (UNSUPPORTED, ["Unique", "UNSUPPORTED_NODE"]),
        (TOO_MANY, ["K exceeds the maximum value allowed (3840)"]),
        (ANOTHER_INPUT, ["has no input 'image'"]),
    ],
    ids=["unsupported node", "K over 3840", "another input"],
)
def test_a_graph_that_tensorrt_cannot_build_is_refused_with_its_reason(
    tmp_path: Path, text: str, words: list[str]
) -> None:
    path = write_onnx(tmp_path / "engine.onnx", text)
    line = refusal(path)
    assert line.startswith(f"{path}: ")
    assert all(word in line for word in words)


@pytest.mark.parametrize("content", [b"", b"hello", b"not an ONNX file"], ids=["empty", "text", "other text"])
def test_a_file_that_is_not_onnx_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "engine.onnx"
    path.write_bytes(content)
    assert refusal(path).startswith(f"{path}: ")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "engine.onnx").startswith(f"{tmp_path / 'engine.onnx'}: no such file")


@pytest.mark.parametrize(
    "sizes",
    [
        {"smallest": 128, "typical": (96, 128), "largest": 256},
        {"smallest": 64, "typical": (96, 300), "largest": 256},
        {"smallest": 0, "typical": (96, 128), "largest": 256},
    ],
    ids=["typical too small", "typical too large", "nothing as smallest"],
)
def test_sizes_out_of_order_are_refused(descriptors_onnx: Path, sizes: dict) -> None:
    assert "not in order" in refusal(descriptors_onnx, sizes)


def test_a_failure_leaves_no_words_for_the_next(descriptors_onnx: Path, tmp_path: Path) -> None:
    refusal(write_onnx(tmp_path / "other.onnx", TOO_MANY))
    assert "K exceeds" not in refusal(write_onnx(tmp_path / "another.onnx", UNSUPPORTED))
    assert build_plan(descriptors_onnx, tmp_path / "engine.plan", **SIZES).size > 0


def test_a_folder_that_cannot_be_is_named(descriptors_onnx: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    plan = tmp_path / "file" / "engine.plan"
    with pytest.raises(HowlError, match=r"engine\.plan: cannot be written"):
        build_plan(descriptors_onnx, plan, **SIZES)


# ------------------------------------------------------------------------- what TensorRT measures while it builds


@pytest.fixture
def as_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes TensorRT-RTX, whose timing cache stays empty, for TensorRT with a GPU."""
    trt = replace(load_tensorrt(), flavour=TENSORRT)
    monkeypatch.setattr(plan_module, "load_tensorrt", lambda: trt)
    monkeypatch.setattr(plan_module, "find_gpus", lambda: [Gpu("Test GPU", (9, 0))])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*Timing cache")  # TensorRT-RTX deprecates it
@pytest.mark.parametrize("older", [None, b"of another TensorRT" * 20], ids=["none yet", "one that does not fit"])
def test_timings_are_kept_beside_the_plan(descriptors_onnx: Path, as_tensorrt: None, older: bytes | None) -> None:
    timings = descriptors_onnx.with_name("engine.timing")
    if older:
        timings.write_bytes(older)
    for _ in range(2):  # the second build finds the first one's
        info = build_plan(descriptors_onnx, descriptors_onnx.with_name("engine.plan"), **SIZES)
        assert info.compute_capability == (9, 0)
        assert timings.read_bytes() not in (b"", older)


def test_a_plan_of_tensorrt_rtx_is_for_several_kinds_of_gpu_and_has_no_timings(descriptors_onnx: Path) -> None:
    if load_tensorrt().flavour != TENSORRT_RTX:
        pytest.skip("tensorrt is installed, which goes before tensorrt_rtx")
    plan = descriptors_onnx.with_name("engine.plan")
    assert build_plan(descriptors_onnx, plan, **SIZES).compute_capability is None
    assert not EngineFiles.of(plan).timing.exists()


class Config:
    """An IBuilderConfig that takes timing caches of its own TensorRT and GPU, and empty ones."""

    attached: bytes | None = None

    def create_timing_cache(self, content: bytes) -> Any:
        return None if content == b"damaged" else SimpleNamespace(content=content)

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        fits = ignore_mismatch or cache.content in (b"", b"fits")
        if fits:
            self.attached = cache.content
        return fits


@pytest.mark.parametrize(
    ("stored", "attached"), [(b"fits", b"fits"), (b"another GPU", b""), (b"damaged", b""), (None, b"")]
)
def test_timings_of_another_tensorrt_or_gpu_are_ignored(tmp_path: Path, stored: bytes | None, attached: bytes) -> None:
    path, config = tmp_path / "engine.timing", Config()
    if stored is not None:
        path.write_bytes(stored)
    messages = Messages(errors=["the cache is of another GPU"])
    plan_module._load_timings(config, path, messages)
    assert config.attached == attached
    assert messages.reason() == "TensorRT gave no reason"
