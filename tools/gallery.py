"""Pictures of ranked results: a row a query, right answers framed in green and wrong ones in red."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from runtime.image import load_rgb

RIGHT, WRONG, QUERY = "tab:green", "tab:red", "black"
SIDE = 320  # pixels of a photo in the picture


@dataclass(frozen=True)
class Answer:
    """One ranked photo: its score, and whether it shows the query's place (None where nobody knows)."""

    photo: Path
    score: float
    is_right: bool | None


@dataclass(frozen=True)
class Row:
    """A query and its answers, best first."""

    query: Path
    answers: Sequence[Answer]


def draw_gallery(rows: Sequence[Row], title: str, path: Path) -> None:
    """Writes the picture, PNG or whatever the path's suffix says."""
    columns = 1 + max(len(row.answers) for row in rows)
    figure = Figure(figsize=(1.9 * columns, 1.75 * len(rows) + 0.5), layout="constrained")
    figure.suptitle(title)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for cells, row in zip(grid, rows, strict=True):
        _draw_photo(cells[0], row.query, "query", QUERY)
        for cell, answer in zip(cells[1:], row.answers, strict=False):
            colour = {None: QUERY, True: RIGHT, False: WRONG}[answer.is_right]
            _draw_photo(cell, answer.photo, f"{answer.score:.4f}", colour)
        for cell in cells[1 + len(row.answers) :]:
            cell.set_axis_off()
    figure.savefig(path, dpi=100)


def _draw_photo(cell: Axes, photo: Path, caption: str, colour: str) -> None:
    cell.imshow(load_rgb(photo, SIDE))
    cell.set_title(caption, fontsize=8, color=colour, pad=3)
    cell.set_xticks([])
    cell.set_yticks([])
    for spine in cell.spines.values():
        spine.set_color(colour)
        spine.set_linewidth(3)
