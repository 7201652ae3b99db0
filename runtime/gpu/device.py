"""The GPU that howl computes on: its memory, copies, kernels and recorded graphs, in the order of one stream."""

import ctypes
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from runtime.errors import DeviceError
from runtime.gpu.api import Cuda
from runtime.gpu.driver import find_gpus

CHUNK_BYTES = 64 << 20  # of the host's memory that an upload uses at a time
KEPT_BYTES = 2 << 30  # of freed memory that stays at hand: giving all of it back would cost more than the work

Graph = Any  # cudaGraphExec_t
Kernel = Any  # CUfunction
Event = Any  # cudaEvent_t


@dataclass(frozen=True, eq=False)
class DeviceArray:
    """An array in the GPU's memory, contiguous. Its memory is freed with it, after all that is queued.

    Attributes:
        address: of its first byte.
        shape: as of a NumPy array.
        dtype: likewise.
        whole: the array that it is a part of, which it keeps alive; None if it is whole itself.
    """

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype
    whole: "DeviceArray | None" = None

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def row(self, number: int) -> "DeviceArray":
        """One row along the first axis, as a part."""
        shape = self.shape[1:]
        stride = int(np.prod(shape, dtype=np.int64)) * self.dtype.itemsize
        return DeviceArray(self.address + number * stride, shape, self.dtype, self)


