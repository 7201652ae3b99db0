"""Where a photographer stands, and what they have in the frame."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from train.data.synthetic.geometry import UP, Points, clip
from train.data.synthetic.panel import Panel

NEAR = 0.2  # metres in front of the eye where the world begins
FOCAL = 1.1  # of a view at zoom 1, in image widths


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole whose image has its principal point in the middle."""

    eye: Points
    axes: Points  # rows: right, down and forward of the image in the world
    focal: float  # pixels
    width: int
    height: int

    @property
    def intrinsics(self) -> Points:
        return np.array([[self.focal, 0, (self.width - 1) / 2], [0, self.focal, (self.height - 1) / 2], [0, 0, 1]])

    def homography(self, panel: Panel) -> Points:
        """Takes (s, t, 1) of a panel to homogeneous pixels whose third coordinate is the depth in metres."""
        frame = np.stack([panel.right, panel.down, panel.origin - self.eye], axis=1)
        return self.intrinsics @ self.axes @ frame

    def visible(self, points: Points) -> Points:
        """Clips a polygon of the world [n, 3] to the field of view: [m, 3], homogeneous pixels; m may be 0."""
        seen = (points - self.eye) @ self.axes.T @ self.intrinsics.T
        seen = clip(seen, np.array([0.0, 0.0, 1.0]), -NEAR)
        for edge in ((1, 0, 0), (-1, 0, self.width - 1), (0, 1, 0), (0, -1, self.height - 1)):
            seen = clip(seen, np.array(edge, np.float64), 0.0)
        return seen


def photographer(rng: Generator, front_width: float, front_height: float, width: int, height: int) -> Camera:
    """Someone around the main front, who zooms on the whole of it or on a part, and does not hold quite level.

    Args:
        rng: decides.
        front_width: of the front, which stands on x = 0 at z = 0, in metres.
        front_height: of the front, in metres.
        width: of the image, in pixels.
        height: of the image, in pixels.
    """
    yaw = np.radians(rng.uniform(-33, 33))
    zoom = float(np.clip(np.exp(rng.normal(0.1, 0.25)), 0.6, 2.2))
    enough = FOCAL * max(front_width, front_height * width / height)  # metres to frame the front at zoom 1
    distance = enough * rng.uniform(0.75, 1.25)
    spread = max(0.2, 1 - 1 / zoom)  # the closer the view, the more there is to choose from
    x, y = (0.5 + spread * rng.uniform(-0.5, 0.5, 2)) * (front_width, front_height)
    target = np.array([x, y, 0.0])
    eye = np.array([x + distance * np.sin(yaw), rng.uniform(1.5, 5), distance * np.cos(yaw)])

    forward = (target - eye) / np.linalg.norm(target - eye)
    level = np.cross(forward, UP) / np.linalg.norm(np.cross(forward, UP))
    plumb = np.cross(forward, level)
    roll = np.radians(rng.normal(0, 3))
    axes = np.stack([np.cos(roll) * level + np.sin(roll) * plumb, np.cos(roll) * plumb - np.sin(roll) * level, forward])
    return Camera(eye, axes, FOCAL * width * zoom * distance / enough, width, height)
