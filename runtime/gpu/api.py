"""Access to CUDA: the functions of cuda-bindings, with their error codes checked."""

from functools import partial
from typing import Any

from runtime.errors import DependencyError, DeviceError


class Cuda:
    """CUDA's functions by their names: those of the runtime, of the driver and of its compiler, NVRTC.

    A function that fails raises a DeviceError that begins with ``owner``.

    Attributes:
        owner: on whose behalf the GPU is used, such as the path of a plan; for people.
        runtime: the module ``cuda.bindings.runtime``, for its constants; likewise ``driver`` and ``nvrtc``.
    """

    def __init__(self, owner: object) -> None:
        """Raises DependencyError if cuda-bindings is missing."""
        self.owner = owner
        self.runtime, self.driver, self.nvrtc = import_cuda(owner)

    def __getattr__(self, function: str) -> Any:
        """The function, which returns its result without the error code: None, a value, or several."""
        if function.startswith("nvrtc"):
            return partial(self._call, self.nvrtc, self.nvrtc.nvrtcResult.NVRTC_SUCCESS, function)
        if function.startswith("cuda"):
            return partial(self._call, self.runtime, self.runtime.cudaError_t.cudaSuccess, function)
        return partial(self._call, self.driver, self.driver.CUresult.CUDA_SUCCESS, function)

    def _call(self, module: Any, success: Any, function: str, *arguments: Any) -> Any:
        try:
            error, *values = getattr(module, function)(*arguments)
        except RuntimeError as missing:  # CUDA's libraries are loaded when one of their functions is first called
            reason = " ".join(str(missing).split())
            raise DependencyError(f"{self.owner}: CUDA has no {function} here ({reason}): {REMEDY}") from None
        if error != success:
            raise DeviceError(f"{self.owner}: {self._reason(module, function, error)}")
        return values[0] if len(values) == 1 else tuple(values) or None

    def _reason(self, module: Any, function: str, error: Any) -> str:
        describe = "nvrtcGetErrorString"
        if module is self.runtime:
            module.cudaGetLastError()  # CUDA keeps the error; the next call of another library would report it
            if error == module.cudaError_t.cudaErrorMemoryAllocation:
                return "the GPU's memory is full: end what else uses the GPU, or ask for the CPU"
            describe = "cudaGetErrorString"
        elif module is self.driver:
            describe = "cuGetErrorString"
        _, text = getattr(module, describe)(error)
        return f"the GPU failed in {function}: {text.decode(errors='replace')}"


REMEDY = "pip install 'cuda-bindings>=13' 'nvidia-cuda-nvrtc>=13', and a driver for CUDA 13"


def import_cuda(owner: object) -> tuple[Any, Any, Any]:
    """The modules of CUDA's runtime, driver and compiler. Raises DependencyError if cuda-bindings is missing."""
    try:
        from cuda.bindings import driver, nvrtc, runtime
    except ImportError as error:
        raise DependencyError(f"{owner}: needs cuda-bindings: pip install cuda-bindings") from error
    return runtime, driver, nvrtc
