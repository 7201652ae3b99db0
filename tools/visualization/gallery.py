"""Pictures of ranked results: a row a query, right answers framed in green and wrong ones in orange."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from runtime.errors import ImageError
from runtime.io.image import load_rgb
from runtime.retriever import Retriever

# Green and orange that the colour-blind can tell apart, and a mark for those who cannot.
RIGHT, WRONG, QUERY = "#009e73", "#d55e00", "black"
MARKS = {None: "", True: "✓ ", False: "✗ "}
SIDE = 320  # pixels of a photo in the picture


@dataclass(frozen=True)
class Answer:
    """One ranked photo: its score, and whether it shows the query's place (None if nobody knows)."""

    photo: Path
    score: float
    is_right: bool | None


@dataclass(frozen=True)
class Row:
    """A query and its answers, best first."""

    query: Path
    answers: Sequence[Answer]


def ranked(retriever: Retriever, query: Path, top: int, *, by_folder: bool) -> Row:
    """A query and the photos found for it, without itself.

    Args:
        retriever: with an index whose ids are the paths of its photos, as seen from its root if it has one.
        query: a photo, in the index or not.
        top: answers, at most.
        by_folder: whether a folder holds the photos of one place, and so tells right answers from wrong ones.

    Raises:
        ImageError: the query cannot be read.
        HowlError: there is no index.
    """
    itself = query.resolve()
    found = ((Path(retriever.root or "", hit.id), hit.score) for hit in retriever.search(query, top + 1))
    others = [(photo, score) for photo, score in found if photo.resolve() != itself][:top]
    return Row(
        query,
        [
            Answer(photo, score, photo.resolve().parent == itself.parent if by_folder else None)
            for photo, score in others
        ],
    )


def draw_gallery(rows: Sequence[Row], title: str) -> Figure:
    """The picture. An answer that cannot be read any more has a cell that says so."""
    columns = 1 + max(len(row.answers) for row in rows)
    figure = Figure(figsize=(1.9 * columns, 1.75 * len(rows) + 0.5), layout="constrained")
    figure.suptitle(title)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for cells, row in zip(grid, rows, strict=True):
        _draw_photo(cells[0], row.query, "query", QUERY)
        for cell, answer in zip(cells[1:], row.answers, strict=False):
            colour = {None: QUERY, True: RIGHT, False: WRONG}[answer.is_right]
            _draw_photo(cell, answer.photo, f"{MARKS[answer.is_right]}{answer.score:.4f}", colour)
        for cell in cells[1 + len(row.answers) :]:
            cell.set_axis_off()
    return figure


def _draw_photo(cell: Axes, photo: Path, caption: str, colour: str) -> None:
    try:
        cell.imshow(load_rgb(photo, SIDE))
    except ImageError as error:
        hint = "" if photo.exists() else "; the index names photos as they were added: run this in the same folder"
        warnings.warn(f"{error}{hint}", RuntimeWarning, stacklevel=3)
        cell.text(0.5, 0.5, "cannot be read", ha="center", va="center", transform=cell.transAxes)
    cell.set_title(caption, fontsize=9, color=colour, pad=3)
    cell.set_xticks([])
    cell.set_yticks([])
    for spine in cell.spines.values():
        spine.set_color(colour)
        spine.set_linewidth(3)
