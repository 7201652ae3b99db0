"""Arrays from .npy files that may be anything."""

import io

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.io.npy import parse_npy


def saved(array: NDArray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


@pytest.mark.parametrize("order", ["C", "F"])
def test_an_array_comes_back(order: str) -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    read = parse_npy(saved(np.array(array, order=order)), np.float32, axes=2)  # type: ignore[call-overload]
    assert np.array_equal(read, array)
    assert not read.flags.writeable


ARRAY = saved(np.arange(3, dtype=np.int64))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no array at all",
        ARRAY[:-1],
        ARRAY + b"more",
        ARRAY.replace(b"(3,)", b"(4,)"),
        ARRAY.replace(b"(3,)", b"(-3"),
        ARRAY.replace(b"(3,), }", b"(3,    "),
        ARRAY.replace(b"(3,)", b"((((")[:80] + b"(" * 48 + ARRAY[128:],
        ARRAY.replace(b"<i8", b"|O8"),
        ARRAY.replace(b"<i8", b"<f8"),
        ARRAY.replace(b"'shape'", b"'shapo'"),
        saved(np.zeros((3, 1), np.int64)),
        saved(np.array([None] * 3)),
    ],
    ids=range(13),
)
def test_anything_else_is_a_value_error(content: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        parse_npy(content, np.int64, axes=1)
