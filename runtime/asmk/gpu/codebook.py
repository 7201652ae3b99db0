"""Visual words in a GPU's memory, and the assignment of descriptors to them there."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.asmk.codebook import Codebook
from runtime.gpu.device import Device, DeviceArray

SOURCE = Path(__file__).with_name("assignment.cu")
GROUP, ROWS, STEP, THREADS = 128, 64, 16, 256  # words, descriptors and dimensions of a tile, and threads of its block
SPARE_GROUPS = 3  # beyond those that could hold the nearest words: products are rounded in another way than distances
MAX_NEAREST = 32 - SPARE_GROUPS
BATCH = 16_384  # descriptors that are assigned together: their minima take 33 MB with 65,536 words


class GpuCodebook(Codebook):
    """A codebook that assigns on a GPU: the same words as the compiled search of a CPU (``native.assign``)."""

    def __init__(self, centroids: NDArray[np.float32], device: Device) -> None:
        """Uploads the words. Raises HowlError if the GPU has no room for them, or cannot be used."""
        super().__init__(centroids)
        size, dimensions = self.centroids.shape
        self._device = device
        self._width = -(-dimensions // STEP) * STEP
        self._groups = -(-size // GROUP)
        defines = {"DIMENSIONS": self._width, "GROUP": GROUP, "ROWS": ROWS, "MAX_GROUPS": MAX_NEAREST + SPARE_GROUPS}
        self._kernels = device.compile(SOURCE, ("group_minima", "nearest_words"), defines)
        half_squared_norms = np.full(self._groups * GROUP, np.inf, np.float32)
        half_squared_norms[:size] = 0.5 * np.square(self.centroids).sum(axis=1)
        self._half_squared_norms = device.upload(half_squared_norms)
        self._words = device.upload(_padded(self.centroids, self._groups * GROUP, self._width))

    def _assign(self, descriptors: NDArray[np.float32], m: int, threads: int) -> NDArray[np.int64]:
        if m > MAX_NEAREST:
            return super()._assign(descriptors, m, threads)
        batches = [descriptors[start : start + BATCH] for start in range(0, len(descriptors), BATCH)]
        return np.concatenate([self._device.download(self._nearest(batch, m)) for batch in batches]).astype(np.int64)

    def _nearest(self, descriptors: NDArray[np.float32], m: int) -> DeviceArray:
        """uint32 [n, m], on the GPU."""
        device, n = self._device, len(descriptors)
        uploaded = device.upload(_padded(descriptors, n, self._width))
        minima = device.empty((n, self._groups), np.float32)
        nearest = device.empty((n, m), np.uint32)
        blocks = self._groups, -(-n // ROWS)
        words = self._words, self._half_squared_norms
        device.launch(self._kernels["group_minima"], blocks, THREADS, uploaded, *words, np.uint32(n), minima)
        candidates = min(self._groups, m + SPARE_GROUPS)
        sizes = (np.uint32(number) for number in (len(self), self._groups, candidates, m))
        device.launch(self._kernels["nearest_words"], (n, 1), THREADS, uploaded, self._words, minima, *sizes, nearest)
        return nearest


def _padded(vectors: NDArray[np.float32], rows: int, width: int) -> NDArray[np.float32]:
    """The vectors [n, D] in an array [rows, width] of zeros."""
    padded = np.zeros((rows, width), np.float32)
    padded[: len(vectors), : vectors.shape[1]] = vectors
    return padded
