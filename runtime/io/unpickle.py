"""Reading published data sets, which come as pickles, without letting them run code or reach into NumPy.

A pickle is a program. Here it runs on a machine in Python that knows only the instructions which plain data needs: a
wrong operand is an error and no write into memory. NumPy's names stand for values of our own, from which new arrays are
made at the end. Depth, size and time are bounded by the size of the file.
"""

import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from runtime.errors import DamagedError, MissingError
from runtime.io.files import read_file

MAX_DEPTH = 50  # of containers in containers
PARTS_PER_BYTE = 16  # a pickle may refer to a part again and again; what it amounts to is bounded by the file's size
MIN_PARTS = 10_000
MAX_SHOWN = 200  # characters of an error
PLAIN_DTYPE = re.compile(r"[<>|=]?([biufc]\d{1,2}|[SU]\d{1,7}|\?)")  # numbers and text: no objects, dates or fields
PLAIN_KEYS = (str, bytes, int, float, type(None))  # of dicts and sets; nested tuples can take for ever to be hashed

_REFUSED = "only plain arrays and containers are read"


class RefusedError(Exception):
    """The pickle holds or does something that plain data does not."""


@dataclass(frozen=True)
class AllowedCall:
    """What a pickle may call; unlike a function, it has no attributes that a pickle could set."""

    call: Callable[..., Any]


class _Dtype:
    """A dtype, until the arrays are made."""

    def __init__(self, code: Any, *flags: Any) -> None:
        if not isinstance(code, str) or PLAIN_DTYPE.fullmatch(code) is None:
            raise RefusedError(f"it holds an array of {_named_dtype(code)}")
        self.dtype = np.dtype(code)

    def build(self, state: Any) -> None:
        """The state of a pickled dtype: version, byte order, and what only structured ones have."""
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise RefusedError("it holds a dtype of another kind")
        if any(part is not None for part in state[2:5]):
            raise RefusedError("it holds an array of fields")
        self.dtype = self.dtype.newbyteorder(state[1])


class PickledArray:
    """An array, until it is made."""

    def __init__(self) -> None:
        self.state: tuple[tuple[int, ...], np.dtype, str, bytes] | None = None

    def build(self, state: Any) -> None:
        """The state of a pickled array: version, shape, dtype, whether it is stored by columns, and its bytes."""
        if not isinstance(state, tuple) or len(state) != 5:
            raise RefusedError("it holds an array of another kind")
        _, shape, dtype, by_columns, raw = state
        self.fill(raw, dtype, shape, "F" if by_columns else "C")

    def fill(self, raw: Any, dtype: Any, shape: Any, order: Any) -> "PickledArray":
        """Checks that shape, dtype and bytes fit, and keeps them."""
        if not isinstance(dtype, _Dtype):
            raise RefusedError("it holds an array without a dtype")
        data = raw.encode("latin1") if isinstance(raw, str) else raw  # Python 2's strings are bytes
        if not isinstance(data, bytes):
            raise RefusedError(f"it holds an array of {_named_dtype(dtype)} without its bytes")
        if not isinstance(shape, tuple) or not all(type(side) is int and side >= 0 for side in shape[:33]):
            raise RefusedError("it holds an array without a shape")
        if prod(shape) * dtype.dtype.itemsize != len(data):
            raise RefusedError(f"it holds an array of {len(data)} bytes that is said to be {dtype.dtype} {shape[:8]}")
        self.state = (shape, dtype.dtype, "F" if order == "F" else "C", data)
        return self

    def made(self) -> np.ndarray:
        """A new array."""
        if self.state is None:
            raise RefusedError("it holds an array without its bytes")
        shape, dtype, order, data = self.state
        return np.frombuffer(data, dtype).reshape(shape, order=order).copy(order="K")  # type: ignore[call-overload]


def _reconstruct(kind: Any, *others: Any) -> PickledArray:
    if kind is not _NDARRAY:
        raise RefusedError("it holds an array of another kind")
    return PickledArray()


def _frombuffer(raw: Any, dtype: Any, shape: Any, order: Any) -> PickledArray:
    return PickledArray().fill(raw, dtype, shape, order)


