"""Files of ``torch.save``: read as PyTorch reads them, and no file takes more than it has bytes."""

import copy
import io
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from runtime.errors import HowlError
from train.weights.safe_load import load_tensors

BYTEARRAY_OF_3_GB = b"\x80\x02c__builtin__\nbytearray\n\x8a\x05\x00\x5e\xd0\xb2\x00\x85R."
LAYOUTS = pytest.mark.parametrize("is_archive", [True, False], ids=["archive", "pickles"])


@LAYOUTS
def test_tensors_come_as_pytorch_reads_them(is_archive: bool, tmp_path: Path) -> None:
    whole = torch.arange(24.0).reshape(4, 6)
    content = {
        "of one storage": [whole, whole[1:3, ::2], whole.T],
        "kinds": [torch.ones(3, dtype=kind) for kind in (torch.float64, torch.bfloat16, torch.int64, torch.bool)],
        "sizes": [torch.tensor(7), torch.empty(0, 3)],
        "parameter": nn.Parameter(torch.randn(2)),
        "state": nn.BatchNorm2d(2).state_dict(),
        "plain": [None, True, 2**40, 0.5, "ä", ("a", {1}), torch.Size([2, 3])],
    }
    torch.save(content, tmp_path / "f.pt", _use_new_zipfile_serialization=is_archive)
    loaded, expected = load_tensors(tmp_path / "f.pt"), torch.load(tmp_path / "f.pt", weights_only=True)
    assert loaded.pop("plain") == expected.pop("plain")
    torch.testing.assert_close(loaded, expected, rtol=0, atol=0)
    assert isinstance(loaded["state"], OrderedDict)
    assert not loaded["parameter"].requires_grad


@LAYOUTS
@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(()).expand(10**6, 10**6),
        torch.zeros(3, device="meta"),
        torch.eye(3).to_sparse(),
        torch.ones(2, dtype=torch.complex64),
    ],
    ids=["expanded", "meta", "sparse", "complex"],
)
def test_other_tensors_are_refused(value: Any, is_archive: bool, tmp_path: Path) -> None:
    torch.save({"value": value}, tmp_path / "f.pt", _use_new_zipfile_serialization=is_archive)
    with pytest.raises(HowlError, match=r"f\.pt: refused: it [^\n]+$"):
        load_tensors(tmp_path / "f.pt")


def rewritten(path: Path, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> None:
    """Writes the entries of an archive again, changed."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, change(name, data))


def compress(path: Path) -> None:
    rewritten(path, lambda name, data: data, zipfile.ZIP_DEFLATED)


def name_an_entry_twice(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
        for number in range(3):
            again = copy.copy(largest)
            again.filename = f"f/data/{1000 + number}"
            archive.filelist.append(again)
        archive.writestr("f/more", b"")  # else the list of entries stays as it is


def shorten_a_storage(path: Path) -> None:
    rewritten(path, lambda name, data: data[:-4] if name.endswith("data/0") else data)


def call_bytearray(path: Path) -> None:
    rewritten(path, lambda name, data: BYTEARRAY_OF_3_GB if name.endswith("data.pkl") else data)


def say_big_endian(path: Path) -> None:
    rewritten(path, lambda name, data: b"big" if name.endswith("byteorder") else data)


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (compress, "refused: its entries are compressed"),
        (name_an_entry_twice, "refused: its entries claim more bytes than it has"),
        (shorten_a_storage, "refused: it holds 3996 bytes of a storage of 4000"),
        (call_bytearray, "refused: it asks for __builtin__.bytearray"),
        (say_big_endian, "refused: it was written on a machine of another byte order"),
    ],
)
def test_a_file_that_claims_more_than_it_holds_is_refused(
    spoil: Callable[[Path], None], line: str, tmp_path: Path
) -> None:
    torch.save({"weight": torch.randn(1000)}, tmp_path / "f.pt")
    spoil(tmp_path / "f.pt")
    with pytest.raises(HowlError, match=rf"f\.pt: {line}[^\n]*$"):
        load_tensors(tmp_path / "f.pt")


def test_a_storage_of_the_older_layout_cannot_be_larger_than_the_file(tmp_path: Path) -> None:
    file = io.BytesIO()
    torch.save({"weight": torch.zeros(77)}, file, _use_new_zipfile_serialization=False)
    count, far_more = b"K\x4d", b"J\xff\xff\xff\x7f"  # pickled
    assert file.getvalue().count(count) == 2  # of the storage, and of the tensor
    (tmp_path / "f.pt").write_bytes(file.getvalue().replace(count, far_more))
    with pytest.raises(HowlError, match=r"f\.pt: refused: it holds 308 bytes of a storage of 8589934588"):
        load_tensors(tmp_path / "f.pt")


def test_a_weight_that_was_altered_on_the_disk_is_noticed(tmp_path: Path) -> None:
    weight = torch.randn(1000)
    torch.save({"weight": weight}, tmp_path / "f.pt")
    data = (tmp_path / "f.pt").read_bytes()
    stored = weight.numpy().tobytes()
    (tmp_path / "f.pt").write_bytes(data.replace(stored, stored[:-1] + bytes([stored[-1] ^ 1])))
    with pytest.raises(HowlError, match=r"f\.pt: damaged"):
        load_tensors(tmp_path / "f.pt")
