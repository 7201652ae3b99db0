"""Runs a TensorRT plan of the exported graph on an NVIDIA GPU."""

import threading
import weakref
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.engine.features import Features
from runtime.engine.tensorrt_api import Messages, TensorRT, load_tensorrt
from runtime.errors import HowlError
from runtime.gpu import Gpu, find_gpus

_INPUT = "image"
_OUTPUTS = ("descriptors", "strengths", "positions", "count")
_REBUILD = "build the plan again on this machine with export/to_trt.py"


class TensorRTEngine:
    """An Engine that runs `engine.plan` on the first GPU that CUDA sees (CUDA_VISIBLE_DEVICES chooses it).

    Threads may share it: they take turns. Its GPU memory is freed by `close`, at the end of a `with` block,
    or when the engine is garbage-collected.

    Raises HowlError where there is no GPU, TensorRT or cuda-bindings is missing, or TensorRT does not take
    the plan on this machine.
    """

    provider: str

    def __init__(self, path: Path) -> None:
        gpu = _first_gpu(path)  # before TensorRT is touched: without a driver it can crash the process
        trt = load_tensorrt()
        with trt.listen() as messages:
            self._engine = _load_plan(path, trt, gpu, messages)
            _check_tensors(path, self._engine)
            self._context = self._engine.create_execution_context()
            if self._context is None:
                raise HowlError(f"{path}: {trt} cannot prepare it to run on {gpu}: {messages.reason()}")
        self.provider = f"{trt} on {gpu.name}"
        self._path = path
        self._trt = trt
        self._sizes = _read_sizes(self._engine)
        self._memory = _DeviceMemory(_Cuda(path))
        self._free_memory = weakref.finalize(self, self._memory.free)
        self._turn = threading.Lock()

    def extract(self, image: NDArray[np.uint8]) -> Features:
        """The local descriptors of an RGB uint8 image [H, W, 3].

        Raises HowlError where the image is not of that kind or of a size the plan was not built for, or where
        the GPU fails; ValueError after `close`.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise HowlError(f"{self._path}: takes uint8 images [H, W, 3], not {image.dtype} {list(image.shape)}")
        self._sizes.check(self._path, height=image.shape[0], width=image.shape[1])
        with self._turn, self._trt.listen() as messages:
            if self._context is None:
                raise ValueError(f"{self._path}: the engine is closed")
            outputs = self._run(np.ascontiguousarray(image), messages)
        return _trim(**outputs)

    def close(self) -> None:
        """Frees the GPU's memory; the engine cannot be used after. Closing twice is harmless."""
        with self._turn:
            self._context = None  # the context before the engine that made it
            self._engine = None
            self._free_memory()

    def __enter__(self) -> "TensorRTEngine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, image: NDArray[np.uint8], messages: Messages) -> dict[str, NDArray[Any]]:
        """Every output of the graph for a contiguous image, padding included."""
        if not self._context.set_input_shape(_INPUT, image.shape):
            raise self._failure("refused the image", messages)
        outputs = {name: self._room_for(name) for name in _OUTPUTS}
        for name, array in {_INPUT: image, **outputs}.items():
            self._context.set_tensor_address(name, self._memory.reserve(name, array.nbytes))

        self._memory.upload(_INPUT, image)
        if not self._context.execute_async_v3(self._memory.stream_handle):
            raise self._failure("failed", messages)
        for name, array in outputs.items():
            self._memory.download(name, array)
        self._memory.wait()
        return outputs

    def _room_for(self, name: str) -> NDArray[Any]:
        """An array of the size and type that the output has for the image set last."""
        shape = tuple(self._context.get_tensor_shape(name))
        if any(side < 0 for side in shape):
            raise HowlError(f"{self._path}: the size of '{name}' is not known before it runs: export it again")
        return np.empty(shape, dtype=self._trt.module.nptype(self._engine.get_tensor_dtype(name)))

    def _failure(self, what: str, messages: Messages) -> HowlError:
        return HowlError(f"{self._path}: {self._trt} {what}: {messages.reason()}")


def _first_gpu(path: Path) -> Gpu:
    gpus = find_gpus()
    if not gpus:
        raise HowlError(f"{path}: needs an NVIDIA GPU, none was found: use {_onnx(path)}, which runs on a CPU too")
    return gpus[0]


def _onnx(path: Path) -> str:
    return path.with_suffix(".onnx").name


def _load_plan(path: Path, trt: TensorRT, gpu: Gpu, messages: Messages) -> Any:
    """The plan as a TensorRT engine. Raises HowlError where this TensorRT or this GPU does not take it."""
    try:
        plan = path.read_bytes()
    except OSError as error:
        raise HowlError(f"{path}: cannot be read: {error.strerror}") from error
    runtime = trt.module.Runtime(trt.logger)
    if hasattr(runtime, "get_engine_validity"):  # TensorRT-RTX, whose plans serve several kinds of GPU
        _check_validity(path, trt, gpu, runtime.get_engine_validity(plan), messages)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise _unfit(path, trt, gpu, messages.reason())
    return engine


def _check_validity(path: Path, trt: TensorRT, gpu: Gpu, answer: tuple[Any, int], messages: Messages) -> None:
    validity, diagnostics = answer
    if validity != trt.module.EngineValidity.INVALID:
        return
    known = trt.module.EngineInvalidityDiagnostics.__members__
    found = [name.lower().replace("_", " ") for name, bit in known.items() if diagnostics & int(bit)]
    raise _unfit(path, trt, gpu, ", ".join(found) or messages.reason())


