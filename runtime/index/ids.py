"""The ids of images: which texts are valid, and a segment's ids, decoded only on demand."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.errors import DuplicateIdError, IdError


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


def check_ids(index: Path, ids: Sequence[str]) -> None:
    """Raises HowlError if one of the ids is named twice or is not valid Unicode."""
    check_unicode(index, ids)
    if len(set(ids)) < len(ids):
        seen: set[str] = set()
        twice = next(id_ for id_ in ids if id_ in seen or seen.add(id_))  # type: ignore[func-returns-value]
        raise DuplicateIdError(f"{index}: {twice} is named twice")


def check_unicode(index: Path, ids: Sequence[str]) -> None:
    """Raises HowlError if one of the ids cannot be written as UTF-8: file names may contain such bytes."""
    if _is_unicode("".join(ids)):
        return
    wrong = next(id_ for id_ in ids if not _is_unicode(id_))
    raise IdError(f"{index}: {wrong!r} is not valid Unicode; rename the file, or give it an id")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