class Device:
    """The first GPU that CUDA sees (CUDA_VISIBLE_DEVICES chooses it), and a stream of its own.

    What is queued runs in that order. Threads may share a device; what needs several steps in a row, such as recording,
    they do in turn. If CUDA fails, methods raise DeviceErrors that begin with the owner.
    """

    def __init__(self, owner: object) -> None:
        """Opens a stream.

        Args:
            owner: on whose behalf the GPU is used, such as the path of a plan; errors begin with it.

        Raises:
            DeviceError: there is no NVIDIA GPU, or it does not answer.
            DependencyError: cuda-bindings is missing.
        """
        if not find_gpus():  # before any library of CUDA's is touched: without a driver it can crash the process
            raise DeviceError(f"{owner}: needs an NVIDIA GPU, and none was found: ask for the CPU")
        self._cuda = Cuda(owner)
        self._cuda.cudaSetDevice(0)
        self._resources = ExitStack()
        self._allocated: dict[int, Callable[[Any], Any]] = {}  # how to free what is at an address
        self._release = weakref.finalize(self, _release, self._cuda, self._allocated, self._resources)
        self._release.atexit = False  # CUDA may be gone by then
        # Non-blocking: does not wait for what other libraries queue on CUDA's default stream.
        self._stream = self._cuda.cudaStreamCreateWithFlags(self._cuda.runtime.cudaStreamNonBlocking)
        self._resources.callback(self._cuda.runtime.cudaStreamDestroy, self._stream)
        self._pool = self._cuda.cudaDeviceGetDefaultMemPool(0)
        attribute = self._cuda.runtime.cudaMemPoolAttr.cudaMemPoolAttrReleaseThreshold
        self._cuda.cudaMemPoolSetAttribute(self._pool, attribute, self._cuda.driver.cuuint64_t(KEPT_BYTES))

    @property
    def stream_handle(self) -> int:
        """The stream, for libraries that queue work of their own."""
        return int(self._stream)

    def free_bytes(self) -> int:
        """Free bytes of the GPU's memory."""
        self.wait()
        self._cuda.cudaMemPoolTrimTo(self._pool, 0)
        free, _ = self._cuda.cudaMemGetInfo()
        return int(free)

    # Memory

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> DeviceArray:
        """An uninitialised array. Raises DeviceError if there is no room for it."""
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        # For 0 bytes CUDA would give no address.
        address = int(self._cuda.cudaMallocAsync(max(size, 1), self._stream))
        stream, free = self._stream, self._cuda.runtime.cudaFreeAsync
        self._allocated[address] = lambda address: free(address, stream)
        array = DeviceArray(address, tuple(shape), np.dtype(dtype))
        weakref.finalize(array, self._free, address).atexit = False
        return array

    def zeros(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> DeviceArray:
        """An array of zeros. Raises DeviceError if there is no room for it."""
        array = self.empty(shape, dtype)
        if array.nbytes:
            self._cuda.cudaMemsetAsync(array.address, 0, array.nbytes, self._stream)
        return array

    def page_locked(self, size: int) -> NDArray[np.uint8]:
        """``size`` > 0 bytes of the host, which the GPU copies from and to by itself, also in a graph.

        They stay valid until ``close``.
        """
        address = int(self._cuda.cudaHostAlloc(size, self._cuda.runtime.cudaHostAllocDefault))
        self._allocated[address] = self._cuda.runtime.cudaFreeHost
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    # Copies

    def upload(self, array: NDArray) -> DeviceArray:
        """A copy on the GPU, made in pieces: the array may be a memory map larger than the host's memory.

        Raises DeviceError if there is no room for it.
        """
        copy = self.empty(array.shape, array.dtype)
        rows = max(1, CHUNK_BYTES // max(1, array[:1].nbytes))
        for start in range(0, len(array), rows):
            self.queue_upload(copy.row(start), np.ascontiguousarray(array[start : start + rows]))
        return copy

    def queue_upload(self, target: DeviceArray, source: NDArray) -> None:
        """Queues a copy of a whole host array to where ``target`` begins. A page-locked one must not change before."""
        if source.nbytes:
            kind = self._cuda.runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
            self._cuda.cudaMemcpyAsync(target.address, source.ctypes.data, source.nbytes, kind, self._stream)

    def download(self, array: DeviceArray) -> NDArray:
        """A copy in the host's memory, after all that is queued is done."""
        copy = np.empty(array.shape, array.dtype)
        self.queue_download(copy, array)
        self.wait()
        return copy

    def queue_download(self, target: NDArray, source: DeviceArray) -> None:
        """Queues a copy of a whole array to the host, to be read after ``wait``."""
        if source.nbytes:
            kind = self._cuda.runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
            self._cuda.cudaMemcpyAsync(target.ctypes.data, source.address, source.nbytes, kind, self._stream)

    def copy(self, target: DeviceArray, source: DeviceArray) -> None:
        """Queues a copy within the GPU's memory."""
        kind = self._cuda.runtime.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        self._cuda.cudaMemcpyAsync(target.address, source.address, source.nbytes, kind, self._stream)

    def wait(self) -> None:
        """Returns when everything that is queued is done."""
        self._cuda.cudaStreamSynchronize(self._stream)

    # Kernels

    def compile(
        self, source: Path, kernels: Sequence[str], defines: Mapping[str, int], *, fused: bool = True
    ) -> dict[str, Kernel]:
        """Compiles CUDA C++ for this GPU.

        Args:
            source: the file.
            kernels: their names; they are ``extern "C"``.
            defines: the preprocessor's, by name.
            fused: whether a·b + c may be rounded once; where the CPU rounds twice, results would differ from its.

        Raises:
            DeviceError: the compiler refuses, or the driver is too old for what it makes.
            DependencyError: NVRTC is missing.
        """
        cuda = self._cuda
        architecture, is_binary = self._architecture()
        options = [
            f"--gpu-architecture={'sm' if is_binary else 'compute'}_{architecture}",
            "-std=c++17",
            f"--fmad={str(fused).lower()}",
            *(f"-D{name}={value}" for name, value in defines.items()),
        ]
        program = cuda.nvrtcCreateProgram(source.read_bytes(), source.name.encode(), 0, [], [])
        with ExitStack() as cleanup:
            cleanup.callback(cuda.nvrtc.nvrtcDestroyProgram, program)
            try:
                cuda.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
            except DeviceError as error:
                log = bytes(int(cuda.nvrtcGetProgramLogSize(program)))
                cuda.nvrtcGetProgramLog(program, log)
                said = " ".join(log.rstrip(b"\0").decode(errors="replace").split())
                raise DeviceError(f"{error}: {said}") from None
            kind = "CUBIN" if is_binary else "PTX"
            code = bytes(int(getattr(cuda, f"nvrtcGet{kind}Size")(program)))  # CUDA writes it there
            getattr(cuda, f"nvrtcGet{kind}")(program, code)
        cuda.cudaSetDevice(0)  # a thread that never called CUDA has no GPU as yet
        module = cuda.cuModuleLoadData(code)
        self._resources.callback(cuda.driver.cuModuleUnload, module)
        return {name: cuda.cuModuleGetFunction(module, name.encode()) for name in kernels}

    def _architecture(self) -> tuple[int, bool]:
        """What the compiler compiles for: this GPU, or the newest kind that it knows; the driver then does the rest."""
        attribute = self._cuda.runtime.cudaDeviceAttr
        major = self._cuda.cudaDeviceGetAttribute(attribute.cudaDevAttrComputeCapabilityMajor, 0)
        minor = self._cuda.cudaDeviceGetAttribute(attribute.cudaDevAttrComputeCapabilityMinor, 0)
        own = 10 * major + minor
        known = self._cuda.nvrtcGetSupportedArchs()
        fitting = [each for each in known if each <= own]
        if not fitting:
            raise DeviceError(f"{self._cuda.owner}: CUDA's compiler is for newer GPUs than this one ({major}.{minor})")
        return max(fitting), max(fitting) == own

    def launch(
        self, kernel: Kernel, blocks: tuple[int, int], threads: int, *arguments: DeviceArray | np.generic
    ) -> None:
        """Queues a kernel.

        Args:
            kernel: from ``compile``.
            blocks: in x (below 2³¹) and y (below 2¹⁶), above 0.
            threads: of a block.
            arguments: of exactly the sizes that the kernel declares; arrays go as their addresses.
        """
        values = [
            np.array(argument.address, np.uint64) if isinstance(argument, DeviceArray) else np.array(argument)
            for argument in arguments
        ]
        addresses = np.array([value.ctypes.data for value in values], np.uint64)
        self._cuda.cudaSetDevice(0)  # a thread that never called CUDA has no GPU as yet
        self._cuda.cuLaunchKernel(kernel, *blocks, 1, threads, 1, 1, 0, self._stream, addresses.ctypes.data, 0)

    # Graphs

    def record(self, work: Callable[[], None]) -> Graph:
        """The graph of what ``work`` queues; none of it runs yet. The caller frees it with ``forget``.

        Raises DeviceError if the work fails or cannot be recorded; the stream is then as before.
        """
        cuda = self._cuda
        # Thread-local: CUDA calls of other threads are not recorded and cannot break the recording.
        mode = cuda.runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        with ExitStack() as cleanup:
            cuda.cudaStreamBeginCapture(self._stream, mode)
            try:
                work()
            finally:
                recorded = cuda.cudaStreamEndCapture(self._stream)
                cleanup.callback(cuda.runtime.cudaGraphDestroy, recorded)
            return cuda.cudaGraphInstantiate(recorded, 0)

    def replay(self, graph: Graph) -> None:
        """Queues everything that was recorded."""
        self._cuda.cudaGraphLaunch(graph, self._stream)

    def forget(self, graph: Graph) -> None:
        """Frees a graph that is not running."""
        self._cuda.runtime.cudaGraphExecDestroy(graph)

    # Time

    def mark(self) -> Event:
        """Queues the taking of the time."""
        event = self._cuda.cudaEventCreate()
        self._cuda.cudaEventRecord(event, self._stream)
        return event

    def milliseconds(self, start: Event, end: Event) -> float:
        """The GPU's time between two marks, for which it waits; they cannot be used again."""
        self._cuda.cudaEventSynchronize(end)
        taken = float(self._cuda.cudaEventElapsedTime(start, end))
        for event in (start, end):
            self._cuda.runtime.cudaEventDestroy(event)
        return taken

    def close(self) -> None:
        """Frees everything but graphs, as the end of the object does; failures are ignored."""
        self._release()

    def _free(self, address: int) -> None:
        """Frees what is at an address. An array's end calls it, so that a device lives as long as its arrays."""
        _free(self._allocated, address)


def _free(allocated: dict[int, Callable[[Any], Any]], address: int) -> None:
    if (free := allocated.pop(address, None)) is not None:
        free(address)


def _release(cuda: Cuda, allocated: dict[int, Callable[[Any], Any]], resources: ExitStack) -> None:
    cuda.runtime.cudaSetDevice(0)  # modules can be unloaded only by a thread that has a GPU
    for address in list(allocated):
        _free(allocated, address)
    resources.close()