def _scalar(dtype: Any, raw: Any = b"") -> PickledArray:
    return PickledArray().fill(raw, dtype, (), "C")


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise RefusedError("it holds bytes of another kind")
    return text.encode("latin1")


def _set(values: Any = ()) -> set:
    if not isinstance(values, list | tuple):
        raise RefusedError("it holds a set of another kind")
    return {_as_key(value) for value in values}


def _ordered(pairs: Any = ()) -> OrderedDict:
    if not isinstance(pairs, list | tuple) or not all(isinstance(p, list | tuple) and len(p) == 2 for p in pairs):
        raise RefusedError("it holds an OrderedDict of another kind")
    return OrderedDict((_as_key(key), value) for key, value in pairs)


def _bytes(*nothing: Any) -> bytes:
    if nothing:
        raise RefusedError("it holds bytes of another kind")
    return b""


_NDARRAY = object()
_IN_MULTIARRAY = {"_reconstruct": AllowedCall(_reconstruct), "scalar": AllowedCall(_scalar)}
# The names in a pickle of NumPy arrays and plain containers, under NumPy 1's and 2's module paths.
NAMES: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): AllowedCall(_Dtype),
    **{(f"numpy.{core}.multiarray", name): it for core in ("core", "_core") for name, it in _IN_MULTIARRAY.items()},
    **{(f"numpy.{core}.numeric", "_frombuffer"): AllowedCall(_frombuffer) for core in ("core", "_core")},
    ("_codecs", "encode"): AllowedCall(_encode),
    ("collections", "OrderedDict"): AllowedCall(_ordered),
    **{(module, "set"): AllowedCall(_set) for module in ("builtins", "__builtin__")},
    **{
        (module, "bytes"): AllowedCall(_bytes) for module in ("builtins", "__builtin__")
    },  # empty ones, before protocol 3
}


