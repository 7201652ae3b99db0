"""Matched features of two photos: a line for every pair of descriptors that share a visual word."""

from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from runtime.asmk.kernel import AsmkKernel, Matching
from runtime.encoder import Encoder
from runtime.errors import IncompatibleError
from tools.visualization.canvas import BAR, HEADING, PANEL_AREA, Photo, colour_bar, draw_dots, draw_lines, draw_photo

GAP = 0.04  # between the photos, of their height
WIDEST, THINNEST = 2.6, 0.8  # points, of the lines of the pairs with the largest and the smallest weight
DOT = 14.0  # points², at both ends
MAX_WEIGHT = 0.5  # has the brightest colour: the same in every picture, so that a weak match looks like one
FAINTEST = 0.4  # opacity of the smallest weight


def draw_matches(encoder: Encoder, query: Photo, image: Photo, top: int, assignments: int | None) -> Figure:
    """The nearest pairs of the words with the largest weights, and the score of the two photos.

    Args:
        encoder: the engine, with α and τ.
        query: the photo on the left, which is searched with.
        image: the photo on the right, as an index keeps it.
        top: pairs, at most.
        assignments: words of a query descriptor; None for the search's own. With others, the score is not the search's.

    Raises:
        HowlError: the engine refuses a photo.
    """
    kernel = encoder.first_stage
    if not isinstance(kernel, AsmkKernel):
        raise IncompatibleError(f"{encoder.path}: compares photos as a whole, there are no matched features to draw")
    if assignments is not None:
        kernel = AsmkKernel(kernel.codebook, replace(kernel.parameters, multiple_assignment=assignments))
    of_query, of_image = (encoder.extract(photo.path).need_local() for photo in (query, image))
    matching = kernel.match(of_query.descriptors, of_image.descriptors)
    chosen = strongest(matching, top)
    pairs, weights = matching.pairs[chosen], matching.weights[chosen]
    ends = of_query.positions[pairs[:, 0], :2], of_image.positions[pairs[:, 1], :2]
    return draw_pairs(query, image, *ends, weights, heading(matching, len(pairs)))


def strongest(matching: Matching, top: int) -> NDArray[np.intp]:
    """Which pairs are drawn: the nearest pair of every word, the largest weights first; then the next nearest.

    All pairs of a word have one weight, and a word of windows has hundreds of pairs: no line would be left for others.
    """
    order = np.lexsort((-matching.weights, matching.ranks))
    return order[matching.weights[order] > 0][:top]


def heading(matching: Matching, drawn: int) -> str:
    """What the two photos share, in two lines."""
    counting = int((matching.shared.weights > 0).sum())
    pairs = int((matching.weights > 0).sum())
    return f"{counting} shared visual words, score {matching.shared.score:.4f}\n{drawn} of {pairs} pairs of features"


def draw_pairs(
    left: Photo,
    right: Photo,
    left_ends: NDArray[np.float32],
    right_ends: NDArray[np.float32],
    weights: NDArray[np.float64],
    title: str,
) -> Figure:
    """Two photos of equal height, and a line for every pair of ends ([p, 2] each, in pixels of their photo)."""
    shift, factor = left.width + GAP * left.height, left.height / right.height
    total_width = shift + factor * right.width
    height = (PANEL_AREA / (left.width / left.height)) ** 0.5
    figure = Figure(figsize=(height * total_width / left.height, height + BAR + HEADING), layout="constrained")
    figure.suptitle(title, fontsize=14, fontweight="bold")
    cell = figure.subplots()
    draw_photo(cell, left)
    draw_photo(cell, right, edges=moved(right, shift, factor))
    cell.set_xlim(-0.5, total_width - 0.5)
    cell.set_ylim(left.height - 0.5, -0.5)
    cell.set_axis_off()
    share = np.minimum(weights / MAX_WEIGHT, 1)
    widths, opacity = THINNEST + (WIDEST - THINNEST) * share, FAINTEST + (1 - FAINTEST) * share
    moved_ends = (right_ends + 0.5) * factor - 0.5 + [shift, 0]
    lines = draw_lines(cell, left_ends, moved_ends, weights, widths, (0, MAX_WEIGHT), opacity)
    for ends in (left_ends, moved_ends):
        draw_dots(cell, ends, s=DOT, c=lines.to_rgba(weights), edgecolors="white", linewidths=0.4, zorder=3)
    colour_bar(figure, lines, [cell], r"weight of the shared word, $s^\alpha$", extend="max")
    return figure


def moved(photo: Photo, shift: float, factor: float) -> tuple[float, float, float, float]:
    """The edges of a photo that is enlarged by a factor about its top left corner and then moved to the right."""
    return shift - 0.5, shift + factor * photo.width - 0.5, factor * photo.height - 0.5, -0.5
