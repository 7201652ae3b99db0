"""A stand-in for CUDA and TensorRT: memory of this process with checked bounds, in which numpy runs a small network.

As on a GPU, what is queued happens later: not before somebody waits for it.
"""

# ruff: noqa: N802, N815 (the stand-in bears CUDA's names)

import ctypes
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.engine.tensorrt.api import TensorRT

K = 40

Step = Callable[[], None]


def brightest_pixels(image: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    """The network: descriptors are colours, strengths their norms; padded to K rows of -1."""
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


class HostCuda:
    """CUDA's functions, with one stream.

    Attributes:
        failing: the functions that fail from now on, as on a full GPU.
        calls: how often each function was called.
    """

    cudaError_t = SimpleNamespace(cudaSuccess=0)
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)
    cudaStreamNonBlocking = 1
    cudaHostAllocDefault = 0
    stream = 7

    def __init__(self) -> None:
        self.failing: set[str] = set()
        self.calls: dict[str, int] = {}
        self.device: dict[int, NDArray[np.uint8]] = {}
        self.host: dict[int, NDArray[np.uint8]] = {}
        self.streams: set[int] = set()
        self.recorded: dict[int, list[Step]] = {}
        self.graphs: dict[int, list[Step]] = {}
        self.queued: list[Step] = []
        self.recording: list[Step] | None = None

    def __getattribute__(self, name: str) -> Any:
        """A function of CUDA fails where it is to fail, and where it cannot be recorded."""
        attribute = super().__getattribute__(name)
        if not name.startswith("cuda") or not callable(attribute):
            return attribute
        self.calls[name] = self.calls.get(name, 0) + 1
        recordable = ("cudaMemcpyAsync", "cudaStreamEndCapture", "cudaGetLastError", "cudaGetErrorString")
        if name in self.failing or (self.recording is not None and name not in recordable):
            return lambda *arguments: self.fail(name)
        return attribute

    def fail(self, name: str) -> tuple[int, None]:
        if name == "cudaStreamEndCapture":
            self.recording = None
        return 2, None

    def queue(self, step: Step) -> None:
        (self.queued if self.recording is None else self.recording).append(step)

    def is_empty(self) -> bool:
        """Whether everything was given back."""
        return not (self.device or self.host or self.streams or self.recorded or self.graphs)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[int, int]:
        self.streams.add(self.stream)
        return 0, self.stream

    def cudaStreamDestroy(self, stream: int) -> tuple[int]:
        self.streams.remove(stream)
        return (0,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:
        assert stream in self.streams
        while self.queued:
            self.queued.pop(0)()
        return (0,)

    def cudaMalloc(self, size: int) -> tuple[int, int]:
        return self.allocate(self.device, size)

    def cudaFree(self, address: int) -> tuple[int]:
        del self.device[address]
        return (0,)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[int, int]:
        return self.allocate(self.host, size)

    def cudaFreeHost(self, address: int) -> tuple[int]:
        del self.host[address]
        return (0,)

    def allocate(self, blocks: dict[int, NDArray[np.uint8]], size: int) -> tuple[int, int]:
        block = np.zeros(size, np.uint8)
        blocks[block.ctypes.data] = block
        return 0, block.ctypes.data

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: int, stream: int) -> tuple[int]:
        assert stream in self.streams
        device, host = (target, source) if kind == 1 else (source, target)
        assert size <= self.device[device].nbytes
        assert size <= self.host[host].nbytes

        def copy() -> None:
            assert device in self.device
            assert host in self.host
            ctypes.memmove(target, source, size)

        self.queue(copy)
        return (0,)

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[int]:
        assert stream in self.streams
        assert mode == self.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self.recording = []
        return (0,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[int, int]:
        assert self.recording is not None
        handle = self.calls["cudaStreamEndCapture"]
        self.recorded[handle], self.recording = self.recording, None
        return 0, handle

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[int, int]:
        handle = 1000 + graph
        self.graphs[handle] = self.recorded[graph]
        return 0, handle

    def cudaGraphDestroy(self, graph: int) -> tuple[int]:
        del self.recorded[graph]
        return (0,)

    def cudaGraphLaunch(self, graph: int, stream: int) -> tuple[int]:
        assert stream in self.streams
        self.queued += self.graphs[graph]
        return (0,)

    def cudaGraphExecDestroy(self, graph: int) -> tuple[int]:
        assert not self.queued
        del self.graphs[graph]
        return (0,)

    def cudaGetLastError(self) -> tuple[int]:
        return (0,)

    def cudaGetErrorString(self, error: int) -> tuple[int, bytes]:
        return 0, b"out of memory"


@dataclass
class HostEngine:
    """An ICudaEngine of the brightest pixels, for images of 2×4 to 30×50 pixels (width × height).

    Attributes:
        count_like: an array of the type and shape of the output `count`.
        names: of its tensors.
        fails: whether runs fail.
        is_recordable: whether runs can be recorded.
        is_crowded: whether there is no room for another context.
        strategies: with which its contexts were made.
    """

    cuda: HostCuda
    trt: TensorRT
    count_like: NDArray[Any]
    names: tuple[str, ...] = ("image", "descriptors", "strengths", "positions", "count")
    fails: bool = False
    is_recordable: bool = True
    is_crowded: bool = False
    strategies: list[Any] = field(default_factory=list)

    device_memory_size_v2 = 100

    @property
    def num_io_tensors(self) -> int:
        return len(self.names)

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, int, int]]:
        return [(4, 2, 3), (20, 20, 3), (50, 30, 3)]

    def get_tensor_dtype(self, name: str) -> Any:
        return self.count_like.dtype if name == "count" else np.float32

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.count_like.shape if name == "count" else (K, 3) if name in ("descriptors", "positions") else (K,)

    def create_runtime_config(self) -> Any:
        """TensorRT-RTX only."""
        config = SimpleNamespace()
        config.set_execution_context_allocation_strategy = lambda strategy: setattr(config, "strategy", strategy)
        return config

    def create_execution_context(self, strategy: Any) -> "HostContext | None":
        self.strategies.append(strategy)
        return None if self.is_crowded else HostContext(self)

    def say(self, error: str) -> None:
        for listener in self.trt.logger.listeners.values():
            listener.hear("ERROR", error)


