"""Points, outlines and directions, in metres."""

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]  # [n, 2] or [n, 3]; also a single point or vector, [2] or [3], and matrices of them

RIGHT, UP, OUT = np.eye(3)


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
