"""Assignment on a GPU against all distances, and against the compiled search of a CPU, to the bit.

Without a GPU the kernels run all the same: compiled for the CPU, where the threads of a block take turns
(`tests/cuda`).
"""

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime import native
from runtime.asmk.codebook import Codebook
from runtime.asmk.gpu import codebook as codebook_module
from runtime.asmk.gpu.codebook import GROUP, MAX_NEAREST, ROWS, GpuCodebook
from runtime.errors import DeviceError, HowlError
from runtime.gpu.device import Device

from ...cuda.stand_in import StandIn

pytestmark = pytest.mark.slow  # the kernels are compiled

SIZES = [1, 7, GROUP - 1, GROUP, GROUP + 1, 3 * GROUP, 11 * GROUP + 5]  # the last has more groups than are looked at
needs_avx512 = pytest.mark.skipif(not native.CAN_ASSIGN, reason="this processor has no AVX-512 VNNI")


def normal(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def coarse(array: NDArray[np.float32], step: float = 1 / 16) -> NDArray[np.float32]:
    """Rounded to so few bits that float32 works out every distance without error: what is nearest is beyond doubt."""
    return np.round(array / step).astype(np.float32) * np.float32(step)


def nearest(descriptors: NDArray[np.float32], words: NDArray[np.float32], m: int) -> NDArray[np.int64]:
    """By all distances, of equal ones the lowest word first."""
    distances = np.square(descriptors[:, None] - words[None]).sum(axis=2)
    return np.argsort(distances, axis=1, kind="stable")[:, :m]


def assert_nearest(found: NDArray[np.int64], descriptors: NDArray[np.float32], words: NDArray[np.float32]) -> None:
    """The distances are those of the nearest words, but for float32's rounding: that may swap two as good as equal."""
    distances = np.square(descriptors[:, None].astype(np.float64) - words[None]).sum(axis=2)
    of_found = np.take_along_axis(distances, found, axis=1)
    np.testing.assert_allclose(of_found, np.sort(distances, axis=1)[:, : found.shape[1]], rtol=1e-5)
    assert all(len(set(row)) == len(row) for row in found.tolist())


@pytest.mark.parametrize("m", [1, 5])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dimensions", [16, 40, 128])
def test_the_nearest_words_come_nearest_first(device: Device, dimensions: int, size: int, m: int) -> None:
    words, descriptors = coarse(normal(size, dimensions)), coarse(normal(6, dimensions, seed=1))
    found = GpuCodebook(words, device).assign(descriptors, m)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, nearest(descriptors, words, m))


@pytest.mark.parametrize("dimensions", [16, 40, 128])
def test_rounding_swaps_only_what_is_as_good_as_equal(device: Device, dimensions: int) -> None:
    words, descriptors = normal(900, dimensions), normal(12, dimensions, seed=1)
    assert_nearest(GpuCodebook(words, device).assign(descriptors, 5), descriptors, words)


@needs_avx512
@pytest.mark.parametrize("scale", [1, 1e-3, 40])
@pytest.mark.parametrize(("dimensions", "size"), [(16, 2000), (40, 129), (40, 1500), (128, 500)])
def test_words_are_those_of_the_cpu(device: Device, dimensions: int, size: int, scale: float) -> None:
    words = np.float32(scale) * normal(size, dimensions)
    descriptors = np.float32(scale) * normal(12, dimensions, seed=1)
    np.testing.assert_array_equal(
        GpuCodebook(words, device).assign(descriptors, 5), Codebook(words).assign(descriptors, 5)
    )


@needs_avx512
def test_near_ties_are_broken_as_on_the_cpu(device: Device) -> None:
    """Words that differ in their last bits only: which is nearer, the order of additions decides."""
    words = normal(1, 40) + np.float32(1e-6) * normal(600, 40, seed=2)
    descriptors = normal(12, 40, seed=1)
    np.testing.assert_array_equal(
        GpuCodebook(words, device).assign(descriptors, 20), Codebook(words).assign(descriptors, 20)
    )


@pytest.mark.parametrize("size", [3, GROUP + 2])
def test_more_assignments_than_words_give_all_words(device: Device, size: int) -> None:
    words, descriptors = coarse(normal(size, 16)), coarse(normal(3, 16, seed=1))
    m = min(size, MAX_NEAREST)
    found = GpuCodebook(words, device).assign(descriptors, size + 4 if size < MAX_NEAREST else MAX_NEAREST)
    np.testing.assert_array_equal(found, nearest(descriptors, words, m))


def test_more_words_than_the_kernel_gives_come_from_the_cpu(gpu: StandIn) -> None:
    words, descriptors = coarse(normal(50, 16)), coarse(normal(3, 16, seed=1))
    found = GpuCodebook(words, Device("a test")).assign(descriptors, MAX_NEAREST + 1)
    assert_nearest(found, descriptors, words)
    assert not gpu.launches