class HostContext:
    """An IExecutionContext; like TensorRT's, it must run once after a change of size before it can be recorded."""

    def __init__(self, engine: HostEngine) -> None:
        self.engine = engine
        self.addresses: dict[str, int] = {}
        self.image_shape: tuple[int, ...] = ()
        self.is_settled = False

    def set_device_memory(self, address: int, size: int) -> None:
        assert self.engine.cuda.device[address].nbytes >= size >= self.engine.device_memory_size_v2

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.image_shape = shape
        self.is_settled = False
        return name == "image"

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        cuda = self.engine.cuda
        is_recorded = cuda.recording is not None
        if self.engine.fails or (is_recorded and not (self.is_settled and self.engine.is_recordable)):
            self.engine.say("an illegal memory access")
            return False
        self.is_settled = True
        shape, itself = self.image_shape, weakref.ref(self)

        def step() -> None:
            context = itself()
            assert context is not None, "a graph runs whose context is gone"
            assert context.image_shape == shape, "a graph runs whose context was changed"
            context.execute()

        cuda.queue(step)
        return True

    def execute(self) -> None:
        device = self.engine.cuda.device
        image = device[self.addresses["image"]][: np.prod(self.image_shape)].reshape(self.image_shape)
        time.sleep(0.001)  # another thread gets its chance to interfere
        for name, output in brightest_pixels(image).items():
            content = np.full_like(self.engine.count_like, output) if name == "count" else output
            device[self.addresses[name]][: content.nbytes] = np.frombuffer(content.tobytes(), np.uint8)