class PlainUnpickler(pickle._Unpickler):
    """Python's unpickler in Python, with the instructions that plain data needs.

    The memo of the one in C takes memory for any number that a pickle names, and its BUILD writes into objects.
    """

    stack: list[Any]
    memo: dict[int, Any]
    read: Callable[[int], bytes]
    pop_mark: Callable[[], list[Any]]
    dispatch: ClassVar[dict[int, Callable]] = {
        code[0]: pickle._Unpickler.dispatch[code[0]]
        for code in (
            *(pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.POP, pickle.POP_MARK),
            *(pickle.INT, pickle.LONG, pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG1, pickle.LONG4),
            *(pickle.FLOAT, pickle.BINFLOAT, pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE),
            *(pickle.STRING, pickle.BINSTRING, pickle.SHORT_BINSTRING),
            *(pickle.UNICODE, pickle.BINUNICODE, pickle.SHORT_BINUNICODE, pickle.BINUNICODE8),
            *(pickle.BINBYTES, pickle.SHORT_BINBYTES, pickle.BINBYTES8),
            *(pickle.EMPTY_LIST, pickle.LIST, pickle.EMPTY_DICT, pickle.EMPTY_SET),
            *(pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
            *(pickle.GLOBAL, pickle.STACK_GLOBAL),
            *(pickle.PUT, pickle.BINPUT, pickle.GET, pickle.BINGET, pickle.LONG_BINGET),
            pickle.MEMOIZE,
        )
    }

    def __init__(self, data: bytes) -> None:
        super().__init__(BytesIO(data), encoding="latin1")
        self.size = len(data)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in NAMES:
            raise RefusedError(f"it asks for {module}.{name}")
        return NAMES[module, name]

    def call(self) -> None:
        arguments = self.stack.pop()
        function = self.stack[-1]
        if not isinstance(function, AllowedCall) or not isinstance(arguments, tuple):
            raise RefusedError("it calls what is no function of plain data")
        self.stack[-1] = function.call(*arguments)

    def build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if not isinstance(target, PickledArray | _Dtype):
            raise RefusedError(f"it changes a {type(target).__name__}")
        target.build(state)

    def append(self) -> None:
        value = self.stack.pop()
        self._top(list).append(value)

    def append_all(self) -> None:
        values = self.pop_mark()
        self._top(list).extend(values)

    def add_all(self) -> None:
        values = self.pop_mark()
        self._top(set).update(map(_as_key, values))

    def set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._top(dict)[_as_key(key)] = value

    def set_items(self) -> None:
        values = self.pop_mark()
        target = self._top(dict)
        for key, value in zip(values[::2], values[1::2], strict=True):
            target[_as_key(key)] = value

    def new_dict(self) -> None:
        values = self.pop_mark()
        self.stack.append({_as_key(key): value for key, value in zip(values[::2], values[1::2], strict=True)})

    def read_bytes(self) -> None:
        """Bytes that can be changed, as NumPy's arrays have them since protocol 5; no more than the file has."""
        self.stack.append(self.read(int.from_bytes(self.read(8), "little")))

    def remember(self) -> None:
        """A number of four bytes under which the top of the stack is kept; no pickle needs one beyond its size."""
        number = int.from_bytes(self.read(4), "little")
        if number > self.size:
            raise RefusedError("it counts beyond its size")
        self.memo[number] = self.stack[-1]

    def _top(self, kind: type) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise RefusedError(f"it fills a {type(self.stack[-1]).__name__}")
        return self.stack[-1]

    dispatch |= {
        pickle.REDUCE[0]: call,
        pickle.BUILD[0]: build,
        pickle.APPEND[0]: append,
        pickle.APPENDS[0]: append_all,
        pickle.ADDITEMS[0]: add_all,
        pickle.SETITEM[0]: set_item,
        pickle.SETITEMS[0]: set_items,
        pickle.DICT[0]: new_dict,
        pickle.BYTEARRAY8[0]: read_bytes,
        pickle.LONG_BINPUT[0]: remember,
    }


class Copier:
    """New containers and arrays of what was unpickled, as many as the file's size allows."""

    def __init__(self, size: int) -> None:
        self.left = MIN_PARTS + PARTS_PER_BYTE * size

    def copied(self, value: Any, depth: int = 0) -> Any:
        self.left -= 1
        if self.left < 0 or depth > MAX_DEPTH:
            raise RefusedError("it is too deep, or refers to the same parts too often")
        if isinstance(value, PickledArray):
            array = value.made()
            self.left -= array.nbytes
            return array if array.shape else array[()]
        if isinstance(value, list | tuple | set):
            return type(value)(self.copied(each, depth + 1) for each in value)
        if isinstance(value, dict):
            return type(value)((key, self.copied(each, depth + 1)) for key, each in value.items())
        if isinstance(value, str | bytes | int | float | complex | None):
            return value
        raise RefusedError("it holds something that is no value")


def load_plain_pickle(path: Path) -> Any:
    """The arrays, numbers, strings and containers of a pickle, written by Python 2 or 3.

    Raises:
        HowlError: the file is missing, damaged, or holds anything else; nothing in it has been run.
    """
    try:
        data = read_file(path)
    except FileNotFoundError:
        raise MissingError(f"{path}: no such file") from None
    except OSError as error:
        raise MissingError(f"{path}: {error.strerror or error}") from None
    try:
        return Copier(len(data)).copied(PlainUnpickler(data).load())
    except RefusedError as error:
        raise DamagedError(f"{path}: refused: {one_line(error)}; {_REFUSED}") from None
    except KeyError as error:  # an instruction that plain data does not need
        code = error.args[0] if error.args else None
        what = f"its instruction {chr(code)!r} is none of plain data" if isinstance(code, int) else one_line(error)
        raise DamagedError(f"{path}: refused: {what}; {_REFUSED}") from None
    except Exception as error:  # a damaged pickle can raise any exception
        raise DamagedError(f"{path}: not a readable pickle: {one_line(error)}") from None


def _as_key(value: Any) -> Any:
    if not isinstance(value, PLAIN_KEYS):
        raise RefusedError(f"it holds a key that is a {type(value).__name__}")
    return value


def _named_dtype(code: Any) -> str:
    """How an error names a dtype: as NumPy does, if it is one."""
    try:
        return str(np.dtype(code))[:MAX_SHOWN] if isinstance(code, str) else type(code).__name__
    except Exception:
        return "an unknown kind"


def one_line(value: object) -> str:
    """What a file says, as part of an error: on one line, and not a long one."""
    line = " ".join(str(value).split())
    return line if len(line) <= MAX_SHOWN else f"{line[:MAX_SHOWN]}…"
