"""An index in several parts, for several machines: which part an image belongs to, and how their answers are merged.

The folder of such an index holds one ordinary index for each shard, and a small file that says how many there are. An
image belongs to a shard by a hash of its id, so that every process knows where it is, or would be, without asking.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from runtime.errors import DamagedError, IncompatibleError, MissingError, StorageError, UsageError
from runtime.index.hits import Hit, Hits
from runtime.io.files import atomic_write, reason, sync_folder

FILE, FORMAT = "shards.json", 1
MAX_SHARDS = 1000
MAX_SIZE = 10_000  # bytes of the file

Value = TypeVar("Value")


@dataclass(frozen=True)
class Shards:
    """The parts of an index.

    Attributes:
        path: of the folder that holds them.
        count: how many there are; it cannot be changed later, because images would belong elsewhere.
    """

    path: Path
    count: int

    def __post_init__(self) -> None:
        """Raises UsageError if an index cannot have so many."""
        if not 1 <= self.count <= MAX_SHARDS:
            raise UsageError(f"{self.count} shards: an index has 1 to {MAX_SHARDS}")

    @classmethod
    def exist(cls, path: Path) -> bool:
        """Whether an index at a path has shards. Raises StorageError if the folder cannot be accessed."""
        try:
            return (path / FILE).exists()
        except OSError as error:
            raise StorageError(f"{path}: {reason(error)}") from None

    @classmethod
    def at(cls, path: Path) -> "Shards":
        """Those of the index at a path.

        Raises:
            MissingError: there is none with shards.
            HowlError: the file that names them is damaged, or of a newer howl.
        """
        file = path / FILE
        try:
            with file.open("rb") as opened:
                told = json.loads(opened.read(MAX_SIZE))
            version, count = int(told["format"]), int(told["shards"])
        except FileNotFoundError:
            raise MissingError(
                f"{path}: no index with shards here; howl index ENGINE PHOTOS --index DIR --shards N --ray makes one"
            ) from None
        except OSError as error:
            raise StorageError(f"{file}: {reason(error)}") from None
        except (ValueError, TypeError, LookupError):
            raise DamagedError(f"{file}: damaged; it says how many shards the index has: restore it") from None
        if version != FORMAT:
            raise IncompatibleError(f"{file}: format {version}, which this howl does not know; update howl")
        return cls(path, count)

    def write(self) -> None:
        """Writes the file that makes the folder an index with shards. Raises StorageError if it cannot be written."""
        with atomic_write(self.path / FILE) as file:
            file.write(json.dumps({"format": FORMAT, "shards": self.count}).encode() + b"\n")
        sync_folder(self.path)

    def place(self, shard: int) -> Path:
        """The folder of a shard: an ordinary index."""
        return self.path / self.name(shard)

    @staticmethod
    def name(shard: int) -> str:
        """What a shard is called."""
        return f"shard-{shard}"

    def of(self, id_: str) -> int:
        """The shard that an image belongs to: a checksum of its id, modulo their number."""
        digest = hashlib.blake2b(id_.encode(errors="surrogatepass"), digest_size=8).digest()
        return int.from_bytes(digest) % self.count

    def divided(self, ids: Iterable[str]) -> dict[int, list[int]]:
        """The positions of ids, by the shard that each belongs to; shards without any are left out."""
        positions: dict[int, list[int]] = {}
        for position, id_ in enumerate(ids):
            positions.setdefault(self.of(id_), []).append(position)
        return positions

    def grouped(self, ids: Iterable[str]) -> dict[int, list[str]]:
        """Ids by their shards."""
        names = list(ids)
        return {shard: [names[position] for position in own] for shard, own in self.divided(names).items()}


def refuse_shards(path: Path) -> None:
    """Raises UsageError if the index at a path has shards, where only an ordinary one will do."""
    if Shards.exist(path):
        shards = Shards.at(path)
        raise UsageError(
            f"{path}: an index of {shards.count} shards: with --ray, howl index adds photos to it, and howl search and "
            f"serve take it; for all else each of its folders, such as {shards.place(0)}, is an index of its own"
        )


def rank(hit: Hit) -> tuple[float, list[str]]:
    """What hits of several shards are sorted by: the larger score, and of equal ones the id, part by part of its path.

    An index that was made of a folder in one go has equal scores in the same order, because photos are added in it.
    """
    return -hit.score, hit.id.split("/")


def merged(answers: Mapping[int, Sequence[Hit]], top: int, missing: Sequence[str] = ()) -> Hits:
    """The best hits of several shards, best first.

    Args:
        answers: the hits of each shard, at least its ``top`` best by ``rank``, if it has as many.
        top: the maximum number of hits.
        missing: the shards that did not answer.
    """
    return Hits(sorted((hit for hits in answers.values() for hit in hits), key=rank)[:top], missing)
