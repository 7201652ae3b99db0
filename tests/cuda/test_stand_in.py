"""Whether the stand-in is like CUDA: against cuda-bindings and NVRTC themselves, and against code that is wrong."""

import ctypes
import inspect
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.asmk.gpu import codebook, matcher
from runtime.errors import DeviceError
from runtime.gpu import api
from runtime.gpu.device import Device, DeviceArray

from .stand_in import CUresult, Driver, Nvrtc, Runtime, StandIn, nvrtcResult

MODULES = {"runtime": Runtime, "driver": Driver, "nvrtc": Nvrtc}


# ------------------------------------------------------------------------------------------------ against the real one


def functions_and_constants(module: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the stand-in has under CUDA's names."""
    named = {name: each for name, each in vars(MODULES[module]).items() if not name.startswith("_")}
    functions = {name: each for name, each in named.items() if inspect.isfunction(each)}
    return functions, {name: each for name, each in named.items() if name not in functions}


@pytest.mark.parametrize("module", MODULES)
def test_its_functions_are_cudas_and_take_as_many_arguments(module: str) -> None:
    real = pytest.importorskip(f"cuda.bindings.{module}", reason="needs cuda-bindings")
    functions, _ = functions_and_constants(module)
    assert functions
    for name, function in functions.items():
        signature = inspect.getdoc(getattr(real, name)).splitlines()[0]
        assert signature.startswith(f"{name}(")
        inside = signature[len(name) + 1 : signature.rindex(")")]
        names = [argument.split(":")[0].split()[-1].lstrip("*") for argument in split(inside)]
        assert names == list(inspect.signature(function).parameters)[1:], name


def split(arguments: str) -> list[str]:
    """At commas that are in no brackets."""
    parts, depth = [""], 0
    for each in arguments:
        depth += (each in "[(") - (each in "])")
        if each == "," and not depth:
            parts.append("")
        else:
            parts[-1] += each
    return [part for part in parts if part.strip()]


@pytest.mark.parametrize("module", MODULES)
def test_its_constants_are_cudas(module: str) -> None:
    real = pytest.importorskip(f"cuda.bindings.{module}", reason="needs cuda-bindings")
    _, constants = functions_and_constants(module)
    assert constants
    for name, constant in constants.items():
        if isinstance(constant, int):
            assert int(getattr(real, name)) == constant
        elif issubclass(constant, IntEnum):
            values = {member: int(getattr(getattr(real, name), member)) for member in constant.__members__}
            assert values == {member: int(value) for member, value in constant.__members__.items()}
        else:
            assert isinstance(getattr(real, name), type)


@pytest.mark.slow
@pytest.mark.parametrize("length", [1, 2, 3, 4])
@pytest.mark.parametrize("capability", [(7, 5), (9, 0), (99, 0)], ids=["oldest", "an H100", "newer than NVRTC"])
def test_the_real_compiler_takes_how_matching_scores(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], length: int
) -> None:
    code = compiled_by_nvrtc(monkeypatch, capability, lambda device: matcher.Scoring(device, length))
    assert all(kernel.encode() in code for kernel in matcher.KERNELS)


@pytest.mark.slow
@pytest.mark.parametrize("dimensions", [16, 40, 128])
@pytest.mark.parametrize("capability", [(7, 5), (9, 0), (99, 0)], ids=["oldest", "an H100", "newer than NVRTC"])
def test_the_real_compiler_takes_how_words_are_assigned(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dimensions: int
) -> None:
    words = np.zeros((10, dimensions), np.float32)
    code = compiled_by_nvrtc(monkeypatch, capability, lambda device: codebook.GpuCodebook(words, device))
    assert b"group_minima" in code
    assert b"nearest_words" in code


@pytest.mark.slow
def test_what_the_real_compiler_says_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = tmp_path / "wrong.cu"
    source.write_text('extern "C" __global__ void wrong(int *values)\n{\n    *values = nonsense;\n}\n')
    with pytest.raises(DeviceError) as caught:
        compiled_by_nvrtc(monkeypatch, (9, 0), lambda device: device.compile(source, ["wrong"], {}))
    said = str(caught.value)
    assert said.startswith(
        "a test: the GPU failed in nvrtcCompileProgram: NVRTC_ERROR_COMPILATION: wrong.cu(3): error:"
    )
    assert said.endswith('of "wrong.cu".'), "without the end of C's string"


