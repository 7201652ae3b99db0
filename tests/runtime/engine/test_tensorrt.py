"""The TensorRT engine: what it refuses, how it uses memory and graphs and, where there is a GPU, its answers.

The network of these tests finds the K brightest pixels of an image, which numpy can do too. Without a GPU the engine
drives stand-ins for CUDA (`tests/cuda`) and TensorRT (`host_engine.py`), in which numpy does.
"""

import gc
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from runtime.asmk.kernel import AsmkParameters
from runtime.bundle import Manifest, PlanRecord
from runtime.engine.schema import features_of
from runtime.engine.tensorrt import engine as tensorrt_engine
from runtime.engine.tensorrt.api import TENSORRT, TENSORRT_RTX, Messages, TensorRT, load_tensorrt
from runtime.engine.tensorrt.engine import GRAPHS, TensorRTEngine
from runtime.errors import HowlError
from runtime.features import Features
from runtime.gpu import Gpu, find_gpus

from ...cuda.stand_in import StandIn
from .host_engine import HostContext, HostEngine, brightest_pixels

TEST_GPU = Gpu("Test GPU", (9, 0))


def random_image(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(1, 256, (height, width, 3), dtype=np.uint8)


def assert_brightest(features: Features, image: NDArray[np.uint8]) -> None:
    local, expected = features.need_local(), brightest_pixels(image)
    n = int(expected["count"])
    assert len(local) == n
    for array in (local.descriptors, local.strengths, local.positions):
        assert array.dtype == np.float32
    np.testing.assert_allclose(local.strengths, expected["strengths"][:n], rtol=1e-5)
    columns, rows = local.positions[:, 0].astype(int), local.positions[:, 1].astype(int)
    np.testing.assert_array_equal(local.descriptors, image[rows, columns].astype(np.float32))
    assert len(set(zip(rows, columns, strict=True))) == n
    assert (local.positions[:, 2] == 1).all()


def extract_often(engine: TensorRTEngine, image: NDArray[np.uint8], times: int = 3) -> None:
    """Extracts versions of an image that differ, all of its size, and checks the answers."""
    for shift in range(times):
        version = np.roll(image, shift, axis=1)
        assert_brightest(engine.extract(version), version)


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
from runtime.engine.tensorrt.engine import TensorRTEngine
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
from runtime.engine.tensorrt.api import load_tensorrt
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
def test_a_file_that_is_no_plan_is_refused_with_the_reason_and_the_remedy(
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
    assert line.endswith("build the plan again on this machine with howl export, or use engine.onnx")


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


# ---------------------------------------------------------------------------------------- on the stand-in


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    cuda = StandIn().install(monkeypatch)
    monkeypatch.setattr(tensorrt_engine, "find_gpus", lambda: [TEST_GPU])
    yield cuda
    assert not cuda.faults


@pytest.fixture
def make_host_engine(cuda: StandIn, monkeypatch: pytest.MonkeyPatch) -> Callable[..., HostEngine]:
    """Makes what an installed TensorRT of the flavour gives for any plan; keywords are fields of HostEngine."""

    def make(flavour: str = TENSORRT, count: NDArray[Any] | None = None, **fields: Any) -> HostEngine:
        module = SimpleNamespace(
            Runtime=lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda plan: host),
            nptype=np.dtype,
            ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="user"),
            CudaGraphStrategy=SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole"),
        )
        trt = TensorRT(flavour, "11.4", module, SimpleNamespace(listeners={}))
        host = HostEngine(cuda, trt, np.array(0, np.int32) if count is None else count, **fields)
        monkeypatch.setattr(tensorrt_engine, "load_tensorrt", lambda: trt)
        return host

    return make


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """What the engine of `make_host_engine` is opened from."""
    path = tmp_path / "engine.plan"
    path.write_bytes(b"a plan")
    return path


@pytest.fixture
def make_engine(make_host_engine: Callable[..., HostEngine], plan: Path) -> Callable[..., TensorRTEngine]:
    """Opens a HostEngine with the given fields."""

    def make(**fields: Any) -> TensorRTEngine:
        make_host_engine(**fields)
        return TensorRTEngine(plan)

    return make


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("shape", [(), (1,)])
@pytest.mark.parametrize("size", [(20, 20), (4, 3)], ids=["more than K candidates", "fewer than K"])
def test_features_are_trimmed_to_the_count(
    make_engine: Callable[..., TensorRTEngine], dtype: Any, shape: tuple, size: tuple[int, int]
) -> None:
    image = random_image(*size)
    with make_engine(count=np.zeros(shape, dtype)) as engine:
        assert engine.provider == "TensorRT 11.4 on Test GPU"
        assert_brightest(engine.extract(image), image)


def test_an_image_that_is_a_view_is_read_in_its_own_order(make_engine: Callable[..., TensorRTEngine]) -> None:
    bgr = random_image(20, 10)
    assert_brightest(make_engine().extract(bgr[..., ::-1]), bgr[..., ::-1])


