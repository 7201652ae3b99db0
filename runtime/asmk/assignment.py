"""The exact nearest words of descriptors, in two ways: 8-bit products with a proven bound, or one float product."""

import threading

import numpy as np
from numpy.typing import NDArray

from runtime import native

ROW_BATCH = 768  # descriptors that are compared with the words together
GROUPS = 1024  # of words, for the top-k of a long row


class ExactSearch:
    """Float products of descriptors with all words; ½‖c‖² − x·c orders words as ‖x − c‖² does."""

    def __init__(self, centroids: NDArray[np.float32]) -> None:
        """``centroids``: float32 [C, D]."""
        self._centroids = centroids
        self._half_squared_norms = 0.5 * np.square(centroids).sum(axis=1)

    def nearest(self, descriptors: NDArray[np.float32], m: int) -> NDArray[np.int64]:
        """int64 [n, m], nearest first, for float32 [n, D] and m ≤ C."""
        distances = descriptors @ self._centroids.T
        np.subtract(self._half_squared_norms, distances, out=distances)
        return smallest_in_rows(distances, m)


class RoundedSearch:
    """8-bit products with all words, then float distances for those that rounding leaves open.

    Words and descriptors are rounded to the same grid of 8-bit steps around the words' mean. By the triangle inequality
    |‖x − c‖ − ‖x̂ − ĉ‖| ≤ ‖x − x̂‖ + ‖c − ĉ‖, and both rounding errors are known: every word that can be among the
    nearest is compared again, in float, and the answer is exact.
    """

    def __init__(self, centroids: NDArray[np.float32]) -> None:
        """``centroids``: float32 [C, D]."""
        size, dimensions = centroids.shape
        self._centroids = centroids
        self._mean = centroids.mean(axis=0)
        centred = centroids - self._mean
        self._step = np.float32(np.abs(centred).max() / native.ROUNDED) or np.float32(1)  # 1 if all words are equal
        centred /= self._step
        rounded = np.rint(centred)
        self._word_error = float(np.sqrt(np.square(centred - rounded).sum(axis=1).max()))

        panels, steps = -(-size // native.PANEL), -(-dimensions // native.STEP)
        self._biases = np.full(panels * native.PANEL, native.FAR, np.int32)
        self._biases[:size] = -np.ceil(np.square(rounded).sum(axis=1) / 2)
        words = np.full((panels * native.PANEL, steps * native.STEP), 128, np.uint8)
        words[:size, :dimensions] = rounded + 128
        by_panel = words.reshape(panels, native.PANEL, steps, native.STEP)
        self._words = np.ascontiguousarray(by_panel.transpose(0, 2, 1, 3))
        self._own = threading.local()

    def nearest(self, descriptors: NDArray[np.float32], m: int) -> NDArray[np.int64]:
        """int64 [n, m], nearest first, for float32 [n, D]; −1 first in rows with too many words to compare again."""
        n, dimensions = descriptors.shape
        with np.errstate(invalid="ignore", over="ignore"):  # NaN or too large: all words stay open
            centred = (descriptors - self._mean) / self._step
            rounded = np.clip(np.rint(centred), -native.ROUNDED, native.ROUNDED)
            errors = np.sqrt(np.square(centred - rounded).sum(axis=1))
        tiles = -(-n // native.TILE) * native.TILE
        padded = np.zeros((tiles, self._words.shape[1] * native.STEP), np.int8)
        padded[:n, :dimensions] = np.nan_to_num(rounded)
        slacks = np.zeros(tiles, np.float32)
        # Twice both errors, and a little for the float arithmetic that computed them.
        slacks[:n] = np.nan_to_num(2.0001 * (errors + self._word_error) + 0.01, nan=np.inf)
        return native.assign(
            self._words, self._biases, padded, slacks, descriptors, self._centroids, m, self._scratch(tiles)
        )

    def _scratch(self, descriptors: int) -> NDArray[np.uint8]:
        """Working memory of this thread: kept, because fresh pages cost more than the work done in them."""
        size = native.scratch_bytes(descriptors)
        kept: NDArray[np.uint8] | None = getattr(self._own, "scratch", None)
        if kept is None or len(kept) < size:
            kept = self._own.scratch = np.empty(size, np.uint8)
        return kept[:size]


def smallest_in_rows(values: NDArray[np.float32], m: int) -> NDArray[np.int64]:
    """The columns of the m smallest values of each row [n, C], smallest first: int64 [n, m].

    The m smallest lie in the m groups of columns whose minima are smallest, so long rows need one pass of minima and a
    partition of GROUPS values instead of C.
    """
    n, columns = values.shape
    if m == 1:
        return values.argmin(axis=1)[:, None]
    if columns % GROUPS or columns <= 2 * GROUPS or m > GROUPS:
        candidates = np.argpartition(values, m - 1, axis=1)[:, :m] if m < columns else None
    else:
        minima = values.reshape(n, columns // GROUPS, GROUPS).min(axis=1)
        groups = np.argpartition(minima, m - 1, axis=1)[:, :m]
        members = np.arange(0, columns, GROUPS)
        candidates = (groups[:, :, None] + members).reshape(n, -1)
    if candidates is None:
        return np.argsort(values, axis=1, kind="stable")
    order = np.argsort(np.take_along_axis(values, candidates, axis=1), axis=1, kind="stable")[:, :m]
    return np.take_along_axis(candidates, order, axis=1).astype(np.int64)
