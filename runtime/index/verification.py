"""Checks every checksum and invariant of an index on the disk."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.errors import HowlError
from runtime.first_stage import Layout, ascends, shape_fault
from runtime.index.arrays import Checksum, check_file
from runtime.index.catalogue import Catalogue, SegmentRow
from runtime.index.schema import SEGMENT_PREFIX
from runtime.index.segment import Segment, load_segment, segment_files
from runtime.index.shards import refuse_shards

CATALOGUE = "catalogue.sqlite"


@dataclass(frozen=True)
class Verification:
    """What was found.

    Attributes:
        damages: one line for each, which names the file; an index is whole if there are none.
        orphans: folders of segments that the catalogue does not name. A killed writer left them behind, and the next
            one deletes them: they are not damage.
        segments: how many the catalogue names.
        images: how many are stored in them, including those that were removed.
        entries: how many are stored in them.
    """

    damages: list[str]
    orphans: list[Path]
    segments: int
    images: int
    entries: int


def verify(path: Path, progress: Callable[[int], object] = lambda images: None) -> Verification:
    """Checks the last commit of an index, and continues after any damage. A writer may commit meanwhile.

    Args:
        path: of the index.
        progress: takes, after every segment, the number of its images.

    Raises:
        HowlError: the catalogue cannot be read, so there is nothing to check against; or it has another format.
    """
    refuse_shards(path)
    catalogue = Catalogue(path / CATALOGUE)
    try:
        return _verify(path, catalogue, progress)
    finally:
        catalogue.close()


def _verify(path: Path, catalogue: Catalogue, progress: Callable[[int], object]) -> Verification:
    catalogue.metadata("fingerprint")
    damages = [f"{catalogue.path}: damaged ({line})" for line in catalogue.integrity()]
    with catalogue.reading():
        rows = catalogue.segments()
        ordinals, ids = catalogue.images()
        removed = catalogue.removed()
    orphans = [folder for folder in path.glob(f"{SEGMENT_PREFIX}*") if folder.name not in {row.name for row in rows}]
    damages += [f"{catalogue.path}: damaged ({line})" for line in _numbering(rows, ordinals, removed)]
    for row in rows:
        part = slice(*np.searchsorted(ordinals, [row.start, row.stop]))
        found = list(_segment(path, row, catalogue.layout, dict(zip(ordinals[part].tolist(), ids[part], strict=True))))
        if found and row.name in catalogue.segment_names():  # a writer may have replaced it meanwhile
            damages += found
        progress(row.images)
    return Verification(damages, orphans, len(rows), sum(row.images for row in rows), sum(row.entries for row in rows))


def _numbering(rows: list[SegmentRow], ordinals: NDArray[np.int64], removed: NDArray[np.int64]) -> Iterator[str]:
    """Contradictions between the tables of the catalogue."""
    bounds = np.array([bound for row in rows for bound in (row.start, row.stop)], np.int64)
    if np.any(bounds[:-1] > bounds[1:]) or np.any(bounds[0::2] >= bounds[1::2]):
        yield "two segments answer for the same images"
    for what, some in (("holds images", ordinals), ("removed images", removed)):
        # An ordinal inside a segment's range has an odd number of bounds at or below it.
        if np.any(np.searchsorted(bounds, some, side="right") % 2 == 0):
            yield f"it {what} of no segment"
    if np.any(np.diff(ordinals) == 0):
        yield "two images have the same number"
    if len(np.intersect1d(ordinals, removed)):
        yield "it both holds and removed an image"


def _segment(path: Path, row: SegmentRow, layout: Layout, images: dict[int, str]) -> Iterator[str]:
    """The damage to a segment; ``images`` has the ordinals and ids that the catalogue says are in it."""
    folder = path / row.name
    damages = [line for name in segment_files(layout) if (line := _sum(folder / name, row.checksums[name]))]
    yield from damages
    if damages:
        return  # further checks would only report the same again
    try:
        segment = load_segment(folder, row.checksums, row.entries, layout)
    except (HowlError, ValueError, IndexError) as error:
        yield str(error) if isinstance(error, HowlError) else f"{folder}: damaged ({error})"
        return
    shapes = [*segment.store.shape_faults(row.images), *_shapes(segment, row)]
    contents = (*segment.store.content_faults(layout.dimensions), *_images(segment, row, images)) if not shapes else ()
    for file, line in (*shapes, *contents):
        yield f"{folder / file}: damaged ({line})"


def _sum(path: Path, expected: Checksum) -> str | None:
    """How a file differs from what was written, or None."""
    try:
        check_file(path, expected)
    except HowlError as error:
        return str(error)
    return None


def _shapes(segment: Segment, row: SegmentRow) -> Iterator[tuple[str, str]]:
    """Arrays of the images that do not fit each other: file and fault. ``_images`` needs them to fit."""
    ids = segment.ids
    yield from shape_fault("id_bytes.npy", ids.text, np.uint8, (int(ids.ends[-1]) if len(ids) else 0,))
    yield from shape_fault("id_ends.npy", ids.ends, np.int64, (row.images,))
    yield from shape_fault("ordinals.npy", segment.ordinals, np.int64, (row.images,))


def _images(segment: Segment, row: SegmentRow, images: dict[int, str]) -> Iterator[tuple[str, str]]:
    """What is wrong with the ordinals and ids of the images: file and fault."""
    ordinals = segment.ordinals
    if not ascends(ordinals) or (len(ordinals) and ordinals[-1] >= row.stop):
        yield "ordinals.npy", f"the ordinals do not ascend, all below {row.stop}"
    if not np.all(np.isin(row.removed, ordinals)):
        yield "ordinals.npy", "the catalogue removed images that it does not have"
    live = row.live(ordinals).tolist()
    held = {number: id_ for number, id_, alive in zip(ordinals.tolist(), segment.ids, live, strict=True) if alive}
    if held != images:
        number, id_ = min(held.items() ^ images.items())
        which = "does not have" if images.get(number) == id_ else "alone has"
        yield "id_bytes.npy", f"the ids are not those of the catalogue: it {which} {id_!r}"
