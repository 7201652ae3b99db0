"""The ids of images: which texts are valid, and a segment's ids, decoded only on demand."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import DuplicateIdError, IdError, UsageError


@dataclass(frozen=True, eq=False)
class Ids:
    """The ids of a segment's images, in order. The arrays may be memory maps.

    Attributes:
        text: uint8 [b], all ids as one UTF-8 string.
        ends: int64 [n], where each ends.
    """

    text: NDArray[np.uint8]
    ends: NDArray[np.int64]

    @classmethod
    def encode(cls, ids: Sequence[str]) -> "Ids":
        encoded = [id_.encode() for id_ in ids]
        return cls(np.frombuffer(b"".join(encoded), np.uint8), np.cumsum([len(id_) for id_ in encoded], dtype=np.int64))

    @classmethod
    def merge(cls, parts: Sequence["Ids"], kept: Sequence[NDArray[np.bool_]]) -> "Ids":
        """The kept ids of several segments, in their order; ``kept`` has bool [n] for each part."""
        lengths = [np.diff(part.ends, prepend=0) for part in parts]
        texts = [part.text[np.repeat(keep, n)] for part, n, keep in zip(parts, lengths, kept, strict=True)]
        ends = np.cumsum(np.concatenate([n[keep] for n, keep in zip(lengths, kept, strict=True)]))
        return cls(np.concatenate(texts), ends.astype(np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, local: int) -> str:
        """The id of image 0 ≤ ``local`` < n."""
        start = self.ends.item(local - 1) if local else 0
        return self.text.data[start : self.ends.item(local)].tobytes().decode()

    def __iter__(self) -> Iterator[str]:
        text = self.text.tobytes()
        return (text[start:end].decode() for start, end in pairwise([0, *self.ends.tolist()]))


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


def ids_of(values: Iterable[Any]) -> list[str]:
    """Ids as the index keeps them: texts, or the texts of paths. Raises UsageError for anything else."""
    return [_id_of(value) for value in listed(values, "ids")]


def _id_of(value: Any) -> str:
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str):
        raise UsageError(f"ids: an id is a str or a Path, not {type(text).__name__}")
    return text


def check_ids(index: Path, ids: Sequence[str]) -> None:
    """Raises HowlError if one of the ids is named twice or is not valid Unicode."""
    check_unicode(index, ids)
    if len(set(ids)) < len(ids):
        seen: set[str] = set()
        twice = next(id_ for id_ in ids if id_ in seen or seen.add(id_))  # type: ignore[func-returns-value]
        raise DuplicateIdError(f"{index}: {twice} is named twice")


def check_unicode(index: Path, ids: Sequence[str]) -> None:
    """Raises HowlError if one of the ids cannot be written as UTF-8: file names may contain such bytes."""
    if is_unicode("".join(ids)):
        return
    wrong = next(id_ for id_ in ids if not is_unicode(id_))
    raise IdError(f"{index}: {wrong!r} is not valid Unicode; rename the file, or give it an id")


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8; Python keeps other bytes of a file name as surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