def compiled_by_nvrtc(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], work: Callable[[Device], object]
) -> bytes:
    """What NVRTC itself makes of kernels for a GPU; the stand-in has all the rest."""
    nvrtc = pytest.importorskip("cuda.bindings.nvrtc", reason="needs cuda-bindings")
    try:
        _, known = nvrtc.nvrtcGetSupportedArchs()
    except RuntimeError as error:
        pytest.skip(f"needs nvidia-cuda-nvrtc: {' '.join(str(error).split())}")
    gpu, codes = StandIn().install(monkeypatch), []
    gpu.capability = capability
    monkeypatch.setattr(api, "import_cuda", lambda owner: (gpu.runtime, gpu.driver, nvrtc))

    def load(image: bytes) -> tuple[CUresult, int]:
        codes.append(image)
        return CUresult.CUDA_SUCCESS, 0

    monkeypatch.setattr(gpu.driver, "cuModuleLoadData", load, raising=False)
    monkeypatch.setattr(gpu.driver, "cuModuleGetFunction", lambda hmod, name: (CUresult.CUDA_SUCCESS, name))
    monkeypatch.setattr(gpu.driver, "cuModuleUnload", lambda hmod: (CUresult.CUDA_SUCCESS,))
    device = Device("a test")
    work(device)
    device.close()
    (code,) = codes
    is_binary = 10 * capability[0] + capability[1] in known
    assert code.startswith(b"\x7fELF" if is_binary else b"//")
    return code


# ----------------------------------------------------------------------------------------------- against what is wrong

FAULTY = """
extern "C" __global__ void beyond(float *values) { values[10 + threadIdx.x] = 1; }
extern "C" __global__ void before(float *values) { values[-1 - (int)threadIdx.x] = 1; }
extern "C" __global__ void misaligned(float *values) { values[0] = __ldg((const float *)((const char *)values + 2)); }
"""
HASTY = """
extern "C" __global__ void some_wait(float *values)
{
    if (threadIdx.x > 3)
        __syncthreads();
    values[0] = 1;
}
extern "C" __global__ void few_lanes(float *values) { values[0] = __shfl_xor_sync(1u, values[0], 1); }
extern "C" __global__ void unset(float *values)
{
    __shared__ float shared[10];
    values[threadIdx.x % 10] = shared[threadIdx.x % 10];
    __syncthreads();
    shared[threadIdx.x % 10] = 1;
}
extern "C" __global__ void turned(float *values)
{
    __shared__ float shared[32];
    shared[threadIdx.x] = threadIdx.x;
    __syncthreads();
    const float opposite = shared[31 - threadIdx.x];
    __syncthreads();
    shared[threadIdx.x] = opposite;
    for (int lanes = 1; lanes < 32; lanes *= 2)
        shared[threadIdx.x] = __shfl_xor_sync(0xffffffffu, shared[threadIdx.x], lanes);
    if (threadIdx.x < 10)
        values[threadIdx.x] = shared[threadIdx.x];
}
"""


def run(tmp_path: Path, source: str, kernel: str, *more: np.generic) -> list[float]:
    """What a kernel makes of ten zeros, by 32 threads."""
    (tmp_path / "test.cu").write_text(source)
    device = Device("a test")
    function = device.compile(tmp_path / "test.cu", [kernel], {})[kernel]
    values = device.zeros((10,), np.float32)
    device.launch(function, (1, 1), 32, values, *more)
    return device.download(values).tolist()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kernel", "error"),
    [
        ("beyond", "cudaErrorIllegalAddress"),
        ("before", "cudaErrorIllegalAddress"),
        ("misaligned", "cudaErrorMisalignedAddress"),
    ],
)
def test_a_kernel_that_leaves_its_array_is_found(
    compiled: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kernel: str, error: str
) -> None:
    StandIn(compiled).install(monkeypatch)
    with pytest.raises(DeviceError, match=f"cudaStreamSynchronize: {error}$"):
        run(tmp_path, FAULTY, kernel)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kernel", "reason"), [("some_wait", "wait for different things"), ("few_lanes", "lanes that do not all exist")]
)
def test_threads_that_do_not_all_wait_are_found(gpu: StandIn, tmp_path: Path, kernel: str, reason: str) -> None:
    with pytest.raises(AssertionError, match=reason):
        run(tmp_path, HASTY, kernel)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [None, *range(5)])
def test_threads_wait_for_each_other(gpu: StandIn, tmp_path: Path, seed: int | None) -> None:
    gpu.shuffle = seed
    assert run(tmp_path, HASTY, "turned") == list(range(10)), "turned twice"


