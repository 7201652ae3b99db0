"""Attention over a photo: before and after the refinements, or of one network against another's."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from numpy.typing import NDArray

from runtime.bundle import is_engine
from runtime.encoder import Encoder
from runtime.errors import IncompatibleError
from tools.visualization.canvas import AMOUNT, DIFFERENCE, Photo, View, colour_bar, draw_dots, draw_map, photo_panels

DOT = 12.0  # points²: a feature of scale 1; those of smaller scales cover more of the photo
LARGEST_DOT = 150.0
MIN_DIFFERENCE = 0.01  # that fills the colour scale: what is less is no difference


@dataclass(frozen=True)
class AttentionMap:
    """The attention of every position at one scale, float32 [h, w], over its maximum; x [w] and y [h] in pixels."""

    title: str
    x: NDArray[np.float32]
    y: NDArray[np.float32]
    strengths: NDArray[np.float32]

    def draw(self, cell: Axes, limits: tuple[float, float]) -> ScalarMappable:
        return draw_map(cell, self.x, self.y, self.strengths, limits)


@dataclass(frozen=True)
class AttentionDots:
    """The strongest features of all scales: positions [n, 3] (x, y, scale) and strengths [n], the strongest first."""

    title: str
    positions: NDArray[np.float32]
    strengths: NDArray[np.float32]

    def draw(self, cell: Axes, limits: tuple[float, float]) -> ScalarMappable:
        weakest_first = slice(None, None, -1)
        sizes = np.minimum(DOT / self.positions[weakest_first, 2] ** 2, LARGEST_DOT)
        style = dict(cmap=AMOUNT, vmin=limits[0], vmax=limits[1], alpha=0.8, linewidths=0)
        return draw_dots(cell, self.positions[weakest_first], s=sizes, c=self.strengths[weakest_first], **style)


Attention = AttentionMap | AttentionDots


def draw_attention(
    model: Path, photo: Photo, against: Path | None, view: View, device: str | None = None, threads: int | None = None
) -> Figure:
    """The attention of one model, or of two, on one colour scale.

    Args:
        model: a checkpoint, of which the attention before and after its refinements is drawn; or an engine, whose
            strongest features are.
        photo: to look at.
        against: a checkpoint or an engine to compare with; then both are drawn with the attention that they choose
            their features by, this one first.
        view: of checkpoints; an engine has its own image size and scales.
        device: of engines.
        threads: CPU threads of engines; None for one per core.

    Raises:
        HowlError: a model cannot be read or run.
    """
    if against is not None:
        sides = [chosen_by(path, photo, view, device, threads) for path in (against, model)]
        heading = f"Attention: {against.name} against {model.name}"
    elif is_engine(model):
        sides = [chosen_by(model, photo, view, device, threads)]
        heading = "Attention of the strongest features"
    else:
        sides = before_and_after(model, photo, view)
        heading = f"Attention before and after refinement: {model.name}"
    return draw_sides(photo, sides, heading)


def draw_sides(photo: Photo, sides: Sequence[Attention], heading: str) -> Figure:
    """The sides one beside the other, and their difference where they are maps of the same positions."""
    change = difference(sides)
    titles = [side.title for side in sides]
    figure, cells = photo_panels(photo, titles if change is None else [*titles, "difference"], heading)
    limits = min(float(side.strengths.min()) for side in sides), 1.0
    drawn = [side.draw(cell, limits) for side, cell in zip(sides, cells, strict=False)]
    colour_bar(figure, drawn[0], cells[: len(sides)], "attention, of the image's maximum")
    if change is not None:
        most = max(float(np.abs(change.strengths).max()), MIN_DIFFERENCE)
        last = draw_map(cells[-1], change.x, change.y, change.strengths, (-most, most), DIFFERENCE)
        colour_bar(figure, last, cells[-1:], "change, in means of the image")
    return figure


def difference(sides: Sequence[Attention]) -> AttentionMap | None:
    """The second map minus the first, each over its mean: where attention went to, and where from.

    None if there are no two maps, or their positions differ.
    """
    maps = [side for side in sides if isinstance(side, AttentionMap)]
    if len(maps) != 2 or maps[0].strengths.shape != maps[1].strengths.shape:
        return None
    first, second = maps
    if not (np.allclose(first.x, second.x) and np.allclose(first.y, second.y)):
        return None
    change = second.strengths / second.strengths.mean() - first.strengths / first.strengths.mean()
    return AttentionMap("difference", first.x, first.y, change)


def chosen_by(
    model: Path, photo: Photo, view: View, device: str | None = None, threads: int | None = None
) -> Attention:
    """The attention by which a checkpoint or an engine chooses its features."""
    if is_engine(model):
        encoder = Encoder(model, device=device, threads=threads)
        features = encoder.extract(photo.path).local
        if features is None:
            raise IncompatibleError(f"{model}: describes a photo as a whole, there are no local features to draw")
        scales = ", ".join(f"{scale:g}" for scale in encoder.manifest.scales)
        title = f"{model.name}: {len(features)} features of scales {scales}"
        return AttentionDots(title, features.positions, features.strengths)
    from tools.visualization.refinements import inspect_photo, refinements

    inspected = inspect_photo(model, photo, view)
    steps = refinements(inspected.network.config)
    seen = inspected.seen
    title = f"{model.name}: {steps}" if steps else model.name
    return AttentionMap(title, seen.x, seen.y, over_maximum(seen.strengths))


def before_and_after(checkpoint: Path, photo: Photo, view: View) -> list[Attention]:
    """The attention of the backbone's features, and, where anything refines them, that after it.

    A graph re-weights attention, which is what features are chosen by; after a filter alone, features are chosen as
    before, and it is the norm of the filtered ones that is drawn.
    """
    from tools.visualization.refinements import inspect_photo, refinements

    inspected = inspect_photo(checkpoint, photo, view)
    seen, steps = inspected.seen, refinements(inspected.network.config)
    before = AttentionMap("before: the backbone's features", seen.x, seen.y, over_maximum(seen.backbone_attention))
    refined = seen.strengths if inspected.network.config.refine != "none" else seen.refined_attention
    after = AttentionMap(f"after {steps}", seen.x, seen.y, over_maximum(refined))
    return [before, after] if steps else [before]


def over_maximum(attention: NDArray[np.float32]) -> NDArray[np.float32]:
    """As strengths are: divided by the image's maximum."""
    return attention / attention.max()
