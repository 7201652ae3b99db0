"""The CUDA runtime, as far as a TensorRT engine needs it: one stream, memory that never moves, and recorded graphs."""

import ctypes
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import DependencyError, DeviceError

Graph = Any  # cudaGraphExec_t


@dataclass(frozen=True)
class Buffer:
    """A tensor's memory on the host and on the GPU.

    Attributes:
        host: uint8 [bytes], page-locked: the GPU copies from and to it by itself, also in a graph.
        address: of the same number of bytes in the GPU's memory.
    """

    host: NDArray[np.uint8]
    address: int


class Cuda:
    """A stream of the current GPU, on which copies, kernels and graphs run in the order in which they were queued.

    If CUDA fails, its methods raise DeviceErrors that name the plan. Buffers and memory stay valid until `close`.
    """

    def __init__(self, path: Path) -> None:
        """Opens a stream for the plan at `path`. Raises DependencyError if cuda-bindings is missing."""
        self._path = path
        self._api = import_cuda(path)
        self._resources = ExitStack()
        # Non-blocking: does not wait for what other libraries queue on CUDA's default stream.
        self._stream = self._call("cudaStreamCreateWithFlags", self._api.cudaStreamNonBlocking)
        self._resources.callback(self._api.cudaStreamDestroy, self._stream)

    @property
    def stream_handle(self) -> int:
        return int(self._stream)

    def allocate(self, size: int) -> int:
        """The address of `size` bytes of the GPU's memory."""
        address = int(self._call("cudaMalloc", max(size, 1)))  # for 0 bytes CUDA would give no address
        self._resources.callback(self._api.cudaFree, address)
        return address

    def allocate_buffer(self, size: int) -> Buffer:
        """`size` > 0 bytes on the host and on the GPU."""
        host = int(self._call("cudaHostAlloc", size, self._api.cudaHostAllocDefault))
        self._resources.callback(self._api.cudaFreeHost, host)
        array = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(host))
        return Buffer(array, self.allocate(size))

    def upload(self, buffer: Buffer, size: int) -> None:
        """Queues a copy of the first `size` bytes to the GPU."""
        kind = self._api.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", buffer.address, buffer.host.ctypes.data, size, kind, self._stream)

    def download(self, buffer: Buffer) -> None:
        """Queues a copy of the whole buffer from the GPU, to be read after `wait`."""
        kind = self._api.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", buffer.host.ctypes.data, buffer.address, buffer.host.nbytes, kind, self._stream)

    def wait(self) -> None:
        """Returns when everything that is queued is done."""
        self._call("cudaStreamSynchronize", self._stream)

    def record(self, work: Callable[[], None]) -> Graph:
        """The graph of what `work` queues; none of it runs yet. The caller frees it with `forget`.

        Raises DeviceError if the work fails or cannot be recorded; the stream is then as before.
        """
        # Thread-local: CUDA calls of other threads are not recorded and cannot break the recording.
        mode = self._api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        with ExitStack() as cleanup:
            self._call("cudaStreamBeginCapture", self._stream, mode)
            try:
                work()
            finally:
                recorded = self._call("cudaStreamEndCapture", self._stream)
                cleanup.callback(self._api.cudaGraphDestroy, recorded)
            return self._call("cudaGraphInstantiate", recorded, 0)

    def launch(self, graph: Graph) -> None:
        """Queues everything that was recorded."""
        self._call("cudaGraphLaunch", graph, self._stream)

    def forget(self, graph: Graph) -> None:
        """Frees a graph that is not running."""
        self._api.cudaGraphExecDestroy(graph)

    def close(self) -> None:
        """Frees everything but graphs. Ignores failures: when the process ends, CUDA may be gone already."""
        self._resources.close()

    def _call(self, function: str, *arguments: Any) -> Any:
        """Calls a CUDA function, checks its error code and returns its other result."""
        error, *values = getattr(self._api, function)(*arguments)
        if error != self._api.cudaError_t.cudaSuccess:
            self._api.cudaGetLastError()  # CUDA keeps the error; TensorRT's next call would report it as its own
            _, reason = self._api.cudaGetErrorString(error)
            raise DeviceError(f"{self._path}: the GPU failed in {function}: {reason.decode()}")
        return values[0] if values else None


def import_cuda(path: Path) -> Any:
    """The module of CUDA's runtime functions. Raises DependencyError if cuda-bindings is missing."""
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise DependencyError(f"{path}: needs cuda-bindings: pip install cuda-bindings") from error
    return runtime
