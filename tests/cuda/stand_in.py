"""A stand-in for CUDA: cuda-bindings' three modules, with a GPU in this process's memory.

Kernels are CUDA C++ that Zig compiles for the CPU with ``cuda.h``. The stand-in has no more of CUDA than howl uses, and
is as strict: what is queued happens later, not before somebody waits for it; copies lie within their arrays; new memory
is garbage, and ends; launches fit CUDA's limits; and what cannot be recorded spoils a recording.
"""

# ruff: noqa: N801, N802, N815 (the stand-in bears CUDA's names)

import ctypes
import hashlib
import itertools
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from enum import IntEnum
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.gpu import Gpu, api, device
from runtime.gpu.device import Device, DeviceArray

HEADER = Path(__file__).with_name("cuda.h")
FLAGS = ["-O1", "-g0", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-fno-exceptions", "-nostdlib++"]
FLAGS += ["-U_FORTIFY_SOURCE"]  # a fortified longjmp refuses to go on with the stack of another thread
MAX_BLOCKS, MAX_THREADS = (2**31 - 1, 2**16 - 1, 2**16 - 1), (1024, 1024, 64)
GARBAGE = 0xA5
ALIGNMENT = 256
FENCE = 256  # bytes of garbage before and after an array, which nobody may change

Step = Callable[[], None]


class cudaError_t(IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorIllegalAddress = 700
    cudaErrorMisalignedAddress = 716
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901
    cudaErrorUnknown = 999


class CUresult(IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_INVALID_IMAGE = 200
    CUDA_ERROR_INVALID_CONTEXT = 201
    CUDA_ERROR_NO_BINARY_FOR_GPU = 209
    CUDA_ERROR_NOT_FOUND = 500
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900
    CUDA_ERROR_UNKNOWN = 999


class nvrtcResult(IntEnum):
    NVRTC_SUCCESS = 0
    NVRTC_ERROR_INVALID_OPTION = 5
    NVRTC_ERROR_COMPILATION = 6
    NVRTC_ERROR_INTERNAL_ERROR = 11


class cudaMemcpyKind(IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2
    cudaMemcpyDeviceToDevice = 3


class cudaStreamCaptureMode(IntEnum):
    cudaStreamCaptureModeThreadLocal = 1


class cudaMemPoolAttr(IntEnum):
    cudaMemPoolAttrReleaseThreshold = 4


class cudaDeviceAttr(IntEnum):
    cudaDevAttrComputeCapabilityMajor = 75
    cudaDevAttrComputeCapabilityMinor = 76


OK = cudaError_t.cudaSuccess
BAD = cudaError_t.cudaErrorInvalidValue
WHILE_RECORDING = {
    "cudaMemcpyAsync",
    "cudaMemsetAsync",
    "cuLaunchKernel",
    "cudaSetDevice",
    "cudaStreamEndCapture",
    "cudaGetLastError",
    "cudaGetErrorString",
    "cuGetErrorString",
}


class Recording:
    """What is queued on a stream while it is recorded.

    Attributes:
        thread: that records.
        steps: so far.
        is_spoilt: whether something cannot be recorded.
    """

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.steps: list[Step] = []
        self.is_spoilt = False


class StandIn:
    """A GPU, and the modules ``runtime``, ``driver`` and ``nvrtc`` that speak to it.

    Attributes:
        folder: of compiled kernels, which others may share; without one, nothing can be compiled.
        failing: the functions that fail from now on; those that allocate, as on a full GPU.
        calls: how often each function was called.
        memory: bytes that it has.
        shuffle: the seed of the order in which the threads of a launch run; None: one block after the other.
        launches: the names of the kernels that ran.
        device, host: arrays in the GPU's memory and page-locked ones, by address; with their fences.
        reserved: bytes of the memory that the pool keeps, in use or not.
        streams: what is queued on each.
        recordings: by stream.
        recorded, graphs, events, modules, programs: by their handles.
        capability: of the GPU, as in ``Gpu``.
        architectures: that the compiler knows.
        last_error: of the runtime, until somebody asks for it.
        faults: what would be undefined on a GPU, where no call can report it.
        bound: what threads have a GPU.
    """

    def __init__(self, folder: Path | None = None, memory: int = 1 << 30) -> None:
        self.failing: set[str] = set()
        self.calls: dict[str, int] = {}
        self.folder, self.memory = folder, memory
        self.shuffle: int | None = None
        self.launches: list[str] = []
        self.device: dict[int, NDArray[np.uint8]] = {}
        self.host: dict[int, NDArray[np.uint8]] = {}
        self.reserved = 0
        self.streams: dict[int, list[Step]] = {}
        self.recordings: dict[int, Recording] = {}
        self.recorded: dict[int, list[Step]] = {}
        self.graphs: dict[int, list[Step]] = {}
        self.events: dict[int, float | None] = {}
        self.modules: dict[int, ctypes.CDLL] = {}
        self.programs: dict[int, Program] = {}
        self.capability = 9, 0
        self.architectures = [75, 80, 90]
        self.last_error = OK
        self.faults: list[str] = []
        self.bound = threading.local()
        self._turn = threading.RLock()
        self._handles = itertools.count(1001)
        self.runtime, self.driver, self.nvrtc = Runtime(self), Driver(self), Nvrtc(self)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> "StandIn":
        """Lets every new Device use it. Returns itself."""
        monkeypatch.setattr(device, "find_gpus", lambda: [Gpu("Test GPU", self.capability)])
        monkeypatch.setattr(api, "import_cuda", lambda owner: (self.runtime, self.driver, self.nvrtc))
        monkeypatch.setattr(Device, "launch", checked_launch)
        return self

    # What a test may ask

    def taken(self) -> int:
        """Bytes of the GPU's memory in use, after all that is queued."""
        self.drain()
        return sum(map(size_of, self.device.values()))

    def is_empty(self) -> bool:
        """Whether everything was given back, and nothing went wrong unseen."""
        left = [self.device, self.host, self.streams, self.recorded, self.graphs, self.modules, self.programs]
        return not any([*left, self.events, self.recordings, self.faults])

    # What happens on the GPU

    def queue(self, stream: int, step: Step) -> None:
        """Does something later; or, while the stream is recorded, whenever its graph runs."""
        recording = self.recordings.get(stream)
        (self.streams[stream] if recording is None else recording.steps).append(step)

    def drain(self) -> cudaError_t:
        """Does all that is queued; of several streams, one after the other."""
        error = OK
        with self._turn:  # a thread also waits for what another one is doing
            for steps in list(self.streams.values()):
                while steps:
                    try:
                        steps.pop(0)()
                    except Stopped as stopped:
                        error = stopped.error
        return error

    def view(self, address: int, size: int) -> NDArray[np.uint8]:
        """``size`` bytes of the GPU's memory; they must lie within one array."""
        found = within(self.device, address, size)
        assert found is not None, f"{size} bytes from {address} on are no part of an array on the GPU"
        return found

    def allocate(self, arrays: dict[int, NDArray[np.uint8]], size: int) -> int:
        whole = np.full(size + 2 * FENCE + ALIGNMENT, GARBAGE, np.uint8)
        address = -(-(whole.ctypes.data + FENCE) // ALIGNMENT) * ALIGNMENT
        start = address - FENCE - whole.ctypes.data
        arrays[address] = whole[start : start + size + 2 * FENCE]
        return address

    def free(self, arrays: dict[int, NDArray[np.uint8]], address: int) -> None:
        self.has_whole_fences()
        array = arrays.pop(address, None)
        if array is None:
            self.faults.append(f"nothing is at {address} to be freed")
        else:
            array.fill(GARBAGE ^ 0xFF)  # for whoever reads it afterwards

    def has_whole_fences(self) -> bool:
        """Whether nothing was written beyond an array; otherwise it is a fault."""
        arrays = [*self.device.values(), *self.host.values()]
        is_whole = all((array[:FENCE] == GARBAGE).all() and (array[-FENCE:] == GARBAGE).all() for array in arrays)
        if not is_whole:
            self.faults.append("something was written beyond an array")
        return is_whole

    def order(self, blocks: int, threads: int, cooperate: bool) -> NDArray[np.uint32]:
        """The numbers of the threads of a launch, in the order of their running; cooperating ones block by block."""
        numbers = np.arange(blocks * threads, dtype=np.uint32)
        if self.shuffle is None:
            return numbers
        random = np.random.default_rng(self.shuffle)
        if not cooperate:
            return random.permutation(numbers)
        of_blocks = random.permutation(numbers.reshape(blocks, threads))
        return random.permuted(of_blocks, axis=1).ravel()

    def new_handle(self) -> int:
        return next(self._handles)


class Stopped(Exception):  # noqa: N818 (it is the GPU that stops)
    """The GPU stops while it does what was queued."""

    def __init__(self, error: cudaError_t) -> None:
        super().__init__(error.name)
        self.error = error


class Module:
    """What the three modules share: their functions are counted, and fail where they are to fail."""

    def __init__(self, gpu: StandIn) -> None:
        self._gpu = gpu

    def __getattribute__(self, name: str) -> Any:
        attribute = super().__getattribute__(name)
        if not re.match("cu[A-Z]|cuda[A-Z]|nvrtc[A-Z]", name) or isinstance(attribute, type | int):
            return attribute
        return partial(self._call, name, attribute)

    def _call(self, name: str, function: Callable[..., tuple[Any, ...]], *arguments: Any) -> tuple[Any, ...]:
        gpu = self._gpu
        gpu.calls[name] = gpu.calls.get(name, 0) + 1
        own = [each for each in gpu.recordings.values() if each.thread == threading.get_ident()]
        if own and name not in WHILE_RECORDING:
            own[0].is_spoilt = True
            return self._failure(900)
        if name in gpu.failing:
            if name == "cudaStreamEndCapture":
                gpu.recordings.clear()
            return self._failure(2 if "alloc" in name.lower() else 999)
        error, *values = function(*arguments)
        return self._failure(error) if error and name != "cudaGetLastError" else (error, *values)

    def _failure(self, error: int) -> tuple[Any, ...]:
        return (error, None)


class Runtime(Module):
    """``cuda.bindings.runtime``."""

    cudaError_t = cudaError_t
    cudaMemcpyKind = cudaMemcpyKind
    cudaStreamCaptureMode = cudaStreamCaptureMode
    cudaMemPoolAttr = cudaMemPoolAttr
    cudaDeviceAttr = cudaDeviceAttr
    cudaStreamNonBlocking = 1
    cudaHostAllocDefault = 0

    def _failure(self, error: int) -> tuple[Any, ...]:
        self._gpu.last_error = cudaError_t(error)
        return (cudaError_t(error), None)

    def cudaSetDevice(self, device: int) -> tuple[cudaError_t]:
        self._gpu.bound.device = device
        return (OK if device == 0 else BAD,)

    def cudaDeviceGetAttribute(self, attr: cudaDeviceAttr, device: int) -> tuple[cudaError_t, int]:
        assert device == 0
        return OK, self._gpu.capability[attr == cudaDeviceAttr.cudaDevAttrComputeCapabilityMinor]

    def cudaGetLastError(self) -> tuple[cudaError_t]:
        error, self._gpu.last_error = self._gpu.last_error, OK
        return (error,)

    def cudaGetErrorString(self, error: cudaError_t) -> tuple[cudaError_t, bytes]:
        return OK, cudaError_t(error).name.encode()

    # Streams and time

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[cudaError_t, int]:
        assert flags == self.cudaStreamNonBlocking
        stream = self._gpu.new_handle()
        self._gpu.streams[stream] = []
        return OK, stream

    def cudaStreamDestroy(self, stream: int) -> tuple[cudaError_t]:
        error = self._gpu.drain()
        del self._gpu.streams[stream]
        return (error,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[cudaError_t]:
        assert stream in self._gpu.streams
        return (self._gpu.drain(),)

    def cudaEventCreate(self) -> tuple[cudaError_t, int]:
        event = self._gpu.new_handle()
        self._gpu.events[event] = None
        return OK, event

    def cudaEventRecord(self, event: int, stream: int) -> tuple[cudaError_t]:
        assert event in self._gpu.events
        self._gpu.queue(stream, lambda: self._gpu.events.__setitem__(event, time.perf_counter()))
        return (OK,)

    def cudaEventSynchronize(self, event: int) -> tuple[cudaError_t]:
        assert event in self._gpu.events
        return (self._gpu.drain(),)

    def cudaEventElapsedTime(self, start: int, end: int) -> tuple[cudaError_t, float]:
        before, after = self._gpu.events[start], self._gpu.events[end]
        assert before is not None
        assert after is not None
        return OK, (after - before) * 1e3

    def cudaEventDestroy(self, event: int) -> tuple[cudaError_t]:
        del self._gpu.events[event]
        return (OK,)

    # Memory

    def cudaDeviceGetDefaultMemPool(self, device: int) -> tuple[cudaError_t, str]:
        assert device == 0
        return OK, "the pool"

    def cudaMemPoolSetAttribute(self, memPool: str, attr: cudaMemPoolAttr, value: Any) -> tuple[cudaError_t]:
        assert isinstance(value, cuuint64_t)
        return (OK if memPool == "the pool" and attr == cudaMemPoolAttr.cudaMemPoolAttrReleaseThreshold else BAD,)

    def cudaMemPoolTrimTo(self, memPool: str, minBytesToKeep: int) -> tuple[cudaError_t]:
        assert memPool == "the pool"
        used = sum(map(size_of, self._gpu.device.values()))  # what is queued to be freed, too
        self._gpu.reserved = max(used, min(self._gpu.reserved, minBytesToKeep))
        return (OK,)

    def cudaMemGetInfo(self) -> tuple[cudaError_t, int, int]:
        return OK, self._gpu.memory - self._gpu.reserved, self._gpu.memory

    def cudaMallocAsync(self, size: int, hStream: int) -> tuple[cudaError_t, int | None]:
        gpu = self._gpu
        assert hStream in gpu.streams
        assert size > 0, "CUDA gives no address for nothing"
        used = sum(map(size_of, gpu.device.values()))
        if used + size > gpu.memory and gpu.taken() + size > gpu.memory:  # memory that is freed soon counts as free
            return cudaError_t.cudaErrorMemoryAllocation, None
        gpu.reserved = max(gpu.reserved, min(used + size, gpu.memory))
        return OK, gpu.allocate(gpu.device, size)

    def cudaFreeAsync(self, devPtr: int, hStream: int) -> tuple[cudaError_t]:
        self._gpu.queue(hStream, lambda: self._gpu.free(self._gpu.device, devPtr))
        return (OK,)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[cudaError_t, int]:
        assert flags == self.cudaHostAllocDefault
        return OK, self._gpu.allocate(self._gpu.host, size)

    def cudaFreeHost(self, ptr: int) -> tuple[cudaError_t]:
        error = self._gpu.drain()  # CUDA waits, too
        self._gpu.free(self._gpu.host, ptr)
        return (error,)

    def cudaMemsetAsync(self, devPtr: int, value: int, count: int, stream: int) -> tuple[cudaError_t]:
        self._gpu.view(devPtr, count)
        self._gpu.queue(stream, lambda: self._gpu.view(devPtr, count).fill(value))
        return (OK,)

    def cudaMemcpyAsync(self, dst: int, src: int, count: int, kind: cudaMemcpyKind, stream: int) -> tuple[cudaError_t]:
        """Memory that is not page-locked is read at once, as by CUDA, and the stand-in does not record that."""
        gpu = self._gpu
        if kind == cudaMemcpyKind.cudaMemcpyDeviceToDevice:
            gpu.view(dst, count)
            gpu.view(src, count)
            gpu.queue(stream, lambda: np.copyto(gpu.view(dst, count), gpu.view(src, count).copy()))
            return (OK,)
        is_upload = kind == cudaMemcpyKind.cudaMemcpyHostToDevice
        device, host = (dst, src) if is_upload else (src, dst)
        gpu.view(device, count)
        assert not overlaps(gpu.device, host, count), "the host's side of a copy lies on the GPU"
        is_page_locked = within(gpu.host, host, count) is not None
        content: int | bytes = src
        if not is_page_locked:
            assert not overlaps(gpu.host, host, count), "a copy goes beyond page-locked memory"
            if stream in gpu.recordings:
                gpu.recordings[stream].is_spoilt = True
                return (cudaError_t.cudaErrorStreamCaptureUnsupported,)
            content = ctypes.string_at(src, count) if is_upload else src

        def copy() -> None:
            gpu.view(device, count)  # it may have been freed
            assert not is_page_locked or within(gpu.host, host, count) is not None
            ctypes.memmove(dst, content, count)

        gpu.queue(stream, copy)
        return (OK,)

    # Graphs

    def cudaStreamBeginCapture(self, stream: int, mode: cudaStreamCaptureMode) -> tuple[cudaError_t]:
        assert stream in self._gpu.streams
        assert stream not in self._gpu.recordings
        assert mode == cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._gpu.recordings[stream] = Recording()
        return (OK,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[cudaError_t, int | None]:
        recording = self._gpu.recordings.pop(stream)
        assert recording.thread == threading.get_ident()
        if recording.is_spoilt:
            return cudaError_t.cudaErrorStreamCaptureInvalidated, None
        handle = self._gpu.new_handle()
        self._gpu.recorded[handle] = recording.steps
        return OK, handle

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[cudaError_t, int]:
        handle = self._gpu.new_handle()
        self._gpu.graphs[handle] = self._gpu.recorded[graph]
        return OK, handle

    def cudaGraphDestroy(self, graph: int) -> tuple[cudaError_t]:
        del self._gpu.recorded[graph]
        return (OK,)

    def cudaGraphLaunch(self, graphExec: int, stream: int) -> tuple[cudaError_t]:
        for step in self._gpu.graphs[graphExec]:
            self._gpu.queue(stream, step)
        return (OK,)

    def cudaGraphExecDestroy(self, graphExec: int) -> tuple[cudaError_t]:
        steps = self._gpu.graphs.pop(graphExec)
        queued = [step for stream in self._gpu.streams.values() for step in stream]
        if any(step is each for step in steps for each in queued):
            self._gpu.faults.append("a graph was freed that still had to run")
        return (OK,)


class cuuint64_t:
    """A number that CUDA takes the address of."""

    def __init__(self, value: int) -> None:
        assert 0 <= value < 2**64


class Kernel:
    """A CUfunction.

    Attributes:
        name: in the source.
        sizes: of its arguments, in bytes.
        cooperates: whether the threads of a block wait for each other.
    """

    def __init__(self, library: ctypes.CDLL, name: str, cooperates: bool) -> None:
        self.name, self.cooperates = name, cooperates
        self._run = getattr(library, f"run_{name}")
        self._run.restype = ctypes.c_char_p
        sizes = np.zeros(64, np.uintp)
        count = getattr(library, f"sizes_{name}")(pointer(sizes))
        self.sizes = sizes[:count].tolist()

    def values(self, addresses: int) -> list[bytes]:
        """The arguments, from an array of their addresses."""
        pointers = (ctypes.c_uint64 * len(self.sizes)).from_address(addresses)
        return [ctypes.string_at(address, size) for address, size in zip(pointers, self.sizes, strict=True)]

    def run(self, values: Sequence[bytes], shape: Sequence[int], order: NDArray[np.uint32]) -> None:
        held = [np.frombuffer(value + bytes(-len(value) % 8), np.uint64) for value in values]  # aligned
        addresses = np.array([value.ctypes.data for value in held], np.uintp)
        wrong = self._run(pointer(addresses), pointer(np.array(shape, np.uint32)), pointer(order))
        if wrong == b"misaligned address":
            raise Stopped(cudaError_t.cudaErrorMisalignedAddress)
        assert wrong is None, f"{self.name}: {wrong.decode()}"


class Driver(Module):
    """``cuda.bindings.driver``."""

    CUresult = CUresult
    cuuint64_t = cuuint64_t

    def _failure(self, error: int) -> tuple[Any, ...]:
        return (CUresult(error), None)

    def cuGetErrorString(self, error: CUresult) -> tuple[CUresult, bytes]:
        return CUresult.CUDA_SUCCESS, CUresult(error).name.encode()

    def cuModuleLoadData(self, image: bytes) -> tuple[CUresult, int | None]:
        if not self._is_bound():
            return CUresult.CUDA_ERROR_INVALID_CONTEXT, None
        token = re.fullmatch(rb"(CUBIN|PTX) (\d+) ([^\0]+)\0?", image)
        if token is None:
            return CUresult.CUDA_ERROR_INVALID_IMAGE, None
        own = 10 * self._gpu.capability[0] + self._gpu.capability[1]
        architecture = int(token[2])
        if architecture > own or (token[1] == b"CUBIN" and architecture != own):
            return CUresult.CUDA_ERROR_NO_BINARY_FOR_GPU, None
        handle = self._gpu.new_handle()
        self._gpu.modules[handle] = load_library(Path(os.fsdecode(token[3])))
        return CUresult.CUDA_SUCCESS, handle

    def cuModuleGetFunction(self, hmod: int, name: bytes) -> tuple[CUresult, Kernel | None]:
        library = self._gpu.modules[hmod]
        if not hasattr(library, f"run_{name.decode()}"):
            return CUresult.CUDA_ERROR_NOT_FOUND, None
        return CUresult.CUDA_SUCCESS, Kernel(library, name.decode(), hasattr(library, "threads_cooperate"))

    def cuModuleUnload(self, hmod: int) -> tuple[CUresult]:
        if not self._is_bound():
            return (CUresult.CUDA_ERROR_INVALID_CONTEXT,)
        self._gpu.drain()
        del self._gpu.modules[hmod]
        return (CUresult.CUDA_SUCCESS,)

    def cuLaunchKernel(
        self,
        f: Kernel,
        gridDimX: int,
        gridDimY: int,
        gridDimZ: int,
        blockDimX: int,
        blockDimY: int,
        blockDimZ: int,
        sharedMemBytes: int,
        hStream: int,
        kernelParams: int,
        extra: int,
    ) -> tuple[CUresult]:
        gpu, grid, block = self._gpu, (gridDimX, gridDimY, gridDimZ), (blockDimX, blockDimY, blockDimZ)
        if not self._is_bound():
            return (CUresult.CUDA_ERROR_INVALID_CONTEXT,)
        fits = all(1 <= n <= most for n, most in zip((*grid, *block), (*MAX_BLOCKS, *MAX_THREADS), strict=True))
        if not fits or np.prod(block) > MAX_THREADS[0] or sharedMemBytes or extra:
            return (CUresult.CUDA_ERROR_INVALID_VALUE,)
        assert gridDimZ == blockDimY == blockDimZ == 1, "the stand-in has no more dimensions"
        values = f.values(kernelParams)
        order = gpu.order(gridDimX * gridDimY, blockDimX, f.cooperates)

        def run() -> None:
            f.run(values, (gridDimX, gridDimY, blockDimX), order)
            gpu.launches.append(f.name)
            if not gpu.has_whole_fences():
                raise Stopped(cudaError_t.cudaErrorIllegalAddress)

        gpu.queue(hStream, run)
        return (CUresult.CUDA_SUCCESS,)

    def _is_bound(self) -> bool:
        return hasattr(self._gpu.bound, "device")


class Program:
    """A source, and what the compiler made of it.

    Attributes:
        source: CUDA C++.
        code: by kind, CUBIN or PTX.
        log: what the compiler said.
    """

    def __init__(self, source: bytes) -> None:
        self.source = source
        self.code: dict[str, bytes] = {}
        self.log = b"\0"


class Nvrtc(Module):
    """``cuda.bindings.nvrtc``."""

    nvrtcResult = nvrtcResult

    def _failure(self, error: int) -> tuple[Any, ...]:
        return (nvrtcResult(error if error in list(nvrtcResult) else nvrtcResult.NVRTC_ERROR_INTERNAL_ERROR), None)

    def nvrtcGetErrorString(self, result: nvrtcResult) -> tuple[nvrtcResult, bytes]:
        return nvrtcResult.NVRTC_SUCCESS, nvrtcResult(result).name.encode()

    def nvrtcGetSupportedArchs(self) -> tuple[nvrtcResult, list[int]]:
        return nvrtcResult.NVRTC_SUCCESS, self._gpu.architectures

    def nvrtcCreateProgram(
        self, src: bytes, name: bytes, numHeaders: int, headers: Sequence[bytes], includeNames: Sequence[bytes]
    ) -> tuple[nvrtcResult, int]:
        assert not numHeaders
        assert not headers
        assert not includeNames
        handle = self._gpu.new_handle()
        self._gpu.programs[handle] = Program(src)
        return nvrtcResult.NVRTC_SUCCESS, handle

    def nvrtcDestroyProgram(self, prog: int) -> tuple[nvrtcResult]:
        del self._gpu.programs[prog]
        return (nvrtcResult.NVRTC_SUCCESS,)

    def nvrtcCompileProgram(self, prog: int, numOptions: int, options: Sequence[bytes]) -> tuple[nvrtcResult]:
        assert self._gpu.folder is not None, "nothing is compiled here"
        assert numOptions == len(options)
        program, flags, target = self._gpu.programs[prog], [], ("sm", 0)
        for option in map(bytes.decode, options):
            if found := re.fullmatch(r"--gpu-architecture=(sm|compute)_(\d+)", option):
                target = found[1], int(found[2])
            elif option.startswith("--fmad="):
                flags.append(f"-ffp-contract={'on' if option == '--fmad=true' else 'off'}")
            elif re.fullmatch(r"-D\w+=\d+|-std=c\+\+17", option):
                flags.append(option)
            else:
                return (nvrtcResult.NVRTC_ERROR_INVALID_OPTION,)
        if target[1] not in self._gpu.architectures:
            return (nvrtcResult.NVRTC_ERROR_INVALID_OPTION,)
        try:
            library = compile_cuda(self._gpu.folder, program.source.decode(), tuple(flags))
        except subprocess.CalledProcessError as error:
            program.log = error.stderr + b"\0"
            return (nvrtcResult.NVRTC_ERROR_COMPILATION,)
        program.code["PTX"] = f"PTX {target[1]} {library}\0".encode()
        if target[0] == "sm":
            program.code["CUBIN"] = f"CUBIN {target[1]} {library}".encode()
        return (nvrtcResult.NVRTC_SUCCESS,)

    def nvrtcGetProgramLogSize(self, prog: int) -> tuple[nvrtcResult, int]:
        return nvrtcResult.NVRTC_SUCCESS, len(self._gpu.programs[prog].log)

    def nvrtcGetProgramLog(self, prog: int, log: bytes) -> tuple[nvrtcResult]:
        return write(self._gpu.programs[prog].log, log)

    def nvrtcGetCUBINSize(self, prog: int) -> tuple[nvrtcResult, int]:
        return nvrtcResult.NVRTC_SUCCESS, len(self._gpu.programs[prog].code.get("CUBIN", b""))

    def nvrtcGetCUBIN(self, prog: int, cubin: bytes) -> tuple[nvrtcResult]:
        return write(self._gpu.programs[prog].code["CUBIN"], cubin)

    def nvrtcGetPTXSize(self, prog: int) -> tuple[nvrtcResult, int]:
        return nvrtcResult.NVRTC_SUCCESS, len(self._gpu.programs[prog].code["PTX"])

    def nvrtcGetPTX(self, prog: int, ptx: bytes) -> tuple[nvrtcResult]:
        return write(self._gpu.programs[prog].code["PTX"], ptx)


def write(content: bytes, room: bytes) -> tuple[nvrtcResult]:
    """Writes over bytes, as C does: those that Python shares would change everywhere."""
    assert len(room) == len(content)
    assert len(content) > 1 or room == content, "Python has single bytes only once"
    ctypes.memmove(room, content, len(content))
    return (nvrtcResult.NVRTC_SUCCESS,)


launch_unchecked = Device.launch


def checked_launch(
    self: Device, kernel: Kernel, blocks: tuple[int, int], threads: int, *arguments: DeviceArray | np.generic
) -> None:
    """``Device.launch``, with the sizes of arguments compared: CUDA is only told their addresses."""
    sizes = [8 if isinstance(argument, DeviceArray) else argument.itemsize for argument in arguments]
    assert sizes == kernel.sizes, f"arguments of {kernel.name}: {sizes} bytes, and it declares {kernel.sizes}"
    launch_unchecked(self, kernel, blocks, threads, *arguments)


def within(arrays: dict[int, NDArray[np.uint8]], address: int, size: int) -> NDArray[np.uint8] | None:
    """These bytes, if they lie within one of the arrays."""
    for start, array in list(arrays.items()):
        if start <= address and address + size <= start + size_of(array):
            return array[FENCE + address - start :][:size]
    return None


def overlaps(arrays: dict[int, NDArray[np.uint8]], address: int, size: int) -> bool:
    return any(address < start + size_of(array) and start < address + size for start, array in list(arrays.items()))


def size_of(array: NDArray[np.uint8]) -> int:
    return array.nbytes - 2 * FENCE


def pointer(array: NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


load_library = cache(lambda path: ctypes.CDLL(str(path)))


@cache
def compile_cuda(folder: Path, code: str, flags: tuple[str, ...]) -> Path:
    """The library of all kernels in a source, which is compiled once for all who share the folder.

    Raises CalledProcessError with the compiler's log.
    """
    kernels = re.findall(r'extern "C" __global__ void (\w+)\(', code)
    text = "\n".join(
        [f'#include "{HEADER}"', '#line 1 "source.cu"', code, *(f"KERNEL({kernel})" for kernel in kernels)]
    )
    cooperative = ["-DCOOPERATIVE"] if "__syncthreads" in code or "_sync(" in code else []
    command = [sys.executable, "-m", "ziglang", "c++", *FLAGS, *cooperative, *flags]
    known = HEADER.read_text(), text, command
    library = folder / f"{hashlib.sha256(repr(known).encode()).hexdigest()}.so"
    if library.exists():
        return library
    source, draft = (library.with_suffix(f".{os.getpid()}{kind}") for kind in (".cpp", ".so"))  # others do the same
    source.write_text(text)
    environment = os.environ | {"ZIG_GLOBAL_CACHE_DIR": str(folder), "ZIG_LOCAL_CACHE_DIR": str(folder)}
    command += ["-o", str(draft), str(source)]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=600)
    draft.replace(library)
    return library
