"""What a place is made of: points, colours, sheets to draw on in metres, masonry, and panels hung into the world."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

Points = NDArray[np.float64]  # [n, 2] or [n, 3]; also a single point or vector, [2] or [3], and matrices of them
Texture = NDArray[np.uint8]  # [h, w, 3], or [h, w, 4] where the last channel cuts a shape out of the panel
Colour = tuple[int, int, int]  # RGB
T = TypeVar("T")

RIGHT, UP, OUT = np.eye(3)

DENSITY = 40.0  # pixels per metre: about as many as a close-up shows
SUBPIXEL_BITS = 4  # of the fixed-point coordinates that OpenCV draws with
PYRAMID_LEVELS = 5  # of a panel's texture at most
MIN_LEVEL = 16  # texels: a texture with a shorter side is not halved again
ENDLESS = 1000.0  # longer than anything built

# They repeat among places, so that colour alone does not name one.
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


def rectangle(x: float, y: float, width: float, height: float) -> Points:
    """Four corners [4, 2], the first of them (x, y)."""
    return np.array([(x, y), (x + width, y), (x + width, y + height), (x, y + height)])


def arc(x: float, y: float, radius: float, start: float = 0.0, end: float = 2 * np.pi) -> Points:
    """Points [17, 2] on a circle, in radians from its right end; where y points down, clockwise."""
    angles = np.linspace(start, end, 17)
    return np.column_stack([x + radius * np.cos(angles), y + radius * np.sin(angles)])


def clip(polygon: Points, inside: Points, offset: float) -> Points:
    """The part of a polygon [n, 3] where inside · p + offset ≥ 0 (Sutherland and Hodgman)."""
    heights = polygon @ inside + offset
    if (heights >= 0).all():
        return polygon
    kept = []
    for i in range(len(polygon)):
        before, here = heights[i - 1], heights[i]
        if (before >= 0) != (here >= 0):
            kept.append(polygon[i - 1] + before / (before - here) * (polygon[i] - polygon[i - 1]))
        if here >= 0:
            kept.append(polygon[i])
    return np.array(kept).reshape(-1, 3)


def toned(colour: Colour, factor: float) -> Colour:
    """Darker below 1, lighter above."""
    r, g, b = (int(np.clip(channel * factor, 0, 255)) for channel in colour)
    return r, g, b


def pick(rng: Generator, choices: Sequence[T]) -> T:
    return choices[int(rng.integers(len(choices)))]


def pick_several(rng: Generator, choices: Sequence[T], count: int) -> list[T]:
    """Different ones."""
    return [choices[i] for i in rng.permutation(len(choices))[:count]]


@dataclass(frozen=True, eq=False)
class Sheet:
    """A texture to draw on: x to the right, y down from its top left corner."""

    texture: Texture
    density: float = DENSITY

    @classmethod
    def blank(cls, width: float, height: float, colour: Colour) -> "Sheet":
        return cls(np.full((round(height * DENSITY), round(width * DENSITY), 3), colour, np.uint8))

    @classmethod
    def clear(cls, width: float, height: float, tint: Colour) -> "Sheet":
        """Nothing but a transparent colour, which tinges the edges of what is drawn."""
        return cls(np.full((round(height * DENSITY), round(width * DENSITY), 4), (*tint, 0), np.uint8))

    @property
    def size(self) -> tuple[float, float]:
        """Width and height."""
        return self.texture.shape[1] / self.density, self.texture.shape[0] / self.density

    def polygon(self, points: ArrayLike, colour: Colour) -> None:
        cv2.fillPoly(self.texture, [self._pixels(points)], (*colour, 255), cv2.LINE_AA, SUBPIXEL_BITS)

    def box(self, x: float, y: float, width: float, height: float, colour: Colour) -> None:
        self.polygon(rectangle(x, y, width, height), colour)

    def disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        self.polygon(arc(x, y, radius), colour)

    def stroke(self, points: ArrayLike, colour: Colour, breadth: float, closed: bool = False) -> None:
        thickness = max(1, round(breadth * self.density))
        lines = [self._pixels(points)]
        cv2.polylines(self.texture, lines, closed, (*colour, 255), thickness, cv2.LINE_AA, SUBPIXEL_BITS)

    def paste(self, other: "Sheet", y: float) -> None:
        """Lays an equally broad sheet over this one, from y down."""
        rows = self.texture[round(y * self.density) :][: len(other.texture)]
        rows[...] = other.texture[: len(rows)]

    def cut(self, width: float) -> "Sheet":
        """A copy of the left end."""
        return Sheet(np.ascontiguousarray(self.texture[:, : round(width * self.density)]), self.density)

    def _pixels(self, points: ArrayLike) -> NDArray[np.int32]:
        return fixed_point(np.asarray(points, np.float64) * self.density - 0.5)


def mottle(rng: Generator, shape: tuple[int, int], cells: int) -> NDArray[np.float32]:
    """Smooth noise of about unit variance, float32 of that shape (rows, columns), about ``cells`` bumps across."""
    down = max(2, round(cells * shape[0] / shape[1]))
    bumps = rng.standard_normal((down, cells), dtype=np.float32)
    return np.asarray(cv2.resize(bumps, shape[::-1], interpolation=cv2.INTER_CUBIC), np.float32)


def fixed_point(pixels: Points) -> NDArray[np.int32]:
    """Coordinates as OpenCV draws with, at ``shift=SUBPIXEL_BITS``."""
    return np.round(pixels * 2**SUBPIXEL_BITS).astype(np.int32)


def shrunk(texture: Texture, width: int, height: int) -> Texture:
    """The texture in fewer pixels, each the mean of those it replaces."""
    return as_texture(cv2.resize(texture, (width, height), interpolation=cv2.INTER_AREA))


def as_texture(result: object) -> Texture:
    """An image that OpenCV returned: its type hints leave open what it holds, but bytes in are bytes out."""
    return np.asarray(result, np.uint8)


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
