"""Runs ``engine.pt2``, the exported graph as a program of PyTorch's: for GPUs on machines that have no TensorRT."""

import io
import json
import re
import threading
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.engine.fusion import fuse_convolutions
from runtime.engine.graph_cache import GraphCache, Work
from runtime.engine.schema import check_tensors, features_of
from runtime.errors import DamagedError, DependencyError, DeviceError, HowlError, IncompatibleError, UsageError
from runtime.features import Features
from runtime.forking import renew_after_fork
from runtime.gpu import find_gpus
from runtime.io.files import read_file

GRAPHS = 8  # kept at a time: photos usually have no more shapes
RECORD = "howl.json"  # in the archive: the names of the tensors, and the least side of an image
TENSOR = r"(weight|tensor)_\d+"
FILE = re.compile(  # of an archive, below its only folder
    r"models/model\.json|data/sample_inputs/model\.pt|extra/howl\.json"
    rf"|data/(weights|constants)/({TENSOR}|model_(weights|constants)_config\.json)"
    r"|archive_(format|version)|byteorder|(\.data/)?(version|serialization_id|alignment)"
)


class PyTorchEngine:
    """An Engine that runs ``engine.pt2``, on the first GPU that CUDA sees or on the CPU.

    On a GPU, repeated image sizes run as CUDA graphs. Threads may share the engine: they take turns.
    """

    provider: str

    def __init__(self, path: Path, device: str | None = None, threads: int | None = None) -> None:
        """Loads the program.

        Args:
            path: of the program.
            device: ``cpu``, ``cuda``, or None for CUDA if both PyTorch and the machine have it.
            threads: CPU threads that share the work of an image; None for PyTorch's own choice.

        Raises:
            HowlError: PyTorch is missing, cannot read the file, or cannot use the GPU that was asked for.
        """
        self._torch = torch = import_pytorch()
        self._path = path
        self._device = choose_device(torch, device)
        content = read_program(path, torch)
        record = {RECORD: ""}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of PyTorch's, on itself
                program = torch.export.load(io.BytesIO(content), extra_files=record)
            described = json.loads(record[RECORD])
            inputs, outputs = list(described["inputs"]), list(described["outputs"])
            self._smallest = int(described["smallest"])
        except Exception as error:  # its exceptions share no base class
            raise DamagedError(f"{path}: PyTorch {torch.__version__} cannot load it: {_first_line(error)}") from None
        check_tensors(path, inputs, outputs)
        self._outputs = tuple(outputs)  # in the order in which the program gives them
        if threads is not None and self._device == "cpu":
            torch.set_num_threads(threads)
        self.provider = f"PyTorch {torch.__version__} on the CPU"
        self._graphs: GraphCache | None = None
        if self._device == "cuda":
            program = import_module("torch.export.passes").move_to_device_pass(program, "cuda")
            self.provider = f"PyTorch {torch.__version__} on {find_gpus()[0].name}"
            self._stream = _Stream(torch, path)
            self._graphs = GraphCache(self._stream, GRAPHS)
        self._module = program.module()
        self._is_planar = True
        if self._device == "cuda" and is_half(self._module, torch):
            # Half the bits: tensor cores, which want channels last, and one kernel for a convolution and what follows.
            self._module.to(memory_format=torch.channels_last)
            fuse_convolutions(self._module, torch)
            self._is_planar = False
        self._image: Any = None  # page-locked, as large as the largest image so far
        self._values: dict[str, Any] = {}  # of the last run, on the host, page-locked
        self._turn = threading.Lock()
        if self._device == "cpu":  # CUDA cannot be forked
            renew_after_fork(self)

    def renew_after_fork(self) -> None:
        """Lets go of what another thread held, and of PyTorch's threads, which are not forked: one is left."""
        self._turn = threading.Lock()
        self._torch.set_num_threads(1)

    def extract(self, image: NDArray[np.uint8]) -> Features:
        """The features of an RGB uint8 image [H, W, 3].

        Raises:
            HowlError: the image has another type, or is smaller than the program was made for; or the GPU fails.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise UsageError(f"{self._path}: takes uint8 images [H, W, 3], not {image.dtype} {list(image.shape)}")
        height, width = image.shape[:2]
        if min(height, width) < self._smallest:
            raise UsageError(
                f"{self._path}: takes images from {self._smallest}×{self._smallest} pixels on, not {width}×{height}: "
                f"use {self._path.with_suffix('.onnx').name}"
            )
        with self._turn, self._running(image.shape):
            if self._graphs is None:
                values = dict(
                    zip(self._outputs, self._module(self._torch.from_numpy(np.ascontiguousarray(image))), strict=True)
                )
            else:
                self._write(image)
                work = partial(self._work, image.shape)
                self._graphs.run(image.shape, work, lambda: work)
                values = self._values
            return features_of({name: np.array(value.numpy()) for name, value in values.items()})

    def _write(self, image: NDArray[np.uint8]) -> None:
        """Copies an image to where the next run reads it."""
        if self._image is None or self._image.numel() < image.size:
            if self._graphs is not None:
                self._graphs.clear()  # their copies begin at the old place
            self._image = self._torch.empty(image.size, dtype=self._torch.uint8, pin_memory=True)
        np.copyto(self._image.numpy()[: image.size].reshape(image.shape), image)

    def _work(self, shape: tuple[int, ...]) -> None:
        """Queues one run: the image's upload, the network, and the downloads of its outputs."""
        torch = self._torch
        with torch.cuda.stream(self._stream.stream):
            image = self._image[: int(np.prod(shape))].view(shape).to("cuda", non_blocking=True)
            if self._is_planar:
                image = image.permute(2, 0, 1).contiguous().permute(1, 2, 0)
            for name, value in zip(self._outputs, self._module(image), strict=True):
                if name not in self._values:  # their sizes do not depend on the image
                    self._values[name] = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
                self._values[name].copy_(value, non_blocking=True)

    @contextmanager
    def _running(self, shape: tuple[int, ...]) -> Iterator[None]:
        """PyTorch's settings for a run: float32 is float32, as the engine was proven. Its errors become HowlErrors."""
        torch = self._torch
        exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=False)
        try:
            with torch.no_grad(), exact:
                yield
        except HowlError:
            raise
        except (AssertionError, RuntimeError, ValueError) as error:
            raise (DeviceError if self._device == "cuda" else HowlError)(
                f"{self._path}: PyTorch failed on an image {list(shape)}: {_first_line(error)}"
            ) from None


