"""The NVIDIA GPUs that this process can use, according to the driver: needs neither TensorRT nor PyTorch."""

import ctypes
import sys
from dataclasses import dataclass

_DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_SUCCESS = 0
_COMPUTE_CAPABILITY_MAJOR = 75  # CUdevice_attribute
_COMPUTE_CAPABILITY_MINOR = 76


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU.

    Attributes:
        name: as the driver gives it, e.g. "NVIDIA H100 80GB HBM3".
        compute_capability: (major, minor), e.g. (9, 0).
    """

    name: str
    compute_capability: tuple[int, int]

    def __str__(self) -> str:
        major, minor = self.compute_capability
        return f"{self.name} (compute capability {major}.{minor})"


def find_gpus() -> list[Gpu]:
    """The GPUs that CUDA sees, in CUDA's order; CUDA_VISIBLE_DEVICES is respected.

    Empty if there is no driver or no GPU, or if the driver does not start; never raises. Starts the CUDA driver in
    this process: after that, a child made by fork cannot use it.
    """
    try:
        driver = ctypes.CDLL(_DRIVER)
        return _list_gpus(driver)
    except (OSError, AttributeError):  # no such library, or one that is not the driver
        return []


def _list_gpus(driver: ctypes.CDLL) -> list[Gpu]:
    count = ctypes.c_int()
    if driver.cuInit(0) != _SUCCESS or driver.cuDeviceGetCount(ctypes.byref(count)) != _SUCCESS:
        return []
    gpus = (_describe(driver, ordinal) for ordinal in range(count.value))
    return [gpu for gpu in gpus if gpu is not None]


def _describe(driver: ctypes.CDLL, ordinal: int) -> Gpu | None:
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(256)
    if driver.cuDeviceGet(ctypes.byref(device), ordinal) != _SUCCESS:
        return None
    answers = (
        driver.cuDeviceGetName(name, len(name), device),
        driver.cuDeviceGetAttribute(ctypes.byref(major), _COMPUTE_CAPABILITY_MAJOR, device),
        driver.cuDeviceGetAttribute(ctypes.byref(minor), _COMPUTE_CAPABILITY_MINOR, device),
    )
    if any(answer != _SUCCESS for answer in answers):
        return None
    return Gpu(name.value.decode(errors="replace"), (major.value, minor.value))
