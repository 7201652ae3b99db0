"""ONNX Runtime: its answers, and its refusal to run on anything but the device that was asked for."""

import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.engine import onnxruntime as onnxruntime_engine
from runtime.engine import open_engine
from runtime.engine.interface import PHOTO_BATCH
from runtime.engine.onnxruntime import CPU, CUDA, OnnxRuntimeEngine, choose_provider, import_onnxruntime
from runtime.engine.schema import IMAGE, LOCAL_OUTPUTS
from runtime.errors import HowlError
from runtime.gpu import Gpu

from ..rush import Room

K, CELL = 50, 8


def random_image(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def refusal(call: Any, *arguments: Any) -> str:
    with pytest.raises(HowlError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def pretend_gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(onnxruntime_engine, "find_gpus", lambda: [Gpu("Test GPU", (9, 0))] * count)


@pytest.mark.parametrize("size", [(96, 128), (128, 96), (50, 61), (32, 32)], ids=lambda size: f"{size[0]}×{size[1]}")
def test_features_are_those_that_numpy_works_out(
    exported: Path, filters: NDArray[np.float32], size: tuple[int, int]
) -> None:
    image = random_image(*size)
    rows, columns = size[0] // CELL, size[1] // CELL
    cells = image[: rows * CELL, : columns * CELL].reshape(rows, CELL, columns, CELL, 3).astype(np.float64)
    descriptors = np.einsum("rycxk,dkyx->rcd", cells, filters).reshape(rows * columns, -1)
    norms = np.linalg.norm(descriptors, axis=1)
    best = np.argsort(-norms)[:K]

    features = OnnxRuntimeEngine(exported / "engine.onnx", "cpu").extract(image).need_local()
    assert len(features) == min(K, rows * columns)  # the padding of small images is cut off
    np.testing.assert_allclose(features.descriptors, descriptors[best], atol=1e-3)
    np.testing.assert_allclose(features.strengths, norms[best] / norms.max(), atol=1e-5)
    expected = np.stack([best % columns * CELL + 3.5, best // columns * CELL + 3.5, np.ones(len(best))], axis=1)
    np.testing.assert_array_equal(features.positions, expected)
    assert {array.dtype for array in (features.descriptors, features.strengths, features.positions)} == {np.dtype("f4")}


def test_an_engine_says_what_runs_it(exported: Path) -> None:
    engine = open_engine(exported / "engine.onnx", "cpu")
    assert isinstance(engine, OnnxRuntimeEngine)
    assert engine.provider == CPU


@pytest.mark.parametrize(
    "image",
    [np.zeros((40, 40), np.uint8), np.zeros((40, 40, 4), np.uint8), np.zeros((40, 40, 3), np.float32)],
    ids=["grey", "four channels", "float"],
)
def test_an_image_that_the_graph_does_not_take_is_one_line(exported: Path, image: NDArray) -> None:
    engine = OnnxRuntimeEngine(exported / "engine.onnx", "cpu")
    line = refusal(engine.extract, image)
    assert line.startswith(f"{exported / 'engine.onnx'}: ONNX Runtime failed on image {image.shape}: ")
    assert not line.endswith(": ")


@pytest.mark.parametrize("content", [b"", b"hello", None], ids=["empty", "text", "missing"])
def test_a_file_that_is_no_graph_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "engine.onnx"
    if content is not None:
        path.write_bytes(content)
    assert refusal(OnnxRuntimeEngine, path, "cpu").startswith(f"{path}: ONNX Runtime cannot load it: ")


def test_a_truncated_graph_is_named(engine: Path) -> None:
    engine.write_bytes(engine.read_bytes()[:-500])
    assert refusal(OnnxRuntimeEngine, engine, "cpu").startswith(f"{engine}: ONNX Runtime cannot load it: ")


def test_a_plan_does_not_run_on_the_cpu(tmp_path: Path) -> None:
    plan = tmp_path / "engine.plan"
    assert refusal(open_engine, plan, "cpu") == f"{plan}: a plan runs on a GPU only; use engine.onnx on the CPU"


@pytest.mark.parametrize("name", ["ckpt.pt", "engine", "engine.onnx.bak"])
def test_other_files_are_no_engines(tmp_path: Path, name: str) -> None:
    assert refusal(open_engine, tmp_path / name) == f"{tmp_path / name}: an engine is an .onnx, a .plan or a .pt2 file"


# ------------------------------------------------------------------------------------- many callers at once


class FakeSession:
    """Does ``work`` instead of a run, and notes which runs give memory back."""

    def __init__(self, work: Callable[[], None]) -> None:
        self.work = work
        self.shrunk = 0

    def run(self, outputs: list[str], image: dict[str, NDArray], options: Any = None) -> list[NDArray]:
        if options is None:
            self.work()
        else:
            self.shrunk += 1
        return [np.zeros((K, 4)), np.zeros(K), np.zeros((K, 3)), np.array([K])]


def with_session(exported: Path, monkeypatch: pytest.MonkeyPatch, work: Callable[[], None]) -> Any:
    """An engine, and the session that it believes to be ONNX Runtime's."""
    engine, session = OnnxRuntimeEngine(exported / "engine.onnx", "cpu"), FakeSession(work)
    monkeypatch.setattr(engine.session, "_session", session)
    return engine, session


def test_few_images_run_at_a_time_and_their_memory_is_given_back(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = Room(PHOTO_BATCH)
    engine, session = with_session(exported, monkeypatch, room.enter)
    room.assert_bounds(lambda: engine.extract(random_image(40, 40)))
    assert session.shrunk == 1


def test_a_single_caller_keeps_its_memory(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, session = with_session(exported, monkeypatch, lambda: None)
    for _ in range(3):
        engine.extract(random_image(40, 40))
    assert session.shrunk == 0


def test_images_that_fail_hold_up_no_other(exported: Path) -> None:
    engine = OnnxRuntimeEngine(exported / "engine.onnx", "cpu")
    for _ in range(2 * PHOTO_BATCH):
        refusal(engine.extract, np.zeros((40, 40), np.uint8))
    assert engine.extract(random_image(40, 40)).local is not None


def test_what_gives_memory_back_is_known_to_onnx_runtime(exported: Path) -> None:
    """It refuses an arena that there is not."""
    session = OnnxRuntimeEngine(exported / "engine.onnx", "cpu").session
    assert session._session.run(session.outputs, {IMAGE: random_image(32, 32)}, session._shrinking)


# ---------------------------------------------------------------------------------------------- the device


@pytest.mark.parametrize(
    ("device", "available", "gpus", "chosen"),
    [
        ("cpu", [CPU], 0, CPU),
        ("cpu", [CUDA, CPU], 1, CPU),
        ("cuda", [CUDA, CPU], 1, CUDA),
        (None, [CPU], 0, CPU),
        (None, [CPU], 1, CPU),
        (None, [CUDA, CPU], 0, CPU),
        (None, [CUDA, CPU], 2, CUDA),
    ],
)
def test_the_provider_follows_from_device_package_and_machine(
    monkeypatch: pytest.MonkeyPatch, device: str | None, available: list[str], gpus: int, chosen: str
) -> None:
    pretend_gpus(monkeypatch, gpus)
    assert choose_provider(device, available) == chosen


@pytest.mark.parametrize(
    ("device", "available", "gpus", "words"),
    [
        ("cuda", [CPU], 1, "has no CUDA: install onnxruntime-gpu"),
        ("cuda", [CUDA, CPU], 0, "no NVIDIA GPU was found"),
        ("gpu", [CUDA, CPU], 1, "device 'gpu': needs to be cpu or cuda"),
        ("", [CPU], 0, "needs to be cpu or cuda"),
    ],
)
def test_a_device_that_cannot_be_had_is_an_error(
    monkeypatch: pytest.MonkeyPatch, device: str, available: list[str], gpus: int, words: str
) -> None:
    pretend_gpus(monkeypatch, gpus)
    assert words in refusal(choose_provider, device, available)


def test_cuda_without_a_gpu_is_an_error(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpus(monkeypatch, 0)
    refusal(OnnxRuntimeEngine, exported / "engine.onnx", "cuda")


class FakeRuntime:
    """An ONNX Runtime compiled with CUDA, whose sessions run on `granted` whatever they are asked for."""

    def __init__(self, granted: list[str]) -> None:
        self.granted = granted
        self.asked: list[str] | None = None
        self.preloaded = False

    def get_available_providers(self) -> list[str]:
        return [CUDA, CPU]

    def SessionOptions(self) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(add_session_config_entry=lambda key, value: None)

    def RunOptions(self) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(add_run_config_entry=lambda key, value: None)

    def preload_dlls(self) -> None:
        self.preloaded = True

    def InferenceSession(self, path: str, options: Any, providers: list[str], **_: int) -> SimpleNamespace:  # noqa: N802
        self.asked = providers
        tensors = [SimpleNamespace(name=name) for name in (IMAGE, *LOCAL_OUTPUTS)]
        return SimpleNamespace(
            get_providers=lambda: self.granted,
            get_inputs=lambda: tensors[:1],
            get_outputs=lambda: tensors[1:],
            get_modelmeta=lambda: SimpleNamespace(custom_metadata_map={}),
        )


@pytest.mark.parametrize("device", ["cuda", None])
def test_a_silent_fallback_to_the_cpu_is_an_error(monkeypatch: pytest.MonkeyPatch, device: str | None) -> None:
    fake = FakeRuntime(granted=[CPU])
    monkeypatch.setattr(onnxruntime_engine, "import_onnxruntime", lambda: fake)
    pretend_gpus(monkeypatch, 1)
    line = refusal(OnnxRuntimeEngine, Path("engine.onnx"), device)
    assert line.startswith(f"engine.onnx: {CUDA} was asked for, ONNX Runtime fell back to {CPU}")
    assert fake.asked == [CUDA]


@pytest.mark.parametrize(("device", "provider"), [("cuda", CUDA), (None, CUDA), ("cpu", CPU)])
def test_the_provider_that_was_asked_for_is_accepted(
    monkeypatch: pytest.MonkeyPatch, device: str | None, provider: str
) -> None:
    fake = FakeRuntime(granted=[provider, CPU])
    monkeypatch.setattr(onnxruntime_engine, "import_onnxruntime", lambda: fake)
    pretend_gpus(monkeypatch, 1)
    assert OnnxRuntimeEngine(Path("engine.onnx"), device).provider == provider
    assert fake.asked == [provider]
    assert fake.preloaded == (provider == CUDA)


def pretend_installed(monkeypatch: pytest.MonkeyPatch, *installed: str) -> None:
    def version(name: str) -> str:
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(metadata, "version", version)


def test_both_packages_of_onnx_runtime_at_once_are_an_error(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_installed(monkeypatch, "onnxruntime", "onnxruntime-gpu")
    line = refusal(OnnxRuntimeEngine, exported / "engine.onnx", "cpu")
    assert line.startswith("onnxruntime and onnxruntime-gpu are both installed")
    assert "pip uninstall both" in line


@pytest.mark.parametrize("name", ["onnxruntime", "onnxruntime-gpu"])
def test_one_package_of_onnx_runtime_is_enough(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    pretend_installed(monkeypatch, name)
    assert import_onnxruntime() is sys.modules["onnxruntime"]


def test_without_onnx_runtime_it_says_what_to_install(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    line = refusal(OnnxRuntimeEngine, exported / "engine.onnx", "cpu")
    assert line == "ONNX Runtime is not installed: pip install onnxruntime, or onnxruntime-gpu on a GPU"
