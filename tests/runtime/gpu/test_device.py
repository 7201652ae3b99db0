"""The Device, on the stand-in for CUDA (`tests/cuda`) and on a GPU where there is one."""

import gc
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.errors import DependencyError, DeviceError, HowlError
from runtime.gpu import Gpu
from runtime.gpu import device as device_module
from runtime.gpu.device import Device, DeviceArray

from ...cuda.stand_in import StandIn, cudaError_t

SCALE = """
extern "C" __global__ void scale(float *values, unsigned n, float factor, float more)
{
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        values[i] = factor * values[i] + more + ADDED;
}
"""


@pytest.fixture
def scale(tmp_path: Path) -> Path:
    """The source of a kernel: factor · value + more + ADDED."""
    source = tmp_path / "scale.cu"
    source.write_text(SCALE)
    return source


def numbers(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def in_another_thread(work: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def scaled(device: Device, kernel: Any, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """3 · value + 0.5 + ADDED."""
    on_device, n = device.upload(values), len(values)
    device.launch(kernel, (-(-n // 32), 1), 32, on_device, np.uint32(n), np.float32(3), np.float32(0.5))
    return device.download(on_device)


# -------------------------------------------------------------------------------------------------- memory and copies


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.int64])
@pytest.mark.parametrize("shape", [(1,), (50, 7), (3, 4, 5), (0,), (0, 3), (3, 0)])
def test_what_was_uploaded_is_downloaded(device: Device, shape: tuple[int, ...], dtype: Any) -> None:
    array = (100 * numbers(*shape)).astype(dtype)
    uploaded = device.upload(array)
    assert (uploaded.shape, uploaded.dtype, uploaded.nbytes) == (array.shape, array.dtype, array.nbytes)
    np.testing.assert_array_equal(device.download(uploaded), array)


@pytest.mark.parametrize("view", [np.transpose, lambda array: array[::-2], lambda array: array[:, 1:3]])
def test_views_are_uploaded_in_their_own_order(device: Device, view: Callable[[NDArray], NDArray]) -> None:
    array = view(numbers(9, 5))
    np.testing.assert_array_equal(device.download(device.upload(array)), array)


@pytest.mark.parametrize(("chunk", "pieces"), [(100, [96] * 8 + [24]), (10, [24] * 33), (10_000, [792])])
def test_a_memory_map_is_uploaded_in_pieces(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, pieces: list[int]
) -> None:
    """Rows larger than a piece go one by one."""
    array = np.arange(33 * 3, dtype=np.uint64).reshape(33, 3)
    np.save(tmp_path / "array.npy", array)
    sizes: list[int] = []
    queue = Device.queue_upload

    def spy(self: Device, target: DeviceArray, source: NDArray) -> None:
        sizes.append(source.nbytes)
        queue(self, target, source)

    monkeypatch.setattr(Device, "queue_upload", spy)
    monkeypatch.setattr(device_module, "CHUNK_BYTES", chunk)
    uploaded = device.upload(np.load(tmp_path / "array.npy", mmap_mode="r"))
    np.testing.assert_array_equal(device.download(uploaded), array)
    assert sizes == pieces


def test_an_array_may_change_once_it_is_uploaded(device: Device) -> None:
    array = numbers(1000)
    before = array.copy()
    uploaded = device.upload(array)
    array[:] = 0
    np.testing.assert_array_equal(device.download(uploaded), before)


@pytest.mark.parametrize("shape", [(5, 3), (0,), (0, 4)])
def test_zeros_are_zeros(device: Device, shape: tuple[int, ...]) -> None:
    found = device.download(device.zeros(shape, np.int64))
    assert (found.shape, found.dtype, found.any()) == (shape, np.int64, False)


def test_rows_are_parts_of_an_array(device: Device) -> None:
    array = numbers(4, 3, 5)
    whole = device.upload(array)
    np.testing.assert_array_equal(device.download(whole.row(2)), array[2])
    np.testing.assert_array_equal(device.download(whole.row(3).row(1)), array[3, 1])


def test_copies_within_the_gpu(device: Device) -> None:
    array = numbers(4, 3)
    whole, target = device.upload(array), device.zeros((4, 3), np.float32)
    device.copy(target.row(1), whole.row(2))
    expected = np.zeros((4, 3), np.float32)
    expected[1] = array[2]
    np.testing.assert_array_equal(device.download(target), expected)


def test_page_locked_memory_is_copied_from_and_to(device: Device) -> None:
    source, target, between = device.page_locked(1000), device.page_locked(1000), device.zeros((1000,), np.uint8)
    source[:] = np.arange(1000) % 251
    device.queue_upload(between, source[:600])
    device.queue_download(target, between)
    device.wait()
    np.testing.assert_array_equal(target[:600], source[:600])
    assert not target[600:].any()


# ------------------------------------------------------------------------------------------------------------ freeing


def test_memory_is_freed_with_its_array_after_all_that_is_queued(gpu: StandIn) -> None:
    device = Device("a test")
    array = numbers(1000)
    source, target = device.upload(array), device.empty((1000,), np.float32)
    device.copy(target, source)
    del source
    np.testing.assert_array_equal(device.download(target), array)
    assert gpu.taken() == array.nbytes
    del target
    assert gpu.taken() == 0


def test_a_row_keeps_its_array(gpu: StandIn) -> None:
    device = Device("a test")
    array = numbers(4, 5, 6)
    row = device.upload(array).row(1).row(2)
    gc.collect()
    np.testing.assert_array_equal(device.download(row), array[1, 2])
    del row
    assert gpu.taken() == 0


def test_freed_memory_can_be_taken_at_once(compiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the GPU frees it only when it has done all that was queued."""
    gpu = StandIn(compiled, memory=10_000).install(monkeypatch)
    device = Device("a test")
    for _ in range(5):
        device.zeros((6_000,), np.uint8)
    array = device.upload(numbers(1000))
    assert device.free_bytes() == 6_000, "what the pool kept is free, too"
    del array
    assert device.free_bytes() == 10_000
    assert not gpu.faults


@pytest.mark.slow
@pytest.mark.parametrize("run", [lambda work: work(), in_another_thread], ids=["this thread", "another one"])
def test_closing_frees_everything_once(gpu: StandIn, scale: Path, run: Callable[[Callable[[], Any]], Any]) -> None:
    device = Device("a test")
    arrays = [device.upload(numbers(10)), device.zeros((3,), np.int64)]
    device.page_locked(100)
    device.compile(scale, ["scale"], {"ADDED": 0})
    assert not gpu.is_empty()
    run(device.close)
    assert gpu.is_empty()
    device.close()
    arrays.clear()
    gc.collect()
    assert gpu.is_empty()


# ------------------------------------------------------------------------------------------------------------- graphs


def test_a_recording_runs_only_when_it_is_replayed(device: Device) -> None:
    source, target, between = device.page_locked(8), device.page_locked(8), device.zeros((8,), np.uint8)
    source[:], target[:] = 1, 9

    def work() -> None:
        device.queue_upload(between, source)
        device.queue_download(target, between)

    graph = device.record(work)
    device.wait()
    assert target.tolist() == [9] * 8
    for content in (2, 3):
        source[:] = content
        device.replay(graph)
        device.wait()
        assert target.tolist() == [content] * 8
    device.forget(graph)


@pytest.mark.slow
def test_kernels_are_recorded_with_the_arguments_of_then(device: Device, scale: Path) -> None:
    kernel = device.compile(scale, ["scale"], {"ADDED": 1})["scale"]
    array = numbers(5)
    on_device, factor = device.upload(array), np.array(2, np.float32)
    graph = device.record(lambda: device.launch(kernel, (1, 1), 32, on_device, np.uint32(5), factor[()], np.float32(0)))
    factor[()] = 100
    for _ in range(2):
        device.replay(graph)
    np.testing.assert_allclose(device.download(on_device), 2 * (2 * array + 1) + 1, rtol=1e-6, atol=1e-6)
    device.forget(graph)


def test_after_a_failed_recording_all_is_as_before(device: Device) -> None:
    array, other = device.upload(numbers(3)), device.zeros((3,), np.float32)

    def fail() -> None:
        raise KeyError("a fault of the work")

    with pytest.raises(KeyError):
        device.record(fail)
    with pytest.raises(DeviceError, match=r"^a test: the GPU failed in cuda"):
        device.record(device.wait)  # there is nothing to wait for while nothing runs
    np.testing.assert_array_equal(device.download(array), numbers(3))
    device.forget(device.record(lambda: device.copy(other, array)))


# --------------------------------------------------------------------------------------------------------------- time


def test_time_passes_between_marks(device: Device) -> None:
    array = device.zeros((100_000,), np.uint8)
    start = device.mark()
    device.copy(array, array)
    assert 0 <= device.milliseconds(start, device.mark()) < 60_000


# ------------------------------------------------------------------------------------------------------------ kernels


@pytest.mark.slow
def test_a_kernel_computes(device: Device, scale: Path) -> None:
    kernels = device.compile(scale, ["scale"], {"ADDED": 4})
    values = numbers(1000)
    np.testing.assert_allclose(scaled(device, kernels["scale"], values), 3 * values + 4.5, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_what_is_not_fused_is_rounded_twice(device: Device, scale: Path) -> None:
    kernel = device.compile(scale, ["scale"], {"ADDED": 0}, fused=False)["scale"]
    values = numbers(1000)
    np.testing.assert_array_equal(scaled(device, kernel, values), np.float32(3) * values + np.float32(0.5))


@pytest.mark.slow
def test_threads_share_a_device(device: Device, scale: Path) -> None:
    """One that never called CUDA has no GPU until it is given one."""
    kernel = in_another_thread(lambda: device.compile(scale, ["scale"], {"ADDED": 0})["scale"])
    arrays = [numbers(100 + seed, seed=seed) for seed in range(20)]
    with ThreadPoolExecutor(4) as pool:
        for array, found in zip(arrays, pool.map(lambda each: scaled(device, kernel, each), arrays), strict=True):
            np.testing.assert_allclose(found, 3 * array + 0.5, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("blocks", "threads"), [((1, 2**16), 32), ((1, 1), 1025), ((0, 1), 32), ((1, 1), 0)])
def test_a_launch_beyond_the_limits_fails(device: Device, scale: Path, blocks: tuple[int, int], threads: int) -> None:
    kernel = device.compile(scale, ["scale"], {"ADDED": 0})["scale"]
    array = device.upload(numbers(3))
    with pytest.raises(DeviceError, match=r"^a test: the GPU failed in cuLaunchKernel: "):
        device.launch(kernel, blocks, threads, array, np.uint32(3), np.float32(1), np.float32(0))
    np.testing.assert_array_equal(device.download(array), numbers(3))


@pytest.mark.slow
def test_a_kernel_that_does_not_compile_gives_the_reason_in_one_line(device: Device, scale: Path) -> None:
    scale.write_text(SCALE.replace("more", "nonsense", 2).replace("nonsense)", "more)"))
    with pytest.raises(DeviceError, match=r"^a test: the GPU failed in nvrtcCompileProgram: .+: .*nonsense") as caught:
        device.compile(scale, ["scale"], {"ADDED": 0})
    assert r"\x00" not in str(caught.value), "the end of C's string"


@pytest.mark.slow
def test_a_kernel_that_is_not_there_is_an_error(device: Device, scale: Path) -> None:
    with pytest.raises(DeviceError, match=r"^a test: the GPU failed in cuModuleGetFunction: "):
        device.compile(scale, ["scales"], {"ADDED": 0})


@pytest.mark.slow
@pytest.mark.parametrize("capability", [(8, 6), (9, 0), (12, 1)], ids=["between", "known", "newer"])
def test_a_gpu_that_the_compiler_does_not_know_takes_what_is_nearest_below(
    gpu: StandIn, scale: Path, capability: tuple[int, int]
) -> None:
    """As PTX, which its driver compiles on."""
    gpu.capability = capability
    device = Device("a test")
    kernel = device.compile(scale, ["scale"], {"ADDED": 0})["scale"]
    assert ("nvrtcGetPTX" in gpu.calls, "nvrtcGetCUBIN" in gpu.calls) == (capability != (9, 0), capability == (9, 0))
    np.testing.assert_allclose(scaled(device, kernel, np.zeros(3, np.float32)), 0.5)


def test_a_gpu_too_old_for_the_compiler_is_an_error(gpu: StandIn, scale: Path) -> None:
    gpu.capability = 7, 0
    with pytest.raises(DeviceError, match=r"^a test: CUDA's compiler is for newer GPUs than this one \(7\.0\)$"):
        Device("a test").compile(scale, ["scale"], {"ADDED": 0})


# ------------------------------------------------------------------------------------------------------------- errors


def test_a_full_gpu_is_an_error_with_a_remedy(device: Device) -> None:
    with pytest.raises(DeviceError, match=r"^a test: the GPU's memory is full: end what else uses the GPU, or ask for"):
        device.empty((1 << 44,), np.uint8)
    np.testing.assert_array_equal(device.download(device.upload(numbers(3))), numbers(3))


@pytest.mark.parametrize(
    ("function", "work"),
    [
        ("cudaMallocAsync", lambda device: device.zeros((3,), np.uint8)),
        ("cudaHostAlloc", lambda device: device.page_locked(3)),
        ("cudaMemcpyAsync", lambda device: device.upload(numbers(3))),
        ("cudaStreamSynchronize", lambda device: device.wait()),
    ],
)
def test_an_error_is_not_left_for_the_next_library(
    gpu: StandIn, function: str, work: Callable[[Device], object]
) -> None:
    device = Device("a test")
    gpu.failing = {function}
    with pytest.raises(DeviceError, match=r"^a test: the GPU's memory is full|^a test: the GPU failed in " + function):
        work(device)
    assert gpu.last_error == cudaError_t.cudaSuccess
    gc.collect()
    assert gpu.taken() == 0


def test_without_a_gpu_it_says_so_before_it_touches_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module, "find_gpus", lambda: [])
    monkeypatch.setattr(device_module, "Cuda", lambda owner: pytest.fail("CUDA was touched"))
    with pytest.raises(DeviceError, match=r"^plan: needs an NVIDIA GPU, and none was found: ask for the CPU$"):
        Device("plan")


def test_without_cuda_bindings_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module, "find_gpus", lambda: [Gpu("Test GPU", (9, 0))])
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(DependencyError, match=r"^plan: needs cuda-bindings: pip install cuda-bindings"):
        Device("plan")


def test_without_nvrtc_it_says_what_to_install(gpu: StandIn, scale: Path) -> None:
    """cuda-bindings looks for CUDA's libraries when one of their functions is called."""

    def fail() -> None:
        raise RuntimeError("Failed to dlopen\nlibnvrtc.so.13")

    gpu.nvrtc.nvrtcGetSupportedArchs = fail  # type: ignore[method-assign]
    expected = (
        r"^a test: CUDA has no nvrtcGetSupportedArchs here \(Failed to dlopen libnvrtc\.so\.13\): pip install .*nvrtc"
    )
    with pytest.raises(DependencyError, match=expected):
        Device("a test").compile(scale, ["scale"], {"ADDED": 0})


def test_a_gpu_that_does_not_answer_is_an_error(gpu: StandIn) -> None:
    gpu.failing = {"cudaStreamCreateWithFlags"}
    with pytest.raises(HowlError, match=r"^a test: the GPU failed in cudaStreamCreateWithFlags: cudaErrorUnknown$"):
        Device("a test")
    assert gpu.is_empty()


def test_a_device_that_is_dropped_frees_everything(gpu: StandIn) -> None:
    device = Device("a test")
    array, locked = device.upload(np.arange(10)), device.page_locked(100)
    del device
    gc.collect()
    assert not gpu.is_empty(), "an array keeps its device"
    del array, locked
    gc.collect()
    assert gpu.is_empty()
