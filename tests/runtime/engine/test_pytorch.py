"""``engine.pt2``: programs of PyTorch's, run on the CPU, and on a GPU where there is one; and the fusing of their
convolutions.
"""

import io
import json
import pickle
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.engine import open_engine
from runtime.engine import pytorch as pytorch_engine
from runtime.engine.fusion import fuse_convolutions
from runtime.engine.pytorch import RECORD, PyTorchEngine
from runtime.errors import DependencyError, HowlError
from runtime.gpu import Gpu, find_gpus

torch = pytest.importorskip("torch", reason="needs PyTorch")

K = 6
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


class Brightest(torch.nn.Module):  # type: ignore[name-defined, misc]
    """The K largest positions of what two convolutions, one with a shortcut, make of an image."""

    def __init__(self, half: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.second = torch.nn.Conv2d(8, 8, 3, padding=1)
        self.third = torch.nn.Conv2d(8, 8, 1)
        self.half_ = half
        if half:
            self.half()

    def forward(self, image: Any) -> tuple[Any, ...]:
        pixels = image.float().permute(2, 0, 1).unsqueeze(0) / 255
        x = torch.relu(self.first(pixels.half() if self.half_ else pixels))
        x = torch.relu(self.second(x) + x)
        x = self.third(x).float()
        strengths, chosen = x.norm(dim=1).flatten().topk(K)
        width = x.shape[3]
        positions = torch.stack([chosen % width, chosen // width, torch.ones_like(chosen)], dim=1).float()
        descriptors = x[0].flatten(1).T[chosen]
        return descriptors, strengths, positions, torch.full((1,), K, dtype=torch.int32, device=x.device)


def write(path: Path, module: Any, **record: Any) -> Path:
    """Writes a program as export does."""
    any_size = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    program = torch.export.export(
        module,
        (torch.zeros((64, 80, 3), dtype=torch.uint8),),
        dynamic_shapes=(any_size,),
        prefer_deferred_runtime_asserts_over_guards=True,
    )
    program.example_inputs = None
    known = {"inputs": ["image"], "outputs": ["descriptors", "strengths", "positions", "count"], "smallest": 20}
    torch.export.save(program, path, extra_files={RECORD: json.dumps(known | record)})
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("programs")


@pytest.fixture(scope="module")
def program(folder: Path) -> Path:
    return write(folder / "engine.pt2", Brightest(half=False).eval())


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and not (find_gpus() and torch.cuda.is_available()):
        pytest.skip("needs an NVIDIA GPU and a PyTorch that can use it")
    return str(request.param)


def an_image(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def assert_equal_features(engine: PyTorchEngine, module: Any, image: NDArray[np.uint8], rtol: float = 1e-4) -> None:
    with torch.no_grad():
        descriptors, strengths, positions, _ = (value.numpy() for value in module(torch.from_numpy(image)))
    got = engine.extract(image).need_local()
    np.testing.assert_allclose(got.strengths, strengths, rtol=rtol)
    order = [{tuple(row): i for i, row in enumerate(got.positions.tolist())}[tuple(row)] for row in positions.tolist()]
    np.testing.assert_allclose(got.descriptors[order], descriptors, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("half", [False, True])
def test_features_are_those_of_the_network(folder: Path, device: str, half: bool) -> None:
    """Also when sizes come again, which a GPU then runs as graphs, and larger ones in between."""
    module = Brightest(half).eval()
    engine = open_engine(write(folder / f"{half}.pt2", module), device)
    assert isinstance(engine, PyTorchEngine)
    sizes = [(40, 50), (40, 50), (40, 50), (20, 90), (90, 120), (40, 50), (90, 120), (40, 50), (90, 120)]
    for seed, (height, width) in enumerate(sizes):
        assert_equal_features(engine, module, an_image(height, width, seed), rtol=2e-2 if half else 1e-4)


def test_threads_get_each_their_own(program: Path, device: str) -> None:
    engine, module = PyTorchEngine(program, device), Brightest(half=False).eval()
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for turn in range(5):
                assert_equal_features(engine, module, an_image(30 + seed, 40, 10 * seed + turn))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.parametrize(
    ("image", "line"),
    [
        (an_image(19, 50), "engine.pt2: takes images from 20×20 pixels on, not 50×19: use engine.onnx"),
        (an_image(50, 19), "engine.pt2: takes images from 20×20 pixels on, not 19×50: use engine.onnx"),
        (np.zeros((40, 50, 3), np.float32), r"engine.pt2: takes uint8 images \[H, W, 3\], not float32"),
        (np.zeros((40, 50), np.uint8), r"engine.pt2: takes uint8 images \[H, W, 3\], not uint8 \[40, 50\]"),
    ],
    ids=["low", "narrow", "float", "grey"],
)
def test_other_images_are_refused(program: Path, image: NDArray[Any], line: str) -> None:
    with pytest.raises(HowlError, match=line):
        PyTorchEngine(program, "cpu").extract(image)


def rewritten(program: Path, folder: Path, change: Callable[[str, bytes], bytes], extra: dict[str, bytes]) -> Path:
    """A copy of an archive with changed and additional files."""
    path = folder / "other.pt2"
    with zipfile.ZipFile(program) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
        root = old.namelist()[0].partition("/")[0]
        for name in old.namelist():
            new.writestr(name, change(name.partition("/")[2], old.read(name)))
        for name, content in extra.items():
            new.writestr(f"{root}/{name}", content)
    return path


class Trap:
    """Would be run by an ordinary unpickling."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("code of the file was run",))


def pickled(name: str, content: bytes) -> bytes:
    """Makes every constant of a configuration a pickle."""
    if not name.endswith("model_weights_config.json"):
        return content
    config = json.loads(content)
    for entry in config["config"].values():
        entry["use_pickle"] = True
    return json.dumps(config).encode()


def opaque(name: str, content: bytes) -> bytes:
    if not name.endswith("model_weights_config.json"):
        return content
    config = json.loads(content)
    next(iter(config["config"].values()))["path_name"] = "opaque_obj_0"
    return json.dumps(config).encode()


def unchanged(name: str, content: bytes) -> bytes:
    return content


def trapped_samples(name: str, content: bytes) -> bytes:
    """The example image as a pickle that runs code, in PyTorch's own form."""
    if name != "data/sample_inputs/model.pt":
        return content
    buffer = io.BytesIO()
    torch.save(Trap(), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("change", "extra"),
    [
        (pickled, {}),
        (opaque, {}),
        (trapped_samples, {}),
        (unchanged, {"models/second.json": b"{}"}),
        (unchanged, {"data/aotinductor/model/model.so": b"machine code"}),
        (unchanged, {"data/sample_inputs/second.pt": pickle.dumps(Trap())}),
        (unchanged, {"DATA/SAMPLE_INPUTS/MODEL.PT": pickle.dumps(Trap())}),
        (unchanged, {"data/sample_inputs/model.pt": pickle.dumps(Trap())}),
        (unchanged, {"data/weights/MODEL_WEIGHTS_CONFIG.JSON": b"{}"}),
        (unchanged, {"serialized_exported_program.json": b"{}"}),
        (unchanged, {"../other/models/model.json": b"{}"}),
    ],
    ids=[
        "pickled weights",
        "an object",
        "a trap as example",
        "a second model",
        "machine code",
        "a second example",
        "the example in capitals",
        "the example twice",
        "a configuration in capitals",
        "a program of an earlier form",
        "another folder",
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_with_more_than_tensors_is_refused(
    program: Path, tmp_path: Path, change: Callable[[str, bytes], bytes], extra: dict[str, bytes]
) -> None:
    """PyTorch itself would unpickle and run what it finds there."""
    with pytest.raises(HowlError, match=r"other\.pt2: (holds more than tensors|not a program of PyTorch's)"):
        PyTorchEngine(rewritten(program, tmp_path, change, extra), "cpu")


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 no archive"])
def test_other_files_are_no_programs(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "engine.pt2"
    path.write_bytes(content)
    with pytest.raises(HowlError, match=r"engine\.pt2: not a program of PyTorch's .*; export it again"):
        PyTorchEngine(path, "cpu")


def test_a_truncated_program_is_refused(program: Path, tmp_path: Path) -> None:
    content = program.read_bytes()
    for kept in (len(content) // 2, len(content) - 1):
        (tmp_path / "engine.pt2").write_bytes(content[:kept])
        with pytest.raises(HowlError, match=r"engine\.pt2: "):
            PyTorchEngine(tmp_path / "engine.pt2", "cpu")


def test_a_program_of_something_else_is_refused(folder: Path) -> None:
    path = write(folder / "else.pt2", Brightest(half=False).eval(), outputs=["logits"])
    with pytest.raises(
        HowlError, match=r"else\.pt2: has no output 'descriptors': it is not an engine that howl exported"
    ):
        PyTorchEngine(path, "cpu")


@pytest.mark.parametrize(
    ("gpus", "device", "line"),
    [
        ([], "cuda", "no NVIDIA GPU was found on this machine"),
        ([Gpu("Test GPU", (9, 0))], "cuda", "the installed PyTorch has no CUDA"),
        ([], "tpu", "device 'tpu': needs to be cpu or cuda"),
    ],
)
def test_a_device_that_cannot_be_had_is_an_error(
    program: Path, monkeypatch: pytest.MonkeyPatch, gpus: list[Gpu], device: str, line: str
) -> None:
    monkeypatch.setattr(pytorch_engine, "find_gpus", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(HowlError, match=line):
        PyTorchEngine(program, device)
    assert "CPU" in PyTorchEngine(program).provider


def test_without_pytorch_it_says_how_to_get_it(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(pytorch_engine, "import_module", fail)
    with pytest.raises(DependencyError, match=r"engine\.pt2 needs PyTorch .*: pip install 'torch>=2\.11', or use"):
        PyTorchEngine(program, "cpu")


def test_fused_convolutions_compute_the_same(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """cuDNN's operators run on a GPU only: here their definitions take their places."""
    module = torch.export.load(program).module()
    fused = torch.export.load(program).module()
    assert fuse_convolutions(fused, torch) == 2, "the first with its ReLU, the second with the sum and its ReLU"
    aten = torch.ops.aten

    def with_relu(x: Any, weight: Any, bias: Any, *settings: Any) -> Any:
        return torch.relu(torch.nn.functional.conv2d(x, weight, bias, *settings))

    def with_sum(x: Any, weight: Any, other: Any, alpha: float, bias: Any, *settings: Any) -> Any:
        return torch.relu(torch.nn.functional.conv2d(x, weight, bias, *settings) + alpha * other)

    definitions = {
        aten.cudnn_convolution_relu.default: with_relu,
        aten.cudnn_convolution_add_relu.default: with_sum,
    }
    replaced = [node for node in fused.graph.nodes if node.target in definitions]
    assert len(replaced) == 2
    for node in replaced:
        node.target = definitions[node.target]
    fused.recompile()
    assert not [node for node in fused.graph.nodes if node.target == aten.relu.default]
    image = torch.from_numpy(an_image(40, 50))
    with torch.no_grad():
        for got, expected in zip(fused(image), module(image), strict=True):
            torch.testing.assert_close(got, expected)


class Shared(torch.nn.Module):  # type: ignore[name-defined, misc]
    """Convolutions that others need, too: without their ReLU, or without the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Conv2d(3, 4, 1), torch.nn.Conv2d(4, 4, 1, bias=False)

    def forward(self, x: Any) -> Any:
        x = self.first(x)
        return torch.relu(x) + x + torch.relu(self.second(x))


def test_what_others_need_is_not_fused() -> None:
    program = torch.export.export(Shared().eval(), (torch.zeros(1, 3, 8, 8),))
    assert fuse_convolutions(program.module(), torch) == 0
