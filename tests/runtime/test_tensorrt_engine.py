"""The TensorRT engine: what it refuses, how it keeps the GPU's memory and, where there is one, its answers.

The graph of these tests finds the K brightest pixels of an image, which numpy can do too. Without a GPU the
engine drives a stand-in for CUDA and TensorRT: memory of this process with checked bounds, in which numpy
runs that graph.
"""

# ruff: noqa: N802, N815 (the stand-in bears CUDA's names)

import ctypes
import gc
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from runtime.engine import tensorrt_engine
from runtime.engine.features import Features
from runtime.engine.tensorrt_api import TENSORRT, Messages, TensorRT, load_tensorrt
from runtime.engine.tensorrt_engine import TensorRTEngine
from runtime.errors import HowlError
from runtime.gpu import Gpu, find_gpus

K = 40
TEST_GPU = Gpu("Test GPU", (9, 0))


def random_image(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(1, 256, (height, width, 3), dtype=np.uint8)


def brightest_pixels(image: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    """The graph of these tests: descriptors are colours, strengths their norms; padded to K rows of -1."""
    height, width, _ = image.shape
    colours = image.reshape(-1, 3).astype(np.float32)
    norms = np.linalg.norm(colours, axis=1)
    best = np.argsort(-norms, kind="stable")[:K]
    positions = np.stack([best % width, best // width, np.ones_like(best)], axis=1)

    def pad(rows: NDArray[Any]) -> NDArray[np.float32]:
        padded = np.full((K, *rows.shape[1:]), -1, np.float32)
        padded[: len(rows)] = rows
        return padded

    return {
        "descriptors": pad(colours[best]),
        "strengths": pad(norms[best]),
        "positions": pad(positions),
        "count": np.array(min(K, height * width)),
    }


def assert_brightest(features: Features, image: NDArray[np.uint8]) -> None:
    expected = brightest_pixels(image)
    n = int(expected["count"])
    assert len(features) == n
    for array in (features.descriptors, features.strengths, features.positions):
        assert array.dtype == np.float32
    np.testing.assert_allclose(features.strengths, expected["strengths"][:n], rtol=1e-5)
    columns, rows = features.positions[:, 0].astype(int), features.positions[:, 1].astype(int)
    np.testing.assert_array_equal(features.descriptors, image[rows, columns].astype(np.float32))
    assert len(set(zip(rows, columns, strict=True))) == n
    assert (features.positions[:, 2] == 1).all()


# ------------------------------------------------------------------------------------------- without a GPU


def run_python(code: str, *arguments: str, **variables: str) -> str:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | variables
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_a_gpu_it_says_so_and_never_imports_tensorrt(tmp_path: Path) -> None:
    plan = tmp_path / "engine.plan"
    plan.write_bytes(b"any")
    said = run_python(
        """
import sys
from pathlib import Path
from runtime.engine.tensorrt_engine import TensorRTEngine
from runtime.errors import HowlError
try:
    TensorRTEngine(Path(sys.argv[1]))
except HowlError as error:
    print(error)
    print(sorted({"tensorrt", "tensorrt_rtx", "cuda"} & set(sys.modules)))
""",
        str(plan),
        CUDA_VISIBLE_DEVICES="",
    )
    line, imported = said.splitlines()
    assert line.startswith(f"{plan}: needs an NVIDIA GPU, none was found: use engine.onnx")
    assert imported == "[]"


def test_without_tensorrt_it_says_what_to_install() -> None:
    said = run_python(
        """
import sys
sys.modules |= {"tensorrt": None, "tensorrt_rtx": None}
from runtime.engine.tensorrt_api import load_tensorrt
from runtime.errors import HowlError
try:
    load_tensorrt()
except HowlError as error:
    print(error)
"""
    )
    assert len(said.splitlines()) == 1
    assert "pip install tensorrt, or tensorrt-rtx-cu13" in said


def test_the_reason_is_one_line_of_the_first_errors() -> None:
    messages = Messages()
    messages.hear("WARNING", "slow")
    assert messages.reason() == "slow"
    for severity, message in [
        ("INFO", "chatter"),
        ("ERROR", "first\n  part"),
        ("INTERNAL_ERROR", "second"),
        ("ERROR", "second"),
    ]:
        messages.hear(severity, message)
    assert messages.reason() == "first part; second"


@pytest.mark.parametrize("content", [b"", b"this is no plan, however long it may be" * 20], ids=["empty", "text"])
def test_a_file_that_is_no_plan_is_refused_with_the_reason_and_the_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    trt = installed_tensorrt()
    monkeypatch.setattr(tensorrt_engine, "find_gpus", lambda: find_gpus() or [TEST_GPU])
    plan = tmp_path / "engine.plan"
    plan.write_bytes(content)
    with pytest.raises(HowlError) as caught:
        TensorRTEngine(plan)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(f"{plan}: {trt} cannot run it on ")
    assert "TensorRT gave no reason" not in line
    assert line.endswith("build the plan again on this machine with export/to_trt.py, or use engine.onnx")


def test_a_missing_plan_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed_tensorrt()
    monkeypatch.setattr(tensorrt_engine, "find_gpus", lambda: find_gpus() or [TEST_GPU])
    with pytest.raises(HowlError, match=r"engine\.plan: cannot be read: No such file"):
        TensorRTEngine(tmp_path / "engine.plan")


def installed_tensorrt() -> TensorRT:
    """The TensorRT installed here, if its Runtime may be touched: TensorRT's own crashes without a driver."""
    if not any(importlib.util.find_spec(name) for name in ("tensorrt", "tensorrt_rtx")):
        pytest.skip("neither tensorrt nor tensorrt_rtx is installed")
    trt = load_tensorrt()
    if trt.flavour == TENSORRT and not find_gpus():
        pytest.skip("tensorrt's Runtime needs an NVIDIA GPU, none was found")
    return trt


# ------------------------------------------------------------------ a stand-in for CUDA and TensorRT


class HostCuda:
    """CUDA's functions over memory of this process: every copy is checked against what was allocated."""

    cudaError_t = SimpleNamespace(cudaSuccess=0)
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cudaStreamNonBlocking = 1
    out_of_memory = 2

    def __init__(self) -> None:
        self.blocks: dict[int, NDArray[np.uint8]] = {}
        self.streams: set[int] = set()
        self.allocations = 0
        self.is_full = False

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[int, int]:
        self.streams.add(7)
        return 0, 7

    def cudaStreamDestroy(self, stream: int) -> tuple[int]:
        self.streams.remove(stream)
        return (0,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:
        return (0 if stream in self.streams else 1,)

    def cudaMalloc(self, size: int) -> tuple[int, int | None]:
        if self.is_full:
            return self.out_of_memory, None
        block = np.zeros(size, np.uint8)
        self.blocks[block.ctypes.data] = block
        self.allocations += 1
        return 0, block.ctypes.data

    def cudaFree(self, address: int) -> tuple[int]:
        del self.blocks[address]
        return (0,)

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: int, stream: int) -> tuple[int]:
        device = target if kind == 1 else source
        assert size <= self.blocks[device].nbytes
        assert stream in self.streams
        ctypes.memmove(target, source, size)
        return (0,)

    def cudaGetLastError(self) -> tuple[int]:
        return (0,)

    def cudaGetErrorString(self, error: int) -> tuple[int, bytes]:
        return 0, b"out of memory" if error == self.out_of_memory else b"invalid argument"


class BrightestPixelsContext:
    """An IExecutionContext and ICudaEngine in one, for images of 2×4 to 30×50 pixels (width × height)."""

    names = ("image", "descriptors", "strengths", "positions", "count")

    def __init__(self, cuda: HostCuda, trt: TensorRT, count: NDArray[Any]) -> None:
        self.cuda, self.trt, self.count_like = cuda, trt, count
        self.num_io_tensors = len(self.names)
        self.addresses: dict[str, int] = {}
        self.fails = False

    def create_execution_context(self) -> "BrightestPixelsContext":
        return self

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, int, int]]:
        return [(4, 2, 3), (20, 20, 3), (50, 30, 3)]

    def get_tensor_dtype(self, name: str) -> Any:
        return self.count_like.dtype if name == "count" else np.float32

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return {
            "descriptors": (K, 3),
            "strengths": (K,),
            "positions": (K, 3),
            "count": self.count_like.shape,
        }[name]

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.image_shape = shape
        return name == "image"

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        if self.fails:
            for listener in self.trt.logger.listeners.values():
                listener.hear("ERROR", "an illegal memory access")
            return False
        size = int(np.prod(self.image_shape))
        image = self.cuda.blocks[self.addresses["image"]][:size].reshape(self.image_shape)
        time.sleep(0.001)  # another thread gets its chance to interfere
        for name, output in brightest_pixels(image).items():
            if name == "count":
                output = np.full_like(self.count_like, output)
            block = self.cuda.blocks[self.addresses[name]]
            block[: output.nbytes] = np.frombuffer(output.tobytes(), np.uint8)
        return True


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> HostCuda:
    host = HostCuda()
    monkeypatch.setattr(tensorrt_engine, "find_gpus", lambda: [TEST_GPU])
    monkeypatch.setattr(tensorrt_engine, "_import_cuda", lambda path: host)
    return host


@pytest.fixture
def make_engine(cuda: HostCuda, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., TensorRTEngine]:
    """Makes the engine of the brightest pixels, its count of the type and shape of `count`."""

    def make(count: NDArray[Any] = np.array(0, np.int32)) -> TensorRTEngine:  # noqa: B008
        module = SimpleNamespace(
            Runtime=lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda plan: context),
            nptype=np.dtype,
        )
        trt = TensorRT(TENSORRT, "0.0", module, SimpleNamespace(listeners={}))
        context = BrightestPixelsContext(cuda, trt, count)
        monkeypatch.setattr(tensorrt_engine, "load_tensorrt", lambda: trt)
        (tmp_path / "engine.plan").write_bytes(b"a plan")
        return TensorRTEngine(tmp_path / "engine.plan")

    return make


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("shape", [(), (1,)])
@pytest.mark.parametrize("size", [(20, 20), (4, 3)], ids=["more than K candidates", "fewer than K"])
def test_features_are_trimmed_to_the_count(
    make_engine: Callable[..., TensorRTEngine], dtype: Any, shape: tuple, size: tuple[int, int]
) -> None:
    image = random_image(*size)
    with make_engine(np.zeros(shape, dtype)) as engine:
        assert engine.provider == "TensorRT 0.0 on Test GPU"
        assert_brightest(engine.extract(image), image)


def test_an_image_that_is_a_view_is_read_in_its_own_order(make_engine: Callable[..., TensorRTEngine]) -> None:
    bgr = random_image(20, 10)
    assert_brightest(make_engine().extract(bgr[..., ::-1]), bgr[..., ::-1])


def test_memory_grows_to_the_largest_image_and_is_used_again(
    make_engine: Callable[..., TensorRTEngine], cuda: HostCuda
) -> None:
    engine = make_engine()
    for height, width, allocations in [(10, 10, 5), (10, 10, 5), (40, 20, 6), (6, 5, 6), (20, 40 // 2, 6)]:
        image = random_image(height, width, seed=height)
        assert_brightest(engine.extract(image), image)
        assert cuda.allocations == allocations
        assert len(cuda.blocks) == 5


def test_closing_frees_the_memory_once(make_engine: Callable[..., TensorRTEngine], cuda: HostCuda) -> None:
    engine = make_engine()
    engine.extract(random_image(10, 10))
    assert cuda.blocks
    assert cuda.streams
    engine.close()
    engine.close()
    assert not cuda.blocks
    assert not cuda.streams
    with pytest.raises(ValueError, match="closed"):
        engine.extract(random_image(10, 10))


def test_an_engine_that_is_dropped_frees_its_memory(make_engine: Callable[..., TensorRTEngine], cuda: HostCuda) -> None:
    make_engine().extract(random_image(10, 10))
    gc.collect()
    assert not cuda.blocks
    assert not cuda.streams


def test_features_outlive_the_engine_and_the_next_image(make_engine: Callable[..., TensorRTEngine]) -> None:
    first, second = random_image(10, 10, seed=1), random_image(10, 10, seed=2)
    with make_engine() as engine:
        features = engine.extract(first)
        engine.extract(second)
    assert_brightest(features, first)


def test_threads_take_turns(make_engine: Callable[..., TensorRTEngine]) -> None:
    engine = make_engine()
    images = [random_image(4 + seed, 3 + seed // 2, seed) for seed in range(40)]
    with ThreadPoolExecutor(4) as pool:
        for image, features in zip(images, pool.map(engine.extract, images), strict=True):
            assert_brightest(features, image)


def test_an_image_larger_or_smaller_than_the_plan_takes_is_refused_with_the_range(
    make_engine: Callable[..., TensorRTEngine],
) -> None:
    engine = make_engine()
    for height, width in [(51, 30), (50, 31), (3, 2), (4, 1)]:
        with pytest.raises(HowlError) as caught:
            engine.extract(random_image(height, width))
        assert f"takes images from 2×4 to 30×50 pixels, not {width}×{height}" in str(caught.value)
        assert "use engine.onnx" in str(caught.value)
    for height, width in [(50, 30), (4, 2)]:
        assert engine.extract(random_image(height, width))


@pytest.mark.parametrize(
    "image",
    [np.zeros((10, 10), np.uint8), np.zeros((10, 10, 4), np.uint8), np.zeros((10, 10, 3), np.float32)],
    ids=["grey", "with alpha", "float"],
)
def test_what_is_no_rgb_image_is_refused(make_engine: Callable[..., TensorRTEngine], image: NDArray[Any]) -> None:
    with pytest.raises(HowlError, match=r"takes uint8 images \[H, W, 3\]"):
        make_engine().extract(image)


def test_a_full_gpu_is_an_error_from_which_the_engine_recovers(
    make_engine: Callable[..., TensorRTEngine], cuda: HostCuda
) -> None:
    engine, small, large = make_engine(), random_image(10, 10), random_image(20, 20)
    engine.extract(small)
    cuda.is_full = True
    with pytest.raises(HowlError, match=r"engine\.plan: the GPU failed in cudaMalloc: out of memory"):
        engine.extract(large)
    cuda.is_full = False
    assert_brightest(engine.extract(large), large)
    engine.close()
    assert not cuda.blocks


def test_a_failed_run_gives_the_reason_that_tensorrt_gave(make_engine: Callable[..., TensorRTEngine]) -> None:
    engine, image = make_engine(), random_image(10, 10)
    engine._context.fails = True
    with pytest.raises(HowlError, match=r"engine\.plan: TensorRT 0\.0 failed: an illegal memory access$"):
        engine.extract(image)
    engine._context.fails = False
    assert_brightest(engine.extract(image), image)


def test_a_plan_of_another_graph_is_refused(
    make_engine: Callable[..., TensorRTEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BrightestPixelsContext, "names", ("image", "descriptors", "logits"))
    with pytest.raises(HowlError, match="has no 'strengths': it is not an engine that howl exported"):
        make_engine()


# ------------------------------------------------------------------------------------------------ with a GPU

BRIGHTEST_PIXELS = """<ir_version: 10, opset_import: ["" : 18]>
brightest (uint8[h, w, 3] image)
=> (float[40, 3] descriptors, float[40] strengths, float[40, 3] positions, int32 count) {
    first = Constant <value_ints = [0]> ()
    second = Constant <value_ints = [1]> ()
    none = Constant <value_float = -1.0> ()
    rows = Constant <value_ints = [-1, 3]> ()
    pixels = Cast <to = 1> (image)
    colours = Reshape (pixels, rows)
    norms = ReduceL2 <keepdims = 0> (colours, second)
    more = Constant <value_ints = [0, 40]> ()
    padded_norms = Pad (norms, more, none)
    more_rows = Constant <value_ints = [0, 0, 40, 0]> ()
    padded_colours = Pad (colours, more_rows, none)
    K = Constant <value_ints = [40]> ()
    strengths, index = TopK <axis = 0> (padded_norms, K)
    descriptors = Gather <axis = 0> (padded_colours, index)
    width = Shape <start = 1, end = 2> (image)
    column = Mod (index, width)
    row = Div (index, width)
    x_flat = Cast <to = 1> (column)
    y_flat = Cast <to = 1> (row)
    x = Unsqueeze (x_flat, second)
    y = Unsqueeze (y_flat, second)
    level_shape = Constant <value_ints = [40, 1]> ()
    unit = Constant <value_float = 1.0> ()
    level = Expand (unit, level_shape)
    positions = Concat <axis = 1> (x, y, level)
    zero = Constant <value_float = 0.0> ()
    is_valid = Greater (strengths, zero)
    valid = Cast <to = 6> (is_valid)
    count = ReduceSum <keepdims = 0> (valid, first)
}"""


@pytest.mark.gpu
@pytest.mark.skipif(not find_gpus(), reason="needs an NVIDIA GPU, none was found")
def test_a_real_gpu_finds_the_brightest_pixels(tmp_path: Path) -> None:
    from export.plan import build_plan

    installed_tensorrt()
    graph, plan = tmp_path / "engine.onnx", tmp_path / "engine.plan"
    onnx.save(onnx.parser.parse_model(BRIGHTEST_PIXELS), graph)
    build_plan(graph, plan, smallest=4, typical=(48, 64), largest=256)
    with TensorRTEngine(plan) as engine:
        for seed, (height, width) in enumerate([(48, 64), (5, 4), (256, 256), (64, 48), (48, 64)]):
            image = random_image(height, width, seed)
            assert_brightest(engine.extract(image), image)
        with pytest.raises(HowlError, match="takes images from 4×4 to 256×256 pixels, not 257×48"):
            engine.extract(random_image(48, 257))


def test_the_graph_given_to_the_gpu_is_the_one_of_numpy() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(
        onnx.parser.parse_model(BRIGHTEST_PIXELS).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    for size in [(48, 64), (5, 4)]:
        image = random_image(*size)
        outputs = dict(zip(brightest_pixels(image), session.run(None, {"image": image}), strict=True))
        n = int(outputs.pop("count"))
        features = Features(**{name: array[:n] for name, array in outputs.items()})
        assert_brightest(features, image)