def _unfit(path: Path, trt: TensorRT, gpu: Gpu, reason: str) -> HowlError:
    return HowlError(f"{path}: {trt} cannot run it on {gpu}: {reason.rstrip('.')}: {_REBUILD}, or use {_onnx(path)}")


def _check_tensors(path: Path, engine: Any) -> None:
    present = {engine.get_tensor_name(i) for i in range(engine.num_io_tensors)}
    missing = [name for name in (_INPUT, *_OUTPUTS) if name not in present]
    if missing:
        raise HowlError(f"{path}: has no '{missing[0]}': it is not an engine that howl exported")


@dataclass(frozen=True)
class _ImageSizes:
    """The images a plan was built for: `smallest` to `largest`, (height, width) in pixels, both included."""

    smallest: tuple[int, int]
    largest: tuple[int, int]

    def check(self, path: Path, *, height: int, width: int) -> None:
        """Raises HowlError where an image of this size cannot run."""
        (least_height, least_width), (most_height, most_width) = self.smallest, self.largest
        if not (least_height <= height <= most_height and least_width <= width <= most_width):
            raise HowlError(
                f"{path}: takes images from {least_width}×{least_height} to {most_width}×{most_height} "
                f"pixels, not {width}×{height}: resize the image, use {_onnx(path)}, "
                "or build the plan with another --image-size"
            )


def _read_sizes(engine: Any) -> _ImageSizes:
    smallest, _, largest = (tuple(shape) for shape in engine.get_tensor_profile_shape(_INPUT, 0))
    return _ImageSizes(smallest=smallest[:2], largest=largest[:2])


def _trim(
    *, descriptors: NDArray[Any], strengths: NDArray[Any], positions: NDArray[Any], count: NDArray[Any]
) -> Features:
    """The first `count` rows, without the padding up to K; `count` is any integer type, scalar or [1]."""
    n = int(count.item())
    return Features(
        descriptors=descriptors[:n].astype(np.float32, copy=False),
        strengths=strengths[:n].astype(np.float32, copy=False),
        positions=positions[:n].astype(np.float32, copy=False),
    )


class _Cuda:
    """The CUDA runtime, whose failures become HowlErrors that name the plan.

    Raises HowlError where cuda-bindings is missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.api = _import_cuda(path)

    def call(self, function: str, *arguments: Any) -> Any:
        """What the CUDA function gives beside its error code, which is checked."""
        error, *values = getattr(self.api, function)(*arguments)
        if error != self.api.cudaError_t.cudaSuccess:
            self.api.cudaGetLastError()  # forgets it, lest TensorRT's next call take it for its own
            _, reason = self.api.cudaGetErrorString(error)
            raise HowlError(f"{self._path}: the GPU failed in {function}: {reason.decode()}")
        return values[0] if values else None

    def try_call(self, function: str, *arguments: Any) -> None:
        """As `call`, for cleaning up: when the process ends CUDA may be gone already, and nothing is lost."""
        getattr(self.api, function)(*arguments)


def _import_cuda(path: Path) -> Any:
    try:
        from cuda.bindings import runtime as cudart
    except ImportError as error:
        raise HowlError(f"{path}: needs cuda-bindings: pip install cuda-bindings") from error
    return cudart


@dataclass
class _Block:
    """A piece of GPU memory: its address and its size in bytes."""

    address: int
    size: int


class _DeviceMemory:
    """One growing piece of GPU memory for each tensor, and the stream on which copies and kernels queue."""

    def __init__(self, cuda: _Cuda) -> None:
        self._cuda = cuda
        self._blocks: dict[str, _Block] = {}
        # Non-blocking: does not wait for what other libraries queue on CUDA's default stream.
        self._stream = cuda.call("cudaStreamCreateWithFlags", cuda.api.cudaStreamNonBlocking)

    @property
    def stream_handle(self) -> int:
        return int(self._stream)

    def reserve(self, name: str, size: int) -> int:
        """The address of at least `size` bytes for the tensor; asks CUDA only for more than ever before."""
        block = self._blocks.get(name)
        if block is None or block.size < size:
            self._release(name)
            block = _Block(int(self._cuda.call("cudaMalloc", size)), size)
            self._blocks[name] = block
        return block.address

    def upload(self, name: str, array: NDArray[Any]) -> None:
        """Queues a copy of a contiguous array to the tensor's memory."""
        kind = self._cuda.api.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._copy(self._blocks[name].address, array.ctypes.data, array.nbytes, kind)

    def download(self, name: str, array: NDArray[Any]) -> None:
        """Queues a copy of the tensor's memory into a contiguous array, to be read after `wait`."""
        kind = self._cuda.api.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._copy(array.ctypes.data, self._blocks[name].address, array.nbytes, kind)

    def wait(self) -> None:
        """Returns when all that is queued is done."""
        self._cuda.call("cudaStreamSynchronize", self._stream)

    def free(self) -> None:
        """Gives everything back."""
        for name in list(self._blocks):
            self._release(name)
        self._cuda.try_call("cudaStreamDestroy", self._stream)

    def _copy(self, target: int, source: int, size: int, kind: Any) -> None:
        self._cuda.call("cudaMemcpyAsync", target, source, size, kind, self._stream)

    def _release(self, name: str) -> None:
        block = self._blocks.pop(name, None)
        if block is not None:
            self._cuda.try_call("cudaFree", block.address)
