"""The plot of an ablation: every seed a point, their mean a line, a panel a test set."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tools.environment import load_pyplot
from tools.experiments.ablation.figures import columns, points
from tools.experiments.ablation.runs import ROWS
from tools.experiments.ablation.tables import backbones

WIDTH = 0.8  # that the backbones of a row share


def draw(results: Sequence[Mapping[str, Any]], path: Path) -> None:
    pyplot = load_pyplot()
    sets, every_backbone = columns(results), backbones(results)
    figure, every_axes = pyplot.subplots(
        1, len(sets), figsize=(4.2 * len(sets), 4), layout="constrained", squeeze=False
    )
    for name, axes in zip(sets, every_axes[0], strict=True):
        for number, backbone in enumerate(every_backbone):
            draw_backbone(axes, results, backbone, name, (number + 0.5) / len(every_backbone) - 0.5, f"C{number}")
        axes.set_xticks(range(len(ROWS)), [row.label for row in ROWS.values()], rotation=15)
        axes.set(title=name, ylabel="mAP, points")
        axes.grid(axis="y", alpha=0.3)
    if len(every_backbone) > 1:
        every_axes[0][0].legend(fontsize=8)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def draw_backbone(
    axes: Any, results: Sequence[Mapping[str, Any]], backbone: str, column: str, offset: float, colour: str
) -> None:
    """A backbone's points and means in a panel, at that offset from the rows' ticks."""
    half = 0.3 * WIDTH / len(backbones(results))
    for place, row in enumerate(ROWS):
        values = list(points(results, backbone, row, column).values())
        middle = place + WIDTH * offset
        across = middle + np.linspace(-half / 2, half / 2, len(values)) if len(values) > 1 else [middle]
        axes.plot(across, values, "o", color=colour, alpha=0.6, label=backbone if place == 0 else None)
        axes.hlines(np.mean(values), middle - half, middle + half, color=colour, linewidth=2)
