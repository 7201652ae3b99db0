"""Reading what ``torch.save`` writes: a pickle of tensors and plain values, and the bytes of the tensors.

``torch.load`` runs no code with ``weights_only=True``, but 400 bytes can make it take gigabytes: ``bytearray(n)`` is
among the calls that it allows. Here the pickle runs on the machine of ``runtime.io.unpickle``, and tensors are made of
bytes that the file has: memory and time are bounded by its size.

There are two layouts. Since PyTorch 1.6 a file is a ZIP archive, its entries stored as they are: ``data.pkl``, and
``data/KEY`` for every storage. Before, it was five pickles (a magic number, the version, the writer's byte order, the
content, and the storages' keys) and then the storages, each behind its length.
"""

import math
import pickle
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from zipfile import ZIP_STORED, ZipFile

import torch
from torch import Tensor

from runtime.errors import IncompatibleError
from runtime.io.files import open_file, read_file
from runtime.io.unpickle import NAMES as PLAIN_NAMES
from runtime.io.unpickle import AllowedCall, Copier, PickledArray, PlainUnpickler, RefusedError

MAGIC_NUMBER, PROTOCOL_VERSION = 0x1950A86A20F9469CFC6C, 1001  # of the layout before 1.6
LENGTH_BYTES = 8  # of a storage, in that layout
MAX_AXES = 8  # of a tensor
OTHER_BYTE_ORDER = "it was written on a machine of another byte order"


@dataclass
class _Storage:
    """Numbers in a row, which tensors are views of; their bytes come after the pickle that names them."""

    dtype: torch.dtype
    count: int
    values: Tensor | None = None

    @property
    def size(self) -> int:
        """Bytes."""
        return self.count * self.dtype.itemsize

    def fill(self, data: bytes) -> None:
        if len(data) != self.size:
            raise RefusedError(f"it holds {len(data)} bytes of a storage of {self.size}")
        # PyTorch wants bytes that may be changed, and some.
        self.values = torch.frombuffer(bytearray(data), dtype=self.dtype) if data else torch.empty(0, dtype=self.dtype)


@dataclass(frozen=True)
class _View:
    """A tensor, until its storage is filled."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def made(self) -> Tensor:
        values = self.storage.values
        # Strides of 0 could make any shape of a single number.
        if values is None or math.prod(self.shape) > len(values):
            raise RefusedError(f"it holds a tensor {self.shape} of a storage of {self.storage.count} numbers")
        return values.as_strided(self.shape, self.strides, self.offset)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _View:
    """Stands in for what rebuilds a tensor; whether it has a gradient does not matter."""
    if not isinstance(storage, _Storage) or not isinstance(shape, tuple) or not isinstance(strides, tuple):
        raise RefusedError("it holds a tensor of another kind")
    if len(shape) > MAX_AXES or not all(type(n) is int and 0 <= n < 2**62 for n in (offset, *shape, *strides)):
        raise RefusedError("it holds a tensor of an impossible shape")
    return _View(storage, offset, shape, strides)


def _parameter(tensor: Any, *_: Any) -> _View:
    if not isinstance(tensor, _View):
        raise RefusedError("it holds a parameter of another kind")
    return tensor


def _empty_dict(*_: Any) -> dict:
    """Stands in for ``defaultdict``: a reader has no use for its default."""
    return {}


class _Fields(dict):
    """Stands in for an object of a library that is not needed: its attributes, by name."""


# Numbers and arrays that training code leaves beside the weights, under NumPy 1's module paths and NumPy 2's.
_NUMPY = {
    name: PLAIN_NAMES[name]
    for name in (
        ("numpy", "dtype"),
        ("numpy", "ndarray"),
        *((f"numpy.{core}.multiarray", it) for core in ("core", "_core") for it in ("scalar", "_reconstruct")),
        ("_codecs", "encode"),
    )
}
_BUILTINS = ("builtins", "__builtin__")
NAMES: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): AllowedCall(_tensor),
    ("torch._utils", "_rebuild_tensor"): AllowedCall(_tensor),
    ("torch._utils", "_rebuild_parameter"): AllowedCall(_parameter),
    ("torch", "Size"): AllowedCall(tuple),
    ("torch", "FloatStorage"): torch.float32,
    ("torch", "DoubleStorage"): torch.float64,
    ("torch", "HalfStorage"): torch.float16,
    ("torch", "BFloat16Storage"): torch.bfloat16,
    ("torch", "LongStorage"): torch.int64,
    ("torch", "IntStorage"): torch.int32,
    ("torch", "ShortStorage"): torch.int16,
    ("torch", "CharStorage"): torch.int8,
    ("torch", "ByteStorage"): torch.uint8,
    ("torch", "BoolStorage"): torch.bool,
    ("collections", "OrderedDict"): PLAIN_NAMES["collections", "OrderedDict"],
    ("collections", "defaultdict"): AllowedCall(_empty_dict),
    **{(module, "list"): None for module in _BUILTINS},  # what a defaultdict is given
    **{(module, kind): PLAIN_NAMES[module, kind] for module in _BUILTINS for kind in ("set", "bytes")},
    # Whitening that deep-image-retrieval learned with scikit-learn, before and since its version 0.22.
    **{(f"sklearn.decomposition.{module}", "PCA"): _Fields for module in ("pca", "_pca")},
    **_NUMPY,
}


class _TensorUnpickler(PlainUnpickler):
    """The machine for plain pickles, which knows tensors too.

    Attributes:
        storages: that the pickle names, by key; they are still empty.
    """

    dispatch: ClassVar[dict[int, Callable]] = PlainUnpickler.dispatch.copy()

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in NAMES:
            raise RefusedError(f"it asks for {module}.{name}")
        return NAMES[module, name]

    def build(self) -> None:
        if isinstance(self.stack[-2], OrderedDict):  # a state dict, and the versions of its modules
            self.stack.pop()
        elif isinstance(self.stack[-2], _Fields):
            fields = self.stack.pop()
            if not isinstance(fields, dict) or not all(isinstance(name, str) for name in fields):
                raise RefusedError("it holds an object whose attributes have no names")
            self.stack[-1].update(fields)
        else:
            super().build()

    def new_object(self) -> None:
        arguments, kind = self.stack.pop(), self.stack.pop()
        if kind is not _Fields or arguments != ():
            raise RefusedError("it makes an object of another kind")
        self.stack.append(_Fields())

    def name_storage(self) -> None:
        match self.stack.pop():
            case ("storage", torch.dtype() as dtype, str(key), _, int(count), *view) if view in ([], [None]):
                storage = self.storages.setdefault(key, _Storage(dtype, count))
                if (storage.dtype, storage.count) != (dtype, count):
                    raise RefusedError("it holds a storage of two kinds")
                self.stack.append(storage)
            case _:
                raise RefusedError("it refers to what is no storage")

    dispatch |= {pickle.BUILD[0]: build, pickle.NEWOBJ[0]: new_object, pickle.BINPERSID[0]: name_storage}


class _TensorCopier(Copier):
    """New containers, with tensors and Python's numbers in them; arrays of numbers become tensors."""

    def copied(self, value: Any, depth: int = 0) -> Any:
        if isinstance(value, _View):
            self.left -= 1
            return value.made()
        copy = super().copied(value, depth)
        if not isinstance(value, PickledArray):
            return copy
        if copy.ndim == 0:
            return copy.item()
        if copy.dtype.kind not in "fiub":
            raise RefusedError(f"it holds an array of {copy.dtype}")
        return torch.from_numpy(copy.astype(copy.dtype.newbyteorder("=")))


