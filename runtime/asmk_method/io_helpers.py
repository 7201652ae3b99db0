"""The names of asmk's ``io_helpers`` that its users write their own loops with."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.errors import UsageError

T = TypeVar("T")


def slice_unique(ids: NDArray[np.integer]) -> Iterator[tuple[np.integer, slice]]:
    """The distinct ids of rows, ascending, each with the slice of its rows.

    Raises:
        UsageError: the ids do not ascend.
    """
    if np.any(ids[1:] < ids[:-1]):
        raise UsageError("image ids that do not ascend have no slices; sort the rows by image, or call query_ivf")
    distinct, starts, counts = np.unique(ids, return_index=True, return_counts=True)
    for image, start, count in zip(distinct, starts.tolist(), counts.tolist(), strict=True):
        yield image, slice(start, start + count)


def progress(
    iterable: Iterable[T], *, size: int | None = None, frequency: int | None = 1, header: str = ""
) -> Iterable[T]:
    """The items, with a progress bar unless ``frequency`` is 0 or None; ``size`` is how many they are."""
    return tqdm(iterable, total=size, desc=header or None, disable=not frequency)
