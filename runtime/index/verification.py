"""Every checksum and invariant of an index on the disk, checked."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.asmk.inverted_file import MAX_IMAGES
from runtime.asmk.kernel import CODE_BITS, code_length
from runtime.errors import HowlError
from runtime.index.arrays import Checksum, check_file
from runtime.index.catalogue import Catalogue, SegmentRow
from runtime.index.segment import FILES, Segment, load_segment

CATALOGUE = "catalogue.sqlite"
SEGMENT_PREFIX = "segment-"
BLOCK = 1 << 20  # entries that are looked at together: memory stays small


@dataclass(frozen=True)
class Verification:
    """What was found.

    Attributes:
        damages: a line each that names the file; an index is whole where there are none.
        orphans: folders of segments that the catalogue does not name. A killed writer left them behind, and the next
            one deletes them: they are no damage.
        segments: that the catalogue names.
        images: stored in them, with those that were removed.
        entries: of them.
    """

    damages: list[str]
    orphans: list[Path]
    segments: int
    images: int
    entries: int


def verify(path: Path, progress: Callable[[int], object] = lambda images: None) -> Verification:
    """Checks the last commit of an index, and goes on behind every damage. A writer may commit meanwhile.

    Args:
        path: of the index.
        progress: is told after every segment how many images it has.

    Raises:
        HowlError: the catalogue cannot be read, so that there is nothing to check by; or its format is newer.
    """
    catalogue = Catalogue(path / CATALOGUE)
    try:
        return _verify(path, catalogue, progress)
    finally:
        catalogue.close()


def _verify(path: Path, catalogue: Catalogue, progress: Callable[[int], object]) -> Verification:
    catalogue.metadata("fingerprint")
    dimensions = catalogue.number("dimensions")
    damages = [f"{catalogue.path}: damaged ({line})" for line in catalogue.integrity()]
    with catalogue.reading():
        rows = catalogue.segments()
        ordinals, ids = catalogue.images()
        removed = catalogue.removed()
    orphans = [folder for folder in path.glob(f"{SEGMENT_PREFIX}*") if folder.name not in {row.name for row in rows}]
    damages += [f"{catalogue.path}: damaged ({line})" for line in _numbering(rows, ordinals, removed)]
    for row in rows:
        part = slice(*np.searchsorted(ordinals, [row.start, row.stop]))
        found = list(_segment(path, row, dimensions, dict(zip(ordinals[part].tolist(), ids[part], strict=True))))
        if found and row.name in catalogue.segment_names():  # a writer may have replaced it meanwhile
            damages += found
        progress(row.images)
    return Verification(damages, orphans, len(rows), sum(row.images for row in rows), sum(row.entries for row in rows))


def _numbering(rows: list[SegmentRow], ordinals: NDArray[np.int64], removed: NDArray[np.int64]) -> Iterator[str]:
    """What is wrong between the tables of the catalogue."""
    bounds = np.array([bound for row in rows for bound in (row.start, row.stop)], np.int64)
    if np.any(bounds[:-1] > bounds[1:]) or np.any(bounds[0::2] >= bounds[1::2]):
        yield "two segments answer for the same images"
    for what, some in (("holds images", ordinals), ("removed images", removed)):
        # Inside of a segment's range, an odd number of bounds lie at or below.
        if np.any(np.searchsorted(bounds, some, side="right") % 2 == 0):
            yield f"it {what} of no segment"
    if np.any(np.diff(ordinals) == 0):
        yield "two images have the same number"
    if len(np.intersect1d(ordinals, removed)):
        yield "it both holds and removed an image"


def _segment(path: Path, row: SegmentRow, dimensions: int, images: dict[int, str]) -> Iterator[str]:
    """The damages of a segment; ``images`` are the ordinals and ids that the catalogue says are in it."""
    folder = path / row.name
    damages = [line for name in FILES if (line := _sum(folder / name, row.checksums[name]))]
    yield from damages
    if damages:
        return  # what follows would only name the same again
    try:
        segment = load_segment(folder, row.checksums, row.entries, code_length(dimensions))
    except (HowlError, ValueError, IndexError) as error:
        yield str(error) if isinstance(error, HowlError) else f"{folder}: damaged ({error})"
        return
    shapes = [*_shapes(segment, row)]
    for file, line in shapes or (*_entries(segment, dimensions), *_images(segment, row, images)):
        yield f"{folder / file}: damaged ({line})"


def _sum(path: Path, expected: Checksum) -> str | None:
    """How a file is not what was written, None where it is."""
    try:
        check_file(path, expected)
    except HowlError as error:
        return str(error)
    return None


def _shapes(segment: Segment, row: SegmentRow) -> Iterator[tuple[str, str]]:
    """Arrays that do not fit to each other: file and fault. What follows relies on them."""
    inverted_file, ids = segment.inverted_file, segment.ids
    for file, array, dtype, length in (
        ("words.npy", inverted_file.words, np.uint32, len(inverted_file.offsets) - 1),
        ("offsets.npy", inverted_file.offsets, np.int64, len(inverted_file.words) + 1),
        ("word_counts.npy", inverted_file.word_counts, np.uint32, row.images),
        ("id_bytes.npy", ids.text, np.uint8, ids.ends[-1] if len(ids) else 0),
        ("id_ends.npy", ids.ends, np.int64, row.images),
        ("ordinals.npy", segment.ordinals, np.int64, row.images),
    ):
        if array.dtype != dtype or array.shape != (length,):
            yield file, f"{array.dtype} {list(array.shape)} instead of {np.dtype(dtype)} [{length}]"


def _entries(segment: Segment, dimensions: int) -> Iterator[tuple[str, str]]:
    """What is wrong with the inverted file: file and fault."""
    inverted_file = segment.inverted_file
    offsets, images = inverted_file.offsets, inverted_file.images
    if not _ascends(inverted_file.words):
        yield "words.npy", "the words do not ascend"
    if offsets[0] != 0 or not _ascends(offsets) or offsets[-1] != len(images):
        yield "offsets.npy", "the offsets do not ascend from 0 to the number of entries"
        return
    counts = np.zeros(MAX_IMAGES, np.int64)
    begins = np.zeros(len(images) + 1, bool)  # the entries that are the first of a word
    begins[offsets] = True
    ascending = True
    for start in range(0, len(images), BLOCK):
        some = images[start : start + BLOCK + 1]  # one more, to compare with
        counts += np.bincount(some[:BLOCK], minlength=MAX_IMAGES)
        ascending &= bool(np.all((some[1:] > some[:-1]) | begins[start + 1 : start + len(some)]))
    if not ascending:
        yield "images.npy", "the images of a word do not ascend"
    if np.any(counts[len(segment) :]):
        yield "images.npy", f"it names images beyond the {len(segment)} of the segment"
    if np.any(counts[: len(segment)] != inverted_file.word_counts):
        yield "word_counts.npy", "the counts are not those of the entries"
    if _has_padding(inverted_file.codes, dimensions):
        yield "codes.npy", f"bits beyond the {dimensions} of a code are set"


def _images(segment: Segment, row: SegmentRow, images: dict[int, str]) -> Iterator[tuple[str, str]]:
    """What is wrong with the ordinals and ids of the images: file and fault."""
    ordinals = segment.ordinals
    if not _ascends(ordinals) or (len(ordinals) and ordinals[-1] >= row.stop):
        yield "ordinals.npy", f"the ordinals do not ascend, all below {row.stop}"
    if not np.all(np.isin(row.removed, ordinals)):
        yield "ordinals.npy", "the catalogue removed images that it does not have"
    try:
        ids = list(segment.ids)
    except UnicodeDecodeError:
        yield "id_bytes.npy", "an id is no Unicode text"
        return
    live = row.live(ordinals).tolist()
    held = {number: id_ for number, id_, alive in zip(ordinals.tolist(), ids, live, strict=True) if alive}
    if held != images:
        number, id_ = min(held.items() ^ images.items())
        which = "does not have" if images.get(number) == id_ else "alone has"
        yield "id_bytes.npy", f"the ids are not those of the catalogue: it {which} {id_!r}"


def _ascends(array: NDArray) -> bool:
    return bool(np.all(array[1:] > array[:-1]))


def _has_padding(codes: NDArray[np.uint64], dimensions: int) -> bool:
    """Whether bits are set beyond the D of a code."""
    if dimensions % CODE_BITS == 0:
        return False
    beyond = np.uint64(dimensions % CODE_BITS)
    return any(np.any(codes[start : start + BLOCK, -1] >> beyond) for start in range(0, len(codes), BLOCK))
