"""Arguments of calls, checked before any work: each function gives the value, or says in one line what is wrong."""

import math
import operator
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runtime.cores import MAX_THREADS
from runtime.errors import UsageError


def listed(values: Iterable[Any], what: str) -> list[Any]:
    """Any iterable as a list; a text, bytes, a path or an image is a single value, not a list of its parts.

    Raises:
        UsageError: it is a single value, or cannot be iterated over.
    """
    if isinstance(values, str | bytes | bytearray | os.PathLike | np.ndarray):
        raise UsageError(f"{what}: a list is needed, not a single {type(values).__name__}; put it into brackets")
    if not isinstance(values, Iterable):
        raise UsageError(f"{what}: a list is needed, not {type(values).__name__}")
    return list(values)


def whole_number_above_0(name: str, value: Any) -> int:
    """An argument as an int. Raises UsageError if it is none, or below 1."""
    try:
        number = operator.index(value)
        if isinstance(value, bool):
            raise TypeError
    except TypeError:
        raise UsageError(f"{name}: a whole number is needed, not {type(value).__name__}") from None
    if number < 1:
        raise UsageError(f"{name}={number}: must be at least 1")
    return number


def place(name: str, value: Any) -> Path:
    """An argument as a path. Raises UsageError if it is none."""
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str):
        raise UsageError(f"{name}: a path is needed, not {type(value).__name__}")
    if not text or "\0" in text:
        raise UsageError(f"{name}: {'a path has no NUL' if text else 'the path is empty'}")
    return Path(text)


def thread_count(threads: Any) -> int | None:
    """A number of threads, or None for one per core. Raises UsageError for more than any machine has cores."""
    if threads is None:
        return None
    number = whole_number_above_0("threads", threads)
    if number > MAX_THREADS:
        raise UsageError(f"threads={number}: at most {MAX_THREADS}; more than there are cores only take memory")
    return number


def finite_number(name: str, value: Any) -> float:
    """An argument as a float. Raises UsageError if it is no number, infinite or NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise UsageError(f"{name}: a number is needed, not {type(value).__name__}")
    if not math.isfinite(value):
        raise UsageError(f"{name}={value}: must be finite")
    return float(value)


def number_at_least_0(name: str, value: Any) -> float:
    """An argument as a float. Raises UsageError if it is no finite number, or below 0."""
    number = finite_number(name, value)
    if number < 0:
        raise UsageError(f"{name}={value}: must be at least 0")
    return number


def one_of(name: str, value: Any, choices: Sequence[str]) -> str:
    """An argument that has a few values. Raises UsageError, naming them, if it is none of them."""
    if not isinstance(value, str) or value not in choices:
        given = f"={value!r}" if isinstance(value, str) and len(value) < 80 else f": not {type(value).__name__}"
        raise UsageError(f"{name}{given}: must be {', '.join(choices[:-1])} or {choices[-1]}")
    return value
