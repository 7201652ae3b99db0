"""The canvas: photos side by side, with maps and lines over them in pixels of the photo, and the file it becomes.

Colours keep their order in grey and for the colour-blind: plasma for amounts, purple to orange for differences.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from runtime.errors import UsageError
from runtime.io.files import atomic_write, ensure_writable
from runtime.io.image import Image, load_rgb, shrink

AMOUNT, DIFFERENCE = "plasma", "PuOr_r"  # colour maps
MIN_RANGE = 0.02  # that fills a colour scale, relative to what it shows, or to 1
OPACITY = 0.6  # of a map over its photo
PANEL_AREA, SINGLE_AREA = 20.0, 42.0  # square inches of a photo, beside others and alone
BAR, HEADING = 0.7, 0.75  # inches of height that colour bars and titles take
HEADING_LETTERS, TITLE_LETTERS = 7, 10  # that an inch has room for
THICKNESS = 0.18  # inches of a colour bar
GREY = -80, 300  # values of a photo that become black and white: what is drawn on it shall stand out
DRAWN_SIDE = 1024  # pixels of a photo that are drawn, at most
DPI = 130


@dataclass(frozen=True)
class Photo:
    """A photo to draw on.

    Attributes:
        path: of its file.
        full: RGB uint8 [H, W, 3], as it is on the disk; all positions are in its pixels.
    """

    path: Path
    full: Image

    @classmethod
    def load(cls, path: Path) -> "Photo":
        """Raises ImageError if it cannot be read."""
        return cls(path, load_rgb(path))

    @property
    def width(self) -> int:
        return self.full.shape[1]

    @property
    def height(self) -> int:
        return self.full.shape[0]

    @property
    def edges(self) -> tuple[float, float, float, float]:
        """Left, right, bottom and top, for matplotlib: pixel centres are whole numbers."""
        return -0.5, self.width - 0.5, self.height - 0.5, -0.5


@dataclass(frozen=True)
class View:
    """How a network looks at a photo.

    Attributes:
        image_size: longest side, in pixels, to which a larger photo is shrunk; None for the checkpoint's.
        scale: of the pyramid.
    """

    image_size: int | None = None
    scale: float = 1.0


def check_output(path: Path, inputs: Iterable[Path]) -> None:
    """Raises HowlError, before any work, if a picture cannot become this file or would overwrite an input."""
    suffixes = Figure().canvas.get_supported_filetypes()
    if path.suffix.lower().removeprefix(".") not in suffixes:
        raise UsageError(f"--out {path}: matplotlib cannot write such a file; use .png")
    if path.is_dir():
        raise UsageError(f"--out {path}: is a folder; name a file in it")
    if path.exists() and any(other.exists() and path.samefile(other) for other in inputs):
        raise UsageError(f"--out {path}: is what the picture is made of; name another file")
    ensure_writable(path)


def save(figure: Figure, path: Path) -> None:
    """Writes a picture whole or not at all, in the format that the suffix says. Raises HowlError."""
    with atomic_write(path) as file:
        figure.savefig(file, format=path.suffix.lower().removeprefix("."), dpi=DPI)


def photo_panels(photo: Photo, titles: Sequence[str], heading: str) -> tuple[Figure, list[Axes]]:
    """A figure with the photo, in grey, once for each title, with room for colour bars below."""
    area = PANEL_AREA if len(titles) > 1 else SINGLE_AREA
    width = (area * photo.width / photo.height) ** 0.5
    height = area / width
    figure = Figure(figsize=(width * len(titles), height + BAR + HEADING), layout="constrained")
    figure.suptitle(fill(heading, int(HEADING_LETTERS * width * len(titles))), fontsize=15, fontweight="bold")
    cells = list(figure.subplots(1, len(titles), squeeze=False)[0])
    for cell, title in zip(cells, titles, strict=True):
        cell.set_title(fill(title, int(TITLE_LETTERS * width)), fontsize=12)
        draw_photo(cell, photo, grey=True)
        show_only(cell, photo)
    return figure, cells


def draw_photo(
    cell: Axes, photo: Photo, *, grey: bool = False, edges: tuple[float, float, float, float] | None = None
) -> None:
    """The photo in its own pixels, or between other edges (left, right, bottom, top)."""
    pixels = shrink(photo.full, DRAWN_SIDE)
    if grey:
        cell.imshow(pixels.mean(axis=2), cmap="gray", vmin=GREY[0], vmax=GREY[1], extent=edges or photo.edges)
    else:
        cell.imshow(pixels, extent=edges or photo.edges)


def show_only(cell: Axes, photo: Photo) -> None:
    """The photo's pixels fill the cell, and no ticks."""
    left, right, bottom, top = photo.edges
    cell.set_xlim(left, right)
    cell.set_ylim(bottom, top)
    cell.set_axis_off()


