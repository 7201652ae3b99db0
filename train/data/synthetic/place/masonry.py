"""Bare walls, roofs and pavements."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from train.data.synthetic.palette import Colour
from train.data.synthetic.sheet import DENSITY, Sheet, mottle

ENDLESS = 1000.0  # longer than anything built


@dataclass(frozen=True)
class Masonry:
    """Courses of equal units, every second course shifted by half a unit; lengths in metres."""

    width: float
    height: float
    joint: float
    variation: float  # how far units differ in tone


BRICK = Masonry(0.3, 0.1, 0.02, 0.1)
STONE = Masonry(0.9, 0.42, 0.03, 0.07)
PLASTER = Masonry(ENDLESS, ENDLESS, 0.0, 0.0)
BOARDS = Masonry(ENDLESS, 0.2, 0.03, 0.04)
TILES = Masonry(0.28, 0.24, 0.035, 0.11)
SLABS = Masonry(1.2, 0.8, 0.1, 0.06)


def surface(
    rng: Generator, masonry: Masonry, colour: Colour, width: float, height: float, density: float = DENSITY
) -> Sheet:
    """A sheet of one masonry, stained and grainy; ``density`` in pixels per metre."""
    shape = (round(height * density), round(width * density))
    ys, xs = np.arange(shape[0]) / density / masonry.height, np.arange(shape[1]) / density / masonry.width
    courses = ys.astype(int)
    shifted = xs + 0.5 * (courses % 2)[:, None]
    units = rng.standard_normal((courses[-1] + 1, int(xs[-1]) + 2), dtype=np.float32)
    in_joint = (ys % 1 * masonry.height < masonry.joint)[:, None] | (shifted % 1 * masonry.width < masonry.joint)

    tone = 1 + 0.035 * mottle(rng, shape, 5) + 0.03 * rng.standard_normal(shape, dtype=np.float32)
    tone += masonry.variation * units[courses[:, None], shifted.astype(int)]
    tone *= np.where(in_joint, np.float32(0.78), np.float32(1))
    texture = tone[..., None] * np.array(colour, np.float32)
    return Sheet(texture.clip(0, 255).astype(np.uint8), density)
