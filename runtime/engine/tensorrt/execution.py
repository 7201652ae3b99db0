"""A loaded TensorRT plan: its memory on the host and on the GPU, and the contexts that run it."""

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.engine.schema import IMAGE, check_tensors
from runtime.engine.tensorrt.api import TENSORRT_RTX, Messages, TensorRT
from runtime.errors import DeviceError, IncompatibleError
from runtime.gpu.device import Device, DeviceArray


@dataclass(frozen=True)
class Buffer:
    """A tensor's memory.

    Attributes:
        host: uint8 [bytes], page-locked.
        device: of the same size, in the GPU's memory.
    """

    host: NDArray[np.uint8]
    device: DeviceArray

    @classmethod
    def allocate(cls, device: Device, size: int) -> "Buffer":
        """``size`` > 0 bytes on the host and on the GPU."""
        return cls(device.page_locked(size), device.empty((size,), np.uint8))


class Plan:
    """A plan in the GPU's memory, with room for the largest image that it takes.

    Attributes:
        smallest: shape of the smallest image that it takes: height, width, 3.
        largest: shape of the largest.
        outputs: of the last run, by name, including padding; the next run overwrites them.
    """

    def __init__(self, path: Path, trt: TensorRT, engine: Any, device: Device) -> None:
        """Allocates all memory that a trt.ICudaEngine needs, once: graphs keep its addresses.

        Raises HowlError if howl did not export the plan, or the GPU is full.
        """
        names = _check_tensors(path, engine)
        self.path = path
        self.trt = trt
        self.device = device
        self.engine = engine
        self.smallest, _, self.largest = (tuple(shape) for shape in engine.get_tensor_profile_shape(IMAGE, 0))
        self.buffers = {IMAGE: Buffer.allocate(device, prod(self.largest))}
        self.outputs = {name: self._allocate_output(name) for name in names}
        self.scratch_size = engine.device_memory_size_v2
        self.scratch = device.empty((self.scratch_size,), np.uint8)  # for all contexts: they take turns

    def write_image(self, image: NDArray[np.uint8]) -> None:
        """Copies an image [H, W, 3] to where the next run reads it."""
        np.copyto(self.buffers[IMAGE].host[: image.size].reshape(image.shape), image)

    def _allocate_output(self, name: str) -> NDArray[Any]:
        shape = tuple(self.engine.get_tensor_shape(name))
        dtype = np.dtype(self.trt.module.nptype(self.engine.get_tensor_dtype(name)))
        buffer = Buffer.allocate(self.device, prod(shape) * dtype.itemsize)
        self.buffers[name] = buffer
        return buffer.host.view(dtype).reshape(shape)


class Context:
    """Runs a plan on images of one size at a time."""

    def __init__(self, plan: Plan) -> None:
        """Raises HowlError if TensorRT has no memory for it."""
        self._plan = plan
        self._image_bytes = 0
        with plan.trt.listen() as messages:
            self._context = _create_context(plan)
            if self._context is None:
                raise self._failure("cannot prepare it to run", messages)
        self._context.set_device_memory(plan.scratch.address, plan.scratch_size)
        for name, buffer in plan.buffers.items():
            self._context.set_tensor_address(name, buffer.device.address)

    def set_image_shape(self, shape: tuple[int, ...]) -> None:
        """Sets the shape of the next images: height, width, 3."""
        with self._plan.trt.listen() as messages:
            if not self._context.set_input_shape(IMAGE, shape):
                raise self._failure("refused the image", messages)
        self._image_bytes = prod(shape)

    def queue(self) -> None:
        """Queues one run: the image's upload, the network, and the downloads of its outputs."""
        device, buffers = self._plan.device, self._plan.buffers
        device.queue_upload(buffers[IMAGE].device, buffers[IMAGE].host[: self._image_bytes])
        with self._plan.trt.listen() as messages:
            if not self._context.execute_async_v3(device.stream_handle):
                raise self._failure("failed", messages)
        for name in self._plan.outputs:
            device.queue_download(buffers[name].host, buffers[name].device)

    def _failure(self, what: str, messages: Messages) -> DeviceError:
        return DeviceError(f"{self._plan.path}: {self._plan.trt} {what}: {messages.reason()}")


def records_graphs(trt: TensorRT) -> bool:
    """Whether TensorRT makes CUDA graphs by itself, as TensorRT-RTX does.

    TensorRT-RTX runs fallback kernels until it has compiled those for a new image size. A graph recorded from outside
    would keep the fallback kernels.
    """
    return trt.flavour == TENSORRT_RTX


def _create_context(plan: Plan) -> Any:
    module = plan.trt.module
    strategy = module.ExecutionContextAllocationStrategy.USER_MANAGED
    if not records_graphs(plan.trt):
        return plan.engine.create_execution_context(strategy)
    config = plan.engine.create_runtime_config()
    config.set_execution_context_allocation_strategy(strategy)
    config.cuda_graph_strategy = module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    return plan.engine.create_execution_context(config)


def _check_tensors(path: Path, engine: Any) -> tuple[str, ...]:
    """The outputs that the plan has. Raises IncompatibleError if howl did not export it."""
    present = {engine.get_tensor_name(i) for i in range(engine.num_io_tensors)}
    outputs = check_tensors(path, present, present)
    for name in outputs:
        if any(side < 0 for side in engine.get_tensor_shape(name)):
            raise IncompatibleError(f"{path}: '{name}' has no fixed size: it is not an engine that howl exported")
    return outputs
