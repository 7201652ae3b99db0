"""Textures, and drawing on them in metres."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

from train.data.synthetic.geometry import Points, arc, rectangle
from train.data.synthetic.palette import Colour

Texture = NDArray[np.uint8]  # [h, w, 3], or [h, w, 4] where the last channel cuts a shape out of the panel

DENSITY = 40.0  # pixels per metre: about as many as a close-up shows
SUBPIXEL_BITS = 4  # of the fixed-point coordinates that OpenCV draws with


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