@pytest.mark.slow
def test_shared_memory_is_garbage_at_first(gpu: StandIn, tmp_path: Path) -> None:
    for _ in range(2):
        assert all(value < 0 for value in run(tmp_path, HASTY, "unset"))


@pytest.mark.slow
@pytest.mark.parametrize("more", [(np.uint32(1),), (np.float32(1), np.float32(2))], ids=["one more", "two more"])
def test_arguments_that_a_kernel_does_not_declare_are_found(
    gpu: StandIn, tmp_path: Path, more: tuple[np.generic, ...]
) -> None:
    with pytest.raises(AssertionError, match=r"arguments of turned: .* bytes, and it declares \[8\]"):
        run(tmp_path, HASTY, "turned", *more)


def test_copies_lie_within_arrays(gpu: StandIn) -> None:
    device = Device("a test")
    array, small = device.zeros((10,), np.uint8), device.page_locked(5)
    for copy in (
        lambda: device.queue_upload(array, np.zeros(11, np.uint8)),
        lambda: device.queue_download(np.zeros(11, np.uint8), DeviceArray(array.address, (11,), array.dtype)),
        lambda: device.queue_download(small, array),
        lambda: device.copy(array.row(1), array),
    ):
        with pytest.raises(AssertionError):
            copy()


def test_new_memory_is_garbage(gpu: StandIn) -> None:
    device = Device("a test")
    assert device.download(device.empty((100,), np.uint8)).all()
    assert device.page_locked(100).all()


def test_what_is_queued_happens_when_it_is_waited_for(gpu: StandIn) -> None:
    device, target = Device("a test"), np.zeros(4, np.uint8)
    array, source = device.zeros((4,), np.uint8), device.page_locked(4)
    source[:] = 1
    device.queue_upload(array, source)
    device.queue_download(target, array)
    source[:] = 2
    assert target.tolist() == [0] * 4
    device.wait()
    assert target.tolist() == [2] * 4, "page-locked memory is read only now"


def test_what_is_freed_twice_or_never_is_found(compiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = StandIn(compiled).install(monkeypatch)
    device = Device("a test")
    device.page_locked(3)
    assert not gpu.is_empty()
    device._allocated[12345] = lambda address: gpu.runtime.cudaFreeAsync(address, device._stream)
    device.close()
    assert gpu.faults == ["nothing is at 12345 to be freed"]
    assert not gpu.is_empty()


@pytest.mark.parametrize(
    "work",
    [
        lambda device: device.upload(np.zeros(3)),
        lambda device: device.queue_upload(device.whole, np.zeros(3)),
        lambda device: device.page_locked(3),
        lambda device: device.free_bytes(),
    ],
    ids=["taking memory", "pageable memory", "page-locking", "waiting"],
)
def test_what_cannot_be_recorded_spoils_the_recording(gpu: StandIn, work: Callable[[Any], object]) -> None:
    device: Any = Device("a test")
    device.whole = device.zeros((3,), np.float64)
    with pytest.raises(DeviceError, match=r"in cudaStreamEndCapture: cudaErrorStreamCaptureInvalidated$"):
        device.record(lambda: work(device))
    device.wait()


def test_a_thread_without_a_gpu_launches_nothing(gpu: StandIn) -> None:
    error, _ = gpu.driver.cuModuleLoadData(b"")
    assert error == CUresult.CUDA_ERROR_INVALID_CONTEXT
    gpu.runtime.cudaSetDevice(0)
    error, _ = gpu.driver.cuModuleLoadData(b"")
    assert error == CUresult.CUDA_ERROR_INVALID_IMAGE


def test_options_that_the_compiler_does_not_know_are_refused(gpu: StandIn) -> None:
    _, program = gpu.nvrtc.nvrtcCreateProgram(b"", b"test.cu", 0, [], [])
    for option in (b"--gpu-architecture=sm_1", b"--use-magic"):
        error, _ = gpu.nvrtc.nvrtcCompileProgram(program, 1, [option])
        assert error == nvrtcResult.NVRTC_ERROR_INVALID_OPTION


def test_bytes_that_python_shares_are_not_written_to(gpu: StandIn) -> None:
    _, program = gpu.nvrtc.nvrtcCreateProgram(b"", b"test.cu", 0, [], [])
    with pytest.raises(AssertionError, match="Python has single bytes only once"):
        gpu.nvrtc.nvrtcGetProgramLog(program, b" ")
    assert ctypes.string_at(b" ", 1) == b" "
