"""Photos that are wrong answers to every query, as an index: a thousand photos a commit, on the disk."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from runtime.errors import HowlError
from runtime.image import find_photos
from runtime.index import Index
from runtime.retriever import Retriever


@contextmanager
def open_distractors(
    folder: str | None, engine: Path, device: str | None, labelled: Iterable[Path], skipped: dict[str, str]
) -> Iterator[list[Index]]:
    """The index of the photos in a folder, gone at the end of the block; none where no folder is named.

    Args:
        labelled: photos of which none may be among the distractors.
        skipped: takes the reason, by path, of photos that cannot be read and are left out.

    Raises:
        HowlError: the folder has no readable photo, or one that is labelled.
    """
    if folder is None:
        yield []
        return
    photos = find_photos([folder])
    refuse_overlap(labelled, photos)
    with TemporaryDirectory(prefix="howl-distractors-") as index:
        fill(Path(index), engine, device, {str(number): photo for number, photo in enumerate(photos)}, skipped)
        with closing(Index(Path(index))) as opened:
            yield [opened]


def refuse_overlap(labelled: Iterable[Path], distractors: Sequence[Path]) -> None:
    """Raises HowlError where a photo with labels is among the photos that are said to be wrong answers to all."""
    resolved = {path.resolve() for path in labelled}
    if both := [path for path in distractors if path.resolve() in resolved]:
        raise HowlError(f"{both[0]}: is a distractor and a labelled photo too; name a folder of other photos")


def fill(index: Path, engine: Path, device: str | None, photos: Mapping[str, Path], skipped: dict[str, str]) -> None:
    """Adds photos, given by their ids, to an index. Raises HowlError where none can be read."""
    with Retriever(engine, index, device=device) as retriever:
        report = retriever.add(list(photos.values()), list(photos))
    skipped |= {str(photos[id_]): reason for id_, reason in report.skipped.items()}
    if not report.added:
        raise HowlError("none of the distractors can be read")
