"""The ids of images: which texts are valid, and a segment's ids, decoded only on demand."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.arguments import listed
from runtime.errors import DuplicateIdError, IdError, UnknownIdError, UsageError


@dataclass(frozen=True, eq=False)
class Ids:
    """The ids of a segment's images, in order.

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

    def are_unicode(self) -> bool:
        """Whether every id is valid UTF-8."""
        try:
            self.text.tobytes().decode()
        except UnicodeDecodeError:
            return False
        first = self.text[self.ends[:-1][self.ends[:-1] < len(self.text)]]
        return not np.any(first & 0xC0 == 0x80)  # no id begins in the middle of a character

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, local: int) -> str:
        """The id of image 0 ≤ ``local`` < n."""
        start = self.ends.item(local - 1) if local else 0
        return self.text.data[start : self.ends.item(local)].tobytes().decode()

    def __iter__(self) -> Iterator[str]:
        text = self.text.tobytes()
        return (text[start:end].decode() for start, end in pairwise([0, *self.ends.tolist()]))


def ids_of(values: Iterable[Any], what: str = "ids") -> list[str]:
    """Ids as the index keeps them: texts, or the texts of paths. Raises UsageError for anything else."""
    return [_id_of(value, what) for value in listed(values, what)]


def _id_of(value: Any, what: str) -> str:
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str):
        raise UsageError(f"{what}: an id is a str or a Path, not {type(text).__name__}")
    return text


def id_of_path(path: str | os.PathLike[str], root: Path | None = None) -> str:
    """The id of a photo in a file: its path as it was given but for needless parts, so that "./a.jpg" is "a.jpg".

    Args:
        path: of the photo.
        root: a folder, from which the id is then seen, however either of the two was typed.

    Raises:
        IdError: the photo lies outside ``root``, or the path is empty.
    """
    if not os.fspath(path):
        raise IdError("an empty path names no photo and no folder")
    if root is None:
        return str(Path(path))
    for absolute in (os.path.abspath, os.path.realpath):  # a link within the folder is part of the id
        below, folder = Path(absolute(path)), absolute(root)
        if below.is_relative_to(folder):
            return below.relative_to(folder).as_posix()
    raise IdError(f"{os.fspath(path)}: lies outside the root {root}, from which ids are seen; name another root")


def check_ids(index: Path, ids: Sequence[str]) -> None:
    """Raises HowlError if one of the ids is named twice or is not valid Unicode."""
    check_unicode(index, ids)
    if len(set(ids)) < len(ids):
        seen: set[str] = set()
        twice = next(id_ for id_ in ids if id_ in seen or seen.add(id_))  # type: ignore[func-returns-value]
        raise DuplicateIdError(f"{index}: {twice} is named twice")


def duplicate(index: Path, id_: str) -> DuplicateIdError:
    """The error for an id that is in the index already."""
    return DuplicateIdError(
        f"{index}: {id_} is in the index already; remove it first, or add with existing='skip' or 'replace'"
    )


def unknown(index: Path, id_: str) -> UnknownIdError:
    """The error for an id that is to be removed, and is not in the index."""
    return UnknownIdError(f"{index}: {id_} is not in the index; nothing was removed")


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
