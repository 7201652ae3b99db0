"""A stand-in for TensorRT: numpy runs a small network in the memory of the stand-in for CUDA (`tests/cuda`)."""

import time
import weakref
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.engine.tensorrt.api import TensorRT

from ...cuda.stand_in import StandIn

K = 40


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

    cuda: StandIn
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
        assert self.engine.cuda.view(address, size).nbytes >= self.engine.device_memory_size_v2

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.image_shape = shape
        self.is_settled = False
        return name == "image"

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        cuda = self.engine.cuda
        is_recorded = stream in cuda.recordings
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

        cuda.queue(stream, step)
        return True

    def execute(self) -> None:
        view = self.engine.cuda.view
        image = view(self.addresses["image"], int(np.prod(self.image_shape))).reshape(self.image_shape)
        time.sleep(0.001)  # another thread gets its chance to interfere
        for name, output in brightest_pixels(image).items():
            content = np.full_like(self.engine.count_like, output) if name == "count" else output
            view(self.addresses[name], content.nbytes)[:] = np.frombuffer(content.tobytes(), np.uint8)