def test_of_equal_words_the_lowest_come_first(device: Device) -> None:
    """Within a group, across groups, and in more groups than are looked at."""
    words = np.tile(coarse(normal(100, 16)), (15, 1))
    descriptors = words[:5]
    found = GpuCodebook(words, device).assign(descriptors, 7)
    assert found.tolist() == [[row + 100 * copy for copy in range(7)] for row in range(5)]
    same = GpuCodebook(np.ones((1500, 16), np.float32), device).assign(descriptors, 5)
    assert same.tolist() == [[0, 1, 2, 3, 4]] * 5


def test_words_that_crowd_into_one_group_are_all_found(device: Device) -> None:
    words = 100 + coarse(normal(10 * GROUP, 16))
    words[4 * GROUP : 5 * GROUP] -= 100
    descriptors = coarse(normal(4, 16, seed=1))
    found = GpuCodebook(words, device).assign(descriptors, MAX_NEAREST)
    assert set((found // GROUP).ravel().tolist()) == {4}
    np.testing.assert_array_equal(found, nearest(descriptors, words, MAX_NEAREST))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30, -3e38])
@pytest.mark.parametrize("size", [5, 2 * GROUP, 12 * GROUP])
def test_a_descriptor_that_is_no_number_has_words_and_spoils_no_other(device: Device, size: int, bad: float) -> None:
    """Words of one sign, so that products become −∞, too."""
    words, descriptors = np.abs(coarse(normal(size, 16))), coarse(normal(6, 16, seed=1))
    expected = nearest(descriptors, words, 5)
    descriptors[3] = bad
    descriptors[4, 7] = bad
    found = GpuCodebook(words, device).assign(descriptors, 5)
    others = [0, 1, 2, 5]
    np.testing.assert_array_equal(found[others], expected[others])
    assert ((found >= 0) & (found < size)).all()
    assert all(len(set(row)) == len(row) for row in found.tolist())


@pytest.mark.parametrize("n", [1, ROWS - 1, ROWS, ROWS + 1])
def test_any_number_of_descriptors_is_assigned(device: Device, n: int) -> None:
    words, descriptors = coarse(normal(20, 16)), coarse(normal(n, 16, seed=1))
    np.testing.assert_array_equal(GpuCodebook(words, device).assign(descriptors, 2), nearest(descriptors, words, 2))


def test_batches_come_out_in_order(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codebook_module, "BATCH", 4)
    words, descriptors = coarse(normal(20, 16)), coarse(normal(11, 16, seed=1))
    np.testing.assert_array_equal(GpuCodebook(words, device).assign(descriptors, 2), nearest(descriptors, words, 2))


def test_no_descriptors_have_no_words(device: Device) -> None:
    found = GpuCodebook(normal(16, 4), device).assign(np.empty((0, 4), np.float32), 5)
    assert (found.shape, found.dtype) == ((0, 5), np.int64)


def test_views_of_descriptors_are_assigned(device: Device) -> None:
    words, descriptors = coarse(normal(40, 16)), coarse(normal(16, 9, seed=1))
    found = GpuCodebook(words, device).assign(descriptors.T[::2], 3)
    np.testing.assert_array_equal(found, nearest(descriptors.T[::2], words, 3))


def test_descriptors_of_another_dimension_are_refused(device: Device) -> None:
    """They would fit the padded rows of the GPU."""
    with pytest.raises(HowlError, match="do not fit a codebook of 12 dimensions"):
        GpuCodebook(normal(16, 12), device).assign(normal(3, 16), 1)


@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_the_threads_does_not_matter(gpu: StandIn, seed: int) -> None:
    gpu.shuffle = seed
    words, descriptors = coarse(normal(9 * GROUP, 40)), coarse(normal(5, 40, seed=1))
    found = GpuCodebook(words, Device("a test")).assign(descriptors, 5)
    np.testing.assert_array_equal(found, nearest(descriptors, words, 5))


def test_a_codebook_and_its_work_are_freed(gpu: StandIn) -> None:
    codebook = GpuCodebook(normal(200, 16), Device("a test"))
    before = gpu.taken()
    codebook.assign(normal(3, 16), 2)
    assert gpu.taken() == before > 0
    del codebook
    assert gpu.taken() == 0


def test_a_full_gpu_is_an_error(gpu: StandIn) -> None:
    codebook = GpuCodebook(normal(200, 16), Device("a test"))
    gpu.failing = {"cudaMallocAsync"}
    with pytest.raises(DeviceError, match=r"^a test: the GPU's memory is full"):
        codebook.assign(normal(3, 16), 2)
    with pytest.raises(DeviceError, match=r"^a test: the GPU's memory is full"):
        GpuCodebook(normal(200, 16), Device("a test"))
    gpu.failing = set()
    assert codebook.assign(normal(3, 16), 2).shape == (3, 2)