def test_memory_is_taken_once_for_the_largest_image(make_engine: Callable[..., TensorRTEngine], cuda: StandIn) -> None:
    engine = make_engine()
    for height, width in [(10, 10), (50, 30), (6, 5), (10, 10)]:
        image = random_image(height, width, seed=height)
        assert_brightest(engine.extract(image), image)
        assert cuda.calls["cudaHostAlloc"] == 5  # the tensors
        assert cuda.calls["cudaMallocAsync"] == 6  # and TensorRT's own


def test_closing_frees_the_memory_once(make_engine: Callable[..., TensorRTEngine], cuda: StandIn) -> None:
    engine = make_engine()
    extract_often(engine, random_image(10, 10))
    assert cuda.graphs
    engine.close()
    engine.close()
    assert cuda.is_empty()
    with pytest.raises(ValueError, match="closed"):
        engine.extract(random_image(10, 10))


def test_an_engine_that_is_dropped_frees_its_memory(make_engine: Callable[..., TensorRTEngine], cuda: StandIn) -> None:
    extract_often(make_engine(), random_image(10, 10))
    gc.collect()
    assert cuda.is_empty()


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


@pytest.mark.parametrize("function", ["cudaMallocAsync", "cudaHostAlloc"])
def test_a_full_gpu_is_an_error_that_leaves_nothing(
    make_engine: Callable[..., TensorRTEngine], cuda: StandIn, function: str
) -> None:
    cuda.failing = {function}
    with pytest.raises(HowlError, match=r"engine\.plan: the GPU's memory is full: end what else uses the GPU"):
        make_engine()
    gc.collect()
    assert cuda.is_empty()


@pytest.mark.parametrize("good_runs", [0, 1], ids=["the first", "the one before it is recorded"])
def test_a_failed_run_gives_the_reason_that_tensorrt_gave(
    make_host_engine: Callable[..., HostEngine], plan: Path, good_runs: int
) -> None:
    host, engine, image = make_host_engine(), TensorRTEngine(plan), random_image(10, 10)
    extract_often(engine, image, good_runs)
    host.fails = True
    with pytest.raises(HowlError, match=r"engine\.plan: TensorRT 11\.4 failed: an illegal memory access$"):
        engine.extract(image)
    host.fails = False
    extract_often(engine, image)


def test_a_plan_of_another_graph_is_refused(make_engine: Callable[..., TensorRTEngine]) -> None:
    with pytest.raises(HowlError, match="has no output 'strengths': it is not an engine that howl exported"):
        make_engine(names=("image", "descriptors", "logits"))


