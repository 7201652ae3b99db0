"""Photos that are wrong answers to every query, as an index on the disk: a million would not fit the memory."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.bundle import EngineFiles
from runtime.errors import DataError, ImageError, IncompatibleError
from runtime.index import Index
from runtime.io.finding import find_photos
from runtime.retriever import Retriever
from train.data.labelled import refuse_missing
from train.data.revisited import million

R1M = "r1m"


@dataclass(frozen=True)
class Distractors:
    """An index of photos, and their files (``tools.evaluation.ranking.Searchable``).

    Attributes:
        index: holds them.
        paths: their files, in the order of the index.
    """

    index: Index
    paths: Sequence[Path]

    def __len__(self) -> int:
        return len(self.index)

    def scores(self, query: Any) -> NDArray[np.float64]:
        """The score of every photo, float64 [n]."""
        return self.index.scores(query)

    def located_at(self, numbers: NDArray[np.int64]) -> Sequence[tuple[Any, NDArray[np.int64], NDArray[np.int64]]]:
        """Where photos lie in the index."""
        return self.index.located_at(numbers)

    def photos_at(self, numbers: NDArray[np.int64]) -> Sequence[tuple[str, Path]]:
        """The paths of photos, as ids too, and their files."""
        return [(str(self.paths[number]), self.paths[number]) for number in numbers.tolist()]


@contextmanager
def open_distractors(
    named: str | None, engine: Path, device: str | None, root: Path, labelled: Iterable[Path], skipped: dict[str, str]
) -> Iterator[list[Distractors]]:
    """The index of the photos in a folder, gone at the end of the block; or that of the million, which stays.

    Args:
        named: a folder, ``r1m`` for the million of the revisited sets, or None for no distractors.
        root: folder that holds published data sets.
        labelled: photos of which none may be in the folder.
        skipped: takes the reason, by path, of photos that cannot be read and are left out.

    Raises:
        HowlError: there is no readable photo, one is labelled too, or the million are not as they were published.
    """
    if named is None:
        yield []
    elif named == R1M:
        index = EngineFiles.of(engine).index_of(R1M)
        photos, hint = million(root)
        fill(index, engine, device, photos, skipped, hint)
        with closing(Index(index)) as opened:
            yield [Distractors(opened, [photos[id_] for id_ in opened.ids()])]
    else:
        found = find_photos([named])
        refuse_overlap(labelled, found)
        with TemporaryDirectory(prefix="howl-distractors-") as folder:
            photos = {str(number): path for number, path in enumerate(found)}
            fill(Path(folder), engine, device, photos, skipped)
            with closing(Index(Path(folder))) as opened:
                yield [Distractors(opened, [photos[id_] for id_ in opened.ids()])]


def refuse_overlap(labelled: Iterable[Path], distractors: Sequence[Path]) -> None:
    """Raises HowlError where a photo with labels is among the photos that are said to be wrong answers to all."""
    resolved = {path.resolve() for path in labelled}
    if both := [path for path in distractors if path.resolve() in resolved]:
        raise DataError(f"{both[0]}: is a distractor and a labelled photo too; name a folder of other photos")


def fill(
    index: Path,
    engine: Path,
    device: str | None,
    photos: Mapping[str, Path],
    skipped: dict[str, str],
    hint: str | None = None,
) -> None:
    """Adds the photos that an index does not hold yet: a run that was interrupted goes on.

    Args:
        photos: by their ids in the index.
        skipped: takes the reason, by path, of photos that cannot be read.
        hint: how to get photos of a published set; with it, missing ones are an error.

    Raises:
        HowlError: photos are missing, none can be read, or the index holds others than these.
    """
    with Retriever(engine, index, device=device) as retriever:
        known = set(retriever.index.existing(list(photos))) if retriever.index else set()
        if len(known) < len(retriever):
            raise IncompatibleError(
                f"{index}: holds other photos than {len(photos)} distractors; delete it to index them again"
            )
        added = {id_: path for id_, path in photos.items() if id_ not in known}
        if hint:
            refuse_missing(list(added.values()), hint)
        report = retriever.add(list(added.values()), list(added))
        if not len(retriever):
            raise ImageError("none of the distractors can be read")
    skipped |= {str(photos[id_]): reason for id_, reason in report.skipped.items()}