def draw_map(
    cell: Axes,
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    values: NDArray[np.float32],
    limits: tuple[float, float],
    colours: str = AMOUNT,
) -> AxesImage:
    """A map over its photo: cell (row, column) is centred on pixel ``x[column], y[row]``.

    Outer cells reach on to the photo's edge; what exceeds it is cut.
    """
    left, right, bottom, top = cell.get_xlim() + cell.get_ylim()
    (first_x, last_x), (first_y, last_y) = cell_edges(x, right - left), cell_edges(y, bottom - top)
    drawn = cell.imshow(
        np.pad(values, 1, mode="edge"),
        cmap=colours,
        vmin=limits[0],
        vmax=limits[1],
        alpha=OPACITY,
        extent=(first_x, last_x, last_y, first_y),
        interpolation="bilinear",
    )
    cell.set_xlim(left, right)
    cell.set_ylim(bottom, top)
    return drawn


def cell_edges(centres: NDArray[np.float32], side: float) -> tuple[float, float]:
    """Where a row of evenly spaced cells begins and ends, with one more cell on either side.

    The map's own may end a little before the photo does. A single cell is as wide as the photo's side.
    """
    step = float(centres[1] - centres[0]) if len(centres) > 1 else side
    return float(centres[0]) - 1.5 * step, float(centres[-1]) + 1.5 * step


def draw_lines(
    cell: Axes,
    starts: NDArray[np.floating],
    ends: NDArray[np.floating],
    values: NDArray[np.floating],
    widths: NDArray[np.floating],
    limits: tuple[float, float],
    opacity: NDArray[np.floating] | float = 1.0,
) -> LineCollection:
    """Lines from ``starts`` to ``ends``, [n, 2] each, coloured by their values [n]; the largest on top.

    ``widths`` [n] are in points; the colours go from one of the limits to the other.
    """
    order = np.argsort(values, kind="stable")
    lines = LineCollection(
        list(np.stack((starts[order], ends[order]), axis=1)),
        linewidths=widths[order].tolist(),
        alpha=opacity if isinstance(opacity, float) else opacity[order] if len(order) else None,
        cmap=AMOUNT,
        norm=Normalize(*limits),
        capstyle="round",
    )
    lines.set_array(values[order])
    cell.add_collection(lines, autolim=False)
    return lines


def draw_dots(cell: Axes, positions: NDArray[np.floating], **style: Any) -> PathCollection:
    """A dot on every position, [n, 2], as matplotlib's ``scatter`` is told."""
    return cell.scatter(positions[:, 0], positions[:, 1], **style)


def limits_of(values: NDArray[np.floating]) -> tuple[float, float]:
    """The least and the largest value, but some way apart: colours must not make much of what is nearly equal."""
    if values.size == 0:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    room = max(0.0, MIN_RANGE * max(1.0, abs(high)) - (high - low)) / 2
    return low - room, high + room


def colour_bar(
    figure: Figure, drawn: ScalarMappable, cells: Sequence[Axes], label: str, extend: str = "neither"
) -> None:
    """The key to a colour map, below the cells that use it.

    ``extend``: at which ends values go beyond the colours: ``neither``, ``min``, ``max`` or ``both``.
    """
    width = figure.get_figwidth() * sum(cell.get_position().width for cell in cells)
    opaque = ScalarMappable(drawn.norm, drawn.cmap)
    bar = figure.colorbar(opaque, ax=list(cells), location="bottom", aspect=width / THICKNESS, pad=0.02, extend=extend)
    bar.set_label(label, fontsize=12)