def test_a_plan_whose_outputs_follow_the_image_is_refused(
    make_engine: Callable[..., TensorRTEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HostEngine, "get_tensor_shape", lambda self, name: (-1, 3))
    with pytest.raises(HowlError, match="'descriptors' has no fixed size: it is not an engine that howl exported"):
        make_engine()


# ------------------------------------------------------------------------------------------ as CUDA graphs


def test_a_size_that_comes_the_third_time_runs_as_a_graph(
    make_engine: Callable[..., TensorRTEngine], cuda: StandIn
) -> None:
    engine = make_engine()
    extract_often(engine, random_image(10, 10), times=2)
    assert "cudaGraphLaunch" not in cuda.calls
    extract_often(engine, random_image(10, 10), times=3)
    assert cuda.calls["cudaGraphLaunch"] == 3
    assert cuda.calls["cudaStreamBeginCapture"] == 1
    assert len(cuda.graphs) == 1
    assert not cuda.recorded  # what a graph was made from is not kept


def test_a_graph_outlives_images_of_other_sizes(make_engine: Callable[..., TensorRTEngine], cuda: StandIn) -> None:
    engine = make_engine()
    extract_often(engine, random_image(10, 10))
    for size in [(50, 30), (4, 2), (10, 11)]:
        extract_often(engine, random_image(*size), times=1)
    extract_often(engine, random_image(10, 10), times=1)
    assert cuda.calls["cudaGraphLaunch"] == 2


def test_the_size_that_came_longest_ago_loses_its_graph(
    make_engine: Callable[..., TensorRTEngine], cuda: StandIn
) -> None:
    engine = make_engine()
    images = [random_image(10, 10 + more) for more in range(GRAPHS + 1)]
    for image in images[:-1]:
        extract_often(engine, image)
    extract_often(engine, images[0])  # now the second is the oldest
    extract_often(engine, images[-1])
    assert len(cuda.graphs) == GRAPHS
    launches = cuda.calls["cudaGraphLaunch"]
    extract_often(engine, images[0], times=1)
    assert cuda.calls["cudaGraphLaunch"] == launches + 1
    extract_often(engine, images[1], times=3)  # from the beginning
    assert cuda.calls["cudaGraphLaunch"] == launches + 2
    assert len(cuda.graphs) == GRAPHS


def test_sizes_that_take_turns_are_not_recorded_in_vain(
    make_engine: Callable[..., TensorRTEngine], cuda: StandIn
) -> None:
    engine = make_engine()
    for _ in range(3):
        for more in range(GRAPHS + 1):
            extract_often(engine, random_image(10, 10 + more), times=1)
    assert "cudaStreamBeginCapture" not in cuda.calls


@pytest.mark.parametrize(
    "function", ["cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate", "TensorRT's", "no room"]
)
def test_a_size_that_cannot_be_recorded_runs_on_without_a_graph(
    make_host_engine: Callable[..., HostEngine], cuda: StandIn, plan: Path, function: str
) -> None:
    host = make_host_engine()
    with TensorRTEngine(plan) as engine:
        cuda.failing = {function}
        host.is_recordable = function != "TensorRT's"
        host.is_crowded = function == "no room"
        extract_often(engine, random_image(10, 10), times=5)
        assert cuda.calls.get("cudaStreamBeginCapture", 0) == (0 if host.is_crowded else 1)  # no second try
        assert "cudaGraphLaunch" not in cuda.calls
        assert not cuda.recorded

        cuda.failing, host.is_recordable, host.is_crowded = set(), True, False
        extract_often(engine, random_image(20, 20))
        assert cuda.calls["cudaGraphLaunch"] == 1
    assert cuda.is_empty()


def test_tensorrt_rtx_records_graphs_itself(
    make_host_engine: Callable[..., HostEngine], cuda: StandIn, plan: Path
) -> None:
    host = make_host_engine(flavour=TENSORRT_RTX)
    extract_often(TensorRTEngine(plan), random_image(10, 10), times=5)
    (config,) = host.strategies
    assert (config.strategy, config.cuda_graph_strategy) == ("user", "whole")
    assert "cudaStreamBeginCapture" not in cuda.calls


# ---------------------------------------------------------------------------- what the manifest says of a plan

RECORD: PlanRecord = {
    "flavour": TENSORRT,
    "version": "11.4",
    "compute_capability": [9, 0],
    "smallest": 2,
    "largest": 50,
}


def write_manifest(folder: Path, **changes: Any) -> None:
    Manifest(
        fingerprint="",
        system="how",
        method="asmk",
        image_size=50,
        scales=(1.0,),
        features=40,
        dimensions=3,
        asmk=AsmkParameters(),
        network={},
        precision="fp32",
        plan={**RECORD, **changes},  # type: ignore[typeddict-item]
    ).save(folder / "engine.json")


@pytest.mark.parametrize("capability", [(9, 0), None], ids=["this kind of GPU", "several kinds"])
def test_a_plan_that_was_built_for_this_machine_is_opened(
    make_engine: Callable[..., TensorRTEngine], tmp_path: Path, capability: Any
) -> None:
    write_manifest(tmp_path, compute_capability=capability)
    make_engine().close()


@pytest.mark.parametrize(
    ("changes", "builder"),
    [
        ({"version": "10.16"}, "TensorRT 10.16 for compute capability 9.0"),
        ({"compute_capability": [8, 9]}, "TensorRT 11.4 for compute capability 8.9"),
        ({"flavour": TENSORRT_RTX, "compute_capability": None}, "TensorRT-RTX 11.4"),
    ],
    ids=["another version", "another kind of GPU", "another flavour"],
)
def test_a_plan_that_was_built_for_something_else_is_refused_before_it_is_read(
    make_engine: Callable[..., TensorRTEngine],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    changes: dict[str, Any],
    builder: str,
) -> None:
    write_manifest(tmp_path, **changes)
    monkeypatch.setattr(tensorrt_engine, "_load_plan", lambda *_: pytest.fail("the plan was read"))
    with pytest.raises(HowlError) as caught:
        make_engine()
    assert str(caught.value) == (
        f"{tmp_path / 'engine.plan'}: was built by {builder}, but here is TensorRT 11.4 on Test GPU (compute "
        "capability 9.0): build the plan again on this machine with howl export, or use engine.onnx"
    )


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


def test_tensorrt_has_what_the_stand_in_has() -> None:
    trt = installed_tensorrt()
    engine = {name for name in dir(HostEngine) if name.startswith(("get_", "num_", "device_", "create_execution"))}
    context = {name for name in dir(HostContext) if name.startswith(("set_", "execute_"))}
    assert engine <= set(dir(trt.module.ICudaEngine))
    assert context <= set(dir(trt.module.IExecutionContext))
    if trt.flavour == TENSORRT_RTX:
        assert "create_runtime_config" in dir(trt.module.ICudaEngine)
        assert "cuda_graph_strategy" in dir(trt.module.IRuntimeConfig)
        assert "WHOLE_GRAPH_CAPTURE" in dir(trt.module.CudaGraphStrategy)


@pytest.mark.gpu
@pytest.mark.skipif(not find_gpus(), reason="needs an NVIDIA GPU, none was found")
def test_a_real_gpu_finds_the_brightest_pixels(tmp_path: Path) -> None:
    from export.plan import build_plan

    installed_tensorrt()
    graph, plan = tmp_path / "engine.onnx", tmp_path / "engine.plan"
    onnx.save(onnx.parser.parse_model(BRIGHTEST_PIXELS), graph)
    build_plan(graph, plan, smallest=4, typical=(48, 64), largest=256)
    with TensorRTEngine(plan) as engine:
        for seed, (height, width) in enumerate([(48, 64), (5, 4), (256, 256), *[(48, 64)] * 3, (5, 4)]):
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
        assert_brightest(features_of(outputs), image)
