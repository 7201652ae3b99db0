"""The flat textured pieces that a place is made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from train.data.synthetic.geometry import RIGHT, UP, Points, rectangle
from train.data.synthetic.sheet import Sheet, Texture, shrunk

PYRAMID_LEVELS = 5
MIN_LEVEL = 16  # texels


@dataclass(frozen=True, eq=False)
class Panel:
    """A sheet in the world. Points on it are (s, t): metres right and down from its origin."""

    pyramid: tuple[Texture, ...]  # the texture, then halved and halved again
    size: tuple[float, float]
    origin: Points
    right: Points  # unit vectors
    down: Points
    outline: Points  # [n, 2], the part of the texture that is there
    windows: tuple[Points, ...]  # outlines of the panes that may be lit at night

    @property
    def is_cutout(self) -> bool:
        """Whether the texture is partly transparent; such a panel is seen from behind too."""
        return self.pyramid[0].shape[2] == 4

    @cached_property
    def normal(self) -> Points:
        return np.cross(self.down, self.right)

    def at(self, points: Points) -> Points:
        """Points on the panel [n, 2] in the world [n, 3]."""
        return self.origin + points[:, :1] * self.right + points[:, 1:] * self.down


def hang(
    sheet: Sheet,
    origin: ArrayLike,
    right: Points = RIGHT,
    down: Points = -UP,
    outline: Points | None = None,
    windows: Sequence[Points] = (),
) -> Panel:
    """Puts a sheet into the world by its top left corner; without an outline, the whole of it."""
    pyramid = [sheet.texture]
    while len(pyramid) < PYRAMID_LEVELS and min(pyramid[-1].shape[:2]) >= MIN_LEVEL:
        rows, columns = pyramid[-1].shape[:2]
        pyramid.append(shrunk(pyramid[-1], columns // 2, rows // 2))
    outline = rectangle(0, 0, *sheet.size) if outline is None else outline
    return Panel(tuple(pyramid), sheet.size, np.asarray(origin, np.float64), right, down, outline, tuple(windows))


def stand(sheet: Sheet, x: float, z: float) -> Panel:
    """Puts a sheet upright on the ground, centred on x."""
    width, height = sheet.size
    return hang(sheet, (x - width / 2, height, z))