def read_tensor_file(path: Path) -> Any:
    """The tensors, plain values and containers of a file.

    NumPy's numbers come as Python's, its arrays as tensors, and ``defaultdict`` as ``dict``.

    Raises:
        IncompatibleError: the file begins like no file of tensors.
        RefusedError: it holds anything else, or claims more than it holds.
        Exception: of any kind, if it is damaged.
    """
    with open_file(path) as file:
        begin = file.read(2)
    if begin and not begin.startswith((b"PK", pickle.PROTO)):
        raise IncompatibleError(f"{path}: not a file of tensors")
    return _read_archive(path) if begin == b"PK" else _read_pickles(path)


def _read_archive(path: Path) -> Any:
    size = path.stat().st_size
    with ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != ZIP_STORED for entry in entries):
            raise RefusedError("its entries are compressed, and could unfold to any size")
        if sum(entry.file_size for entry in entries) > size:
            raise RefusedError("its entries claim more bytes than it has")
        names = {entry.filename.partition("/")[2]: entry for entry in entries}
        if "byteorder" in names and archive.read(names["byteorder"]) != b"little":
            raise RefusedError(OTHER_BYTE_ORDER)
        unpickler = _TensorUnpickler(archive.read(names["data.pkl"]))
        content = unpickler.load()
        for key, storage in unpickler.storages.items():
            storage.fill(archive.read(names[f"data/{key}"]))
    return _TensorCopier(size).copied(content)


def _read_pickles(path: Path) -> Any:
    data = read_file(path)
    unpickler = _TensorUnpickler(data)
    if unpickler.load() != MAGIC_NUMBER or unpickler.load() != PROTOCOL_VERSION:
        raise RefusedError("it is a pickle of something else")
    if not unpickler.load()["little_endian"]:
        raise RefusedError(OTHER_BYTE_ORDER)
    content, keys = unpickler.load(), unpickler.load()
    for key in keys:
        storage = unpickler.storages[key]
        unpickler.read(LENGTH_BYTES)
        storage.fill(unpickler.read(storage.size))
    return _TensorCopier(len(data)).copied(content)
