"""A stand-in for CuPy that runs CUDA C++ on the CPU: the kernels' own source, compiled by Zig with ``cuda.h``.

It has no more of CuPy than matching uses, and is as strict: arrays of the GPU and of the host do not mix, memory ends,
new memory is not zero, kernels are not told the types of their arguments, and a launch must fit CUDA's limits.
"""

import ctypes
import hashlib
import os
import re
import subprocess
import sys
import time
import weakref
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

HEADER = Path(__file__).with_name("cuda.h")
FLAGS = ["-O1", "-g0", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-fno-exceptions", "-nostdlib++"]
MAX_BLOCKS, MAX_THREADS = (2**31 - 1, 2**16 - 1), 1024
GARBAGE = 0xA5


class Array:
    """``cupy.ndarray``."""

    def __init__(self, memory: NDArray[Any]) -> None:
        self._memory = memory
        self.shape, self.dtype, self.nbytes = memory.shape, memory.dtype, memory.nbytes
        self.data = SimpleNamespace(ptr=memory.ctypes.data)

    def __getitem__(self, key: int | slice) -> "Array":
        return Array(self._memory[key])

    def get(self) -> NDArray[Any]:
        return self._memory.copy()

    def set(self, array: NDArray[Any]) -> None:
        if type(array) is not np.ndarray or array.dtype != self.dtype:
            raise TypeError(f"{type(array)} cannot be set to a {self.dtype} array")
        if array.shape != self.shape:
            raise ValueError(f"{array.shape} cannot be set to {self.shape}")
        self._memory[...] = array


class StandIn:
    """The module ``cupy``, with a GPU of some bytes of memory.

    Attributes:
        shuffle: the seed of the order in which all threads of a launch run; None: one block after the other.
        launches: the names of the kernels that were run.
        taken: bytes of the memory in use.
    """

    def __init__(self, folder: Path, memory: int = 1 << 30) -> None:
        self.shuffle: int | None = None
        self.launches: list[str] = []
        self.taken = 0
        self._folder = folder
        self._size = memory
        self.cuda = SimpleNamespace(
            runtime=SimpleNamespace(memGetInfo=lambda: (self._size - self.taken, self._size)),
            Event=Event,
            get_elapsed_time=lambda start, end: (end.time - start.time) * 1e3,
        )

    def get_default_memory_pool(self) -> SimpleNamespace:
        return SimpleNamespace(free_all_blocks=lambda: None)

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        memory = np.empty(shape, dtype)
        if self.taken + memory.nbytes > self._size:
            raise MemoryError(f"out of memory allocating {memory.nbytes} bytes")
        memory.reshape(-1).view(np.uint8).fill(GARBAGE)
        self.taken += memory.nbytes
        weakref.finalize(memory, self._release, memory.nbytes)
        return Array(memory)

    def zeros(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        array = self.empty(shape, dtype)
        array.set(np.zeros(shape, dtype))
        return array

    def copyto(self, target: Array, source: Array) -> None:
        target.set(source.get())

    def RawModule(self, *, code: str, options: tuple[str, ...]) -> SimpleNamespace:  # noqa: N802 (CuPy's name)
        library = compile_cuda(self._folder, code, options)
        return SimpleNamespace(get_function=lambda name: Kernel(self, library, name))

    def order(self, threads: int) -> NDArray[np.uint32]:
        """The numbers of the threads of a launch, in the order of their running."""
        numbers = np.arange(threads, dtype=np.uint32)
        return numbers if self.shuffle is None else np.random.default_rng(self.shuffle).permutation(numbers)

    def _release(self, size: int) -> None:
        self.taken -= size


class Event:
    """``cupy.cuda.Event``."""

    time: float

    def record(self) -> None:
        self.time = time.perf_counter()

    def synchronize(self) -> None:
        assert self.time


class Kernel:
    """``cupy.RawKernel``."""

    def __init__(self, gpu: StandIn, library: ctypes.CDLL, name: str) -> None:
        self._gpu, self._name, self._run = gpu, name, getattr(library, f"run_{name}")
        self._run.restype = ctypes.c_char_p

    def __call__(self, grid: tuple[int, int], block: tuple[int], arguments: tuple[Any, ...]) -> None:
        shape = np.array([*grid, *block], np.uint32)
        fits = all(1 <= n <= most for n, most in zip(grid, MAX_BLOCKS, strict=True))
        if not fits or not 1 <= block[0] <= MAX_THREADS:
            raise RuntimeError(f"CUDA_ERROR_INVALID_VALUE: {grid} blocks of {block} threads")
        values = [np.array(value.data.ptr if isinstance(value, Array) else value) for value in arguments]
        if not all(isinstance(value, Array | np.generic) for value in arguments):
            raise TypeError("arguments are arrays of the GPU or NumPy scalars")
        addresses = np.array([value.ctypes.data for value in values], np.uintp)
        sizes = np.array([value.itemsize for value in values], np.uintp)
        order = self._gpu.order(int(np.prod(shape, dtype=np.int64)))
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in (addresses, sizes, shape, order)]
        if wrong := self._run(*pointers[:2], ctypes.c_size_t(len(values)), *pointers[2:]):
            raise RuntimeError(f"{self._name}: {wrong.decode()}")
        self._gpu.launches.append(self._name)


@cache
def compile_cuda(folder: Path, code: str, options: tuple[str, ...]) -> ctypes.CDLL:
    """The library of all kernels in a source, which is compiled once for all who share the folder."""
    flags = ["-ffp-contract=off" if option == "--fmad=false" else option for option in options]
    kernels = re.findall(r'extern "C" __global__ void (\w+)\(', code)
    text = "\n".join([f'#include "{HEADER}"', code, *(f"KERNEL({kernel})" for kernel in kernels)])
    library = folder / f"{hashlib.sha256(repr((text, flags)).encode()).hexdigest()}.so"
    if library.exists():
        return ctypes.CDLL(str(library))
    source, draft = (library.with_suffix(f".{os.getpid()}{kind}") for kind in (".cpp", ".so"))  # others do the same
    source.write_text(text)
    environment = os.environ | {"ZIG_GLOBAL_CACHE_DIR": str(folder), "ZIG_LOCAL_CACHE_DIR": str(folder)}
    command = [sys.executable, "-m", "ziglang", "c++", *FLAGS, *flags, "-o", str(draft), str(source)]
    subprocess.run(command, env=environment, check=True, timeout=600)
    draft.replace(library)
    return ctypes.CDLL(str(library))
