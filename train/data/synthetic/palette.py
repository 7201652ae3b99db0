"""The shared colours. They repeat among places, so that colour alone does not name one."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.random import Generator

T = TypeVar("T")
Colour = tuple[int, int, int]  # RGB

WALLS: tuple[Colour, ...] = ((168, 92, 70), (186, 150, 112), (216, 204, 180), (172, 168, 160), (204, 160, 112))
TRIMS: tuple[Colour, ...] = ((232, 226, 212), (190, 178, 158), (116, 104, 94))
PAINTS: tuple[Colour, ...] = ((44, 76, 58), (40, 58, 92), (118, 38, 38), (74, 54, 42), (204, 200, 190))
ROOFS: tuple[Colour, ...] = ((146, 78, 58), (82, 84, 92), (104, 90, 80))
LEAVES: tuple[Colour, ...] = ((52, 84, 40), (74, 106, 50), (96, 122, 62), (40, 66, 36))
SKINS: tuple[Colour, ...] = ((226, 184, 150), (150, 104, 76), (92, 64, 50))
HAIRS: tuple[Colour, ...] = ((40, 30, 26), (120, 84, 50))
WHITE: Colour = (240, 236, 226)
VIVID: tuple[Colour, ...] = ((206, 60, 50), (40, 110, 170), (236, 186, 60), (60, 140, 90), WHITE, (30, 30, 36))
GLASS: Colour = (70, 80, 90)


def toned(colour: Colour, factor: float) -> Colour:
    """Darker below 1, lighter above."""
    r, g, b = (int(np.clip(channel * factor, 0, 255)) for channel in colour)
    return r, g, b


def pick(rng: Generator, choices: Sequence[T]) -> T:
    return choices[int(rng.integers(len(choices)))]


def pick_several(rng: Generator, choices: Sequence[T], count: int) -> list[T]:
    """Different ones."""
    return [choices[i] for i in rng.permutation(len(choices))[:count]]