class _Stream:
    """PyTorch's side of the graphs (``Recorder``)."""

    def __init__(self, torch: Any, path: Path) -> None:
        self.stream = torch.cuda.Stream()
        self._torch = torch
        self._path = path
        self._pool = torch.cuda.graph_pool_handle()  # graphs run one at a time, and can share memory

    def record(self, work: Work) -> Any:
        graph = self._torch.cuda.CUDAGraph()
        try:
            with self._torch.cuda.graph(graph, pool=self._pool, stream=self.stream, capture_error_mode="thread_local"):
                work()
        except RuntimeError as error:
            raise DeviceError(f"{self._path}: the run cannot be recorded: {_first_line(error)}") from None
        return graph

    def replay(self, graph: Any) -> None:
        with self._torch.cuda.stream(self.stream):
            graph.replay()

    def forget(self, graph: Any) -> None:
        graph.reset()

    def wait(self) -> None:
        self.stream.synchronize()


def import_pytorch() -> Any:
    """PyTorch. Raises DependencyError if it is missing."""
    try:
        return import_module("torch")
    except (ImportError, OSError) as error:  # OSError: installed, but its libraries do not load
        reason = " ".join(str(error).split())
        raise DependencyError(
            f"engine.pt2 needs PyTorch ({reason}): pip install 'torch>=2.11', or use engine.onnx"
        ) from None


def choose_device(torch: Any, device: str | None) -> str:
    """``cpu`` or ``cuda``. Raises HowlError if what is asked for is neither, or cannot be had."""
    if device not in ("cpu", "cuda", None):
        raise UsageError(f"device {device!r}: needs to be cpu or cuda")
    if device == "cpu":
        return "cpu"
    has_cuda = bool(find_gpus()) and torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        why = "no NVIDIA GPU was found on this machine" if not find_gpus() else "the installed PyTorch has no CUDA"
        raise DeviceError(f"{why}; leave the device out, or ask for cpu")
    return "cuda" if has_cuda else "cpu"


def read_program(path: Path, torch: Any) -> bytes:
    """The bytes of a program's archive, which holds nothing but tensors and descriptions.

    PyTorch would run the code of any pickle that it finds there. It looks for files by their names in any case, and of
    two with one name takes another than Python does: both are refused.

    Raises:
        HowlError: there is no such file, it is damaged, or it holds more.
    """
    try:
        content = read_file(path)
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
            roots = {name.partition("/")[0] for name in names}
            files = {name.partition("/")[2]: name for name in names}
            is_plain = len(roots) == 1 and len({name.casefold() for name in names}) == len(names)
            if not is_plain or not all(FILE.fullmatch(file) for file in files):
                raise IncompatibleError(f"{path}: holds more than tensors; it is not an engine that howl exported")
            configs = [json.loads(archive.read(name)) for file, name in files.items() if file.endswith("_config.json")]
            samples = archive.read(files["data/sample_inputs/model.pt"])
        entries = [entry for config in configs for entry in config["config"].values()]
        if any(entry["use_pickle"] is not False or not re.fullmatch(TENSOR, entry["path_name"]) for entry in entries):
            raise IncompatibleError(f"{path}: holds more than tensors; it is not an engine that howl exported")
        if samples:
            torch.load(io.BytesIO(samples), weights_only=True)
    except HowlError:
        raise
    except Exception as error:  # whatever a damaged archive causes
        raise DamagedError(f"{path}: not a program of PyTorch's ({_first_line(error)}); export it again") from None
    return content


def is_half(module: Any, torch: Any) -> bool:
    """Whether convolutions of a program have float16 weights."""
    return any(value.dtype == torch.float16 for value in module.state_dict().values())


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300]
