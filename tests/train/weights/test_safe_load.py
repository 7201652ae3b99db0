"""Files of tensors: the plain values that lie beside the weights, and what is refused."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from runtime.errors import HowlError
from train.weights.safe_load import load_tensors


@pytest.mark.parametrize("zip_file", [True, False])
def test_numpy_s_numbers_and_default_dictionaries_are_plain_values(zip_file: bool, tmp_path: Path) -> None:
    content = {
        "numbers": [
            np.float64(1.5),
            np.float32(-2),
            np.int64(3),
            np.bool_(True),
            np.uint8(7),
            np.array(2.5, ">f8")[()],
        ],
        "lists": defaultdict(list, a=[1]),
    }
    torch.save(content, tmp_path / "f.pth", _use_new_zipfile_serialization=zip_file)
    loaded = load_tensors(tmp_path / "f.pth")
    assert loaded == {"numbers": [1.5, -2.0, 3, True, 7, 2.5], "lists": {"a": [1]}}
    assert {type(number) for number in loaded["numbers"]} == {float, int, bool}
    assert type(loaded["lists"]) is dict


@pytest.mark.parametrize("zip_file", [True, False])
def test_arrays_of_numbers_come_as_tensors(zip_file: bool, tmp_path: Path) -> None:
    arrays = [np.eye(3)[:, :2], np.arange(4, dtype=">i4"), np.zeros((0, 2), np.float32)]
    torch.save(arrays, tmp_path / "f.pth", _use_new_zipfile_serialization=zip_file)
    for loaded, array in zip(load_tensors(tmp_path / "f.pth"), arrays, strict=True):
        assert torch.equal(loaded, torch.from_numpy(array.astype(array.dtype.newbyteorder("="))))


@pytest.mark.parametrize("value", [np.datetime64("2020-01-01"), np.array(["a"]), np.array([None])], ids=str)
def test_other_numpy_values_are_refused(value: Any, tmp_path: Path) -> None:
    torch.save({"value": value}, tmp_path / "f.pth")
    with pytest.raises(HowlError, match="nothing in it was run"):
        load_tensors(tmp_path / "f.pth")


class Stranger:
    """What a pickle may ask for, and is not given."""


@pytest.mark.parametrize("kind", [Stranger, Stranger()], ids=["a class", "an object"])
def test_an_object_of_a_library_is_refused(kind: Any, tmp_path: Path) -> None:
    torch.save({"value": kind}, tmp_path / "f.pth")
    with pytest.raises(HowlError, match=r"refused: it asks for [^\n]+; only tensors and plain values are read"):
        load_tensors(tmp_path / "f.pth")
