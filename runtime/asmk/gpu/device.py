"""The GPU, as far as matching needs it: memory, copies and the launches of the kernels in ``scoring.cu``."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from runtime.errors import DependencyError, DeviceError
from runtime.gpu import find_gpus

BINS = 4096  # of scores, to find the best; `scoring.cu` maps scores to bins
KERNELS = ("add_weights", "count_hits", "find_lowest", "collect_hits")
CHUNK_BYTES = 64 << 20  # of the host's memory that an upload uses at a time
ELSEWHERE = "search on the CPU, with Index.search"

DeviceArray = Any  # cupy.ndarray: contiguous, in the GPU's memory

_SOURCE = Path(__file__).with_name("scoring.cu")


def load_cupy() -> Any:
    """The module ``cupy``. Raises DeviceError if there is no NVIDIA GPU, DependencyError if CuPy is missing."""
    if not find_gpus():
        raise DeviceError(f"matching on a GPU needs an NVIDIA GPU, and none was found: {ELSEWHERE}")
    try:
        return import_module("cupy")
    except (ImportError, OSError) as error:  # OSError: installed, but its libraries do not load
        reason = " ".join(str(error).split())
        raise DependencyError(
            f"matching on a GPU needs CuPy ({reason}): in howl's folder, pip install '.[gpu-search]', or {ELSEWHERE}"
        ) from None


class Device:
    """The current GPU of CuPy, with the kernels compiled for it (CUDA_VISIBLE_DEVICES chooses which is the first).

    Attributes:
        code_length: uint64 words of the codes that the kernels compare.
        cupy: the module.
    """

    def __init__(self, code_length: int, cupy: Any) -> None:
        """Compiles the kernels, or takes them from CuPy's cache on the disk.

        Raises DeviceError if CuPy cannot use the GPU: the driver is too old for it, or CUDA's compiler is missing.
        """
        self.code_length = code_length
        self.cupy = cupy
        # Fused multiply-adds would round differently from the CPU.
        options = ("-std=c++17", "--fmad=false", f"-DCODE_LENGTH={code_length}", f"-DBINS={BINS}")
        try:
            module = cupy.RawModule(code=_SOURCE.read_text(encoding="ascii"), options=options)
            self._kernels = {name: module.get_function(name) for name in KERNELS}
        except (ImportError, OSError, RuntimeError) as error:  # CUDA's own errors are RuntimeErrors
            reason = " ".join(str(error).split())
            raise DeviceError(
                f"CuPy cannot use the GPU ({reason}): update the driver or CuPy, for CUDA 13 or 12 as nvidia-smi says"
            ) from None

    def free_bytes(self) -> int:
        """Free bytes of the GPU's memory."""
        self.cupy.get_default_memory_pool().free_all_blocks()
        free, _ = self.cupy.cuda.runtime.memGetInfo()
        return int(free)

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> DeviceArray:
        """An uninitialised array. Raises DeviceError if there is no room for it."""
        return _allocate(self.cupy.empty, shape, dtype)

    def zeros(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> DeviceArray:
        """An array of zeros. Raises DeviceError if there is no room for it."""
        return _allocate(self.cupy.zeros, shape, dtype)

    def upload(self, array: NDArray) -> DeviceArray:
        """A copy on the GPU, made in pieces: the array may be a memory map larger than the host's memory.

        Raises DeviceError if there is no room for it.
        """
        copy = self.empty(array.shape, array.dtype)
        rows = max(1, CHUNK_BYTES // max(1, array[:1].nbytes))
        for start in range(0, len(array), rows):
            copy[start : start + rows].set(np.ascontiguousarray(array[start : start + rows]))
        return copy

    def download(self, array: DeviceArray) -> NDArray:
        """A copy in the host's memory, after all earlier launches are done."""
        return np.asarray(array.get())

    def launch(self, kernel: str, blocks: tuple[int, int], threads: int, *arguments: DeviceArray | np.generic) -> None:
        """Starts a kernel without waiting for it; later launches and downloads wait.

        Args:
            kernel: one of KERNELS.
            blocks: in x (below 2³¹) and y (below 2¹⁶), above 0.
            threads: per block.
            arguments: of exactly the sizes that the kernel declares; arrays go as their addresses.
        """
        self._kernels[kernel](blocks, (threads,), arguments)


def _allocate(make: Callable[..., DeviceArray], shape: tuple[int, ...], dtype: npt.DTypeLike) -> DeviceArray:
    try:
        return make(shape, dtype)
    except MemoryError as error:
        raise DeviceError(f"the GPU's memory is full ({error}): end what else uses the GPU, or {ELSEWHERE}") from None
