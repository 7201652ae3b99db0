"""Opening an index: the folder that a path leads to, its catalogue, and the segments of one commit."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from runtime.errors import HowlError, WriterBusyError
from runtime.first_stage import Layout
from runtime.index.catalogue import Catalogue, SegmentRow
from runtime.index.segment import Segment, load_segment
from runtime.index.verification import CATALOGUE

OPENING_ATTEMPTS = 100  # another one is needed only if a writer replaces segments during the last


class Part(NamedTuple):
    """A segment of an open index.

    Attributes:
        segment: its images.
        live: bool [n], which of them were not removed.
    """

    segment: Segment
    live: NDArray[np.bool_]


def open_at(place: Path) -> tuple[Path, Catalogue, dict[str, Part]]:
    """The index that lies at a path: its folder, its open catalogue, and the segments of its last commit, by name.

    Raises:
        HowlError: it is missing or damaged; the line names the file.
    """
    for _ in range(OPENING_ATTEMPTS):
        folder = place.resolve()
        catalogue = Catalogue(folder / CATALOGUE)
        try:
            if catalogue.is_at(place / CATALOGUE):
                return folder, catalogue, load_commit(folder, catalogue, {})
        except BaseException as error:
            is_in_place = catalogue.is_at(place / CATALOGUE)
            catalogue.close()
            if is_in_place or not isinstance(error, HowlError):
                raise
        else:
            catalogue.close()  # another index took its place between two steps
    raise WriterBusyError(f"{place}: it is replaced faster than it can be opened; try again later")


def load_commit(folder: Path, catalogue: Catalogue, known: Mapping[str, Part]) -> dict[str, Part]:
    """The segments of an index's last commit, by name, in the order of addition.

    Args:
        folder: of the index.
        catalogue: of the index.
        known: its segments that are open already.

    Raises:
        HowlError: a file of the commit is missing or damaged; the line names it.
    """
    for _ in range(OPENING_ATTEMPTS):
        with catalogue.reading():
            rows = catalogue.segments()
        try:
            return {row.name: load_part(folder, row, catalogue.layout, known) for row in rows}
        except HowlError:
            # A writer may have replaced and deleted a segment since the catalogue was read.
            if {row.name for row in rows} <= catalogue.segment_names():
                raise
    raise WriterBusyError(f"{folder}: it changes faster than it can be read; try again later")


def load_part(folder: Path, row: SegmentRow, layout: Layout, known: Mapping[str, Part]) -> Part:
    """A segment that the catalogue names, opened if it is not among the known ones."""
    if row.name in known:
        segment = known[row.name].segment
    else:
        segment = load_segment(folder / row.name, row.checksums, row.entries, layout)
    return Part(segment, row.live(segment.ordinals))
