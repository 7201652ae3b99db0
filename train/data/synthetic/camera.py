"""What differs from view to view: where the photographer stands, the light on the place, and what film makes of it."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator

from train.data.synthetic.drawing import UP, Colour, Panel, Points, Texture, as_texture, clip, mottle

NEAR = 0.2  # metres in front of the eye where the world begins
FOCAL = 1.1  # of a view at zoom 1, in image widths
SKY_SHAPE = (60, 80)  # rows and columns it is computed at: the same clouds in any size of picture
LAMPS = 32  # more than any front has windows


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


@dataclass(frozen=True)
class Hour:
    """A kind of daylight."""

    zenith: Colour
    horizon: Colour
    clouds: Colour
    ambient: float
    sunlight: float
    lit: float  # share of windows with a lamp on
    warmth: float  # of the film: > 0 is redder


NOON = Hour((92, 140, 200), (196, 214, 230), (244, 244, 246), ambient=0.62, sunlight=0.55, lit=0.0, warmth=0.05)
OVERCAST = Hour((170, 178, 190), (206, 210, 214), (226, 228, 230), ambient=0.85, sunlight=0.08, lit=0.04, warmth=-0.04)
SUNSET = Hour((88, 96, 150), (238, 176, 130), (214, 150, 140), ambient=0.5, sunlight=0.4, lit=0.3, warmth=0.16)
NIGHT = Hour((26, 32, 62), (70, 70, 98), (58, 60, 80), ambient=0.48, sunlight=0.04, lit=0.5, warmth=-0.08)
HOURS = (NOON, OVERCAST, SUNSET, NIGHT)
HOUR_ODDS = (0.45, 0.33, 0.13, 0.09)


@dataclass(frozen=True, eq=False)
class Weather:
    hour: Hour
    sun: Points  # unit vector towards it
    shadows: tuple[Points, ...]  # cast on fronts, (s, t) outlines
    lamps: Points  # one number in [0, 1) per window: lit where below the hour's share

    def light(self, facing: float) -> float:
        """The light on a panel, by the cosine between its normal and the sun."""
        return self.hour.ambient + self.hour.sunlight * max(0.0, facing)


def weather_over(rng: Generator, front_width: float, front_height: float) -> Weather:
    """Any weather; its shadows fall on a front of this size, in metres."""
    hour = HOURS[rng.choice(len(HOURS), p=HOUR_ODDS)]
    azimuth, elevation = np.radians(rng.uniform(-75, 75)), np.radians(rng.uniform(15, 60))
    sun = np.array([np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation)])
    casts = hour.sunlight > 0.3 and rng.random() < 0.5
    shadows = _cast_shadows(rng, front_width, front_height) if casts else ()
    return Weather(hour, sun, shadows, rng.random(LAMPS))


def _cast_shadows(rng: Generator, width: float, height: float) -> tuple[Points, ...]:
    """Of something slender across the street: slanted bands."""
    slant = rng.uniform(-0.6, 0.6) * height
    return tuple(
        np.array([(x, -2.0), (x + breadth, -2.0), (x + breadth + slant, height + 5), (x + slant, height + 5)])
        for x, breadth in rng.uniform((-0.1 * width, 0.2), (width, 1.6), (3, 2))
    )


def sky(rng: Generator, hour: Hour, width: int, height: int) -> Texture:
    """The canvas before anything stands on it, uint8 [height, width, 3]: a gradient and some clouds."""
    down = np.linspace(0, 1, SKY_SHAPE[0])[:, None, None] ** 1.5
    colours = (1 - down) * hour.zenith + down * hour.horizon
    billows = sum(mottle(rng, SKY_SHAPE, cells) / cells**0.5 for cells in (3, 7, 15))
    cover = np.clip(billows * 0.8 + rng.uniform(-0.3, 0.6), 0, 1)[..., None]
    colours = (1 - cover) * colours + cover * hour.clouds
    return as_texture(cv2.resize(colours.clip(0, 255).astype(np.uint8), (width, height)))


def develop(rng: Generator, image: Texture, warmth: float) -> Texture:
    """The photo of what was seen, uint8 [h, w, 3]; ``warmth`` of the light, > 0 is redder."""
    blur = rng.normal(0.2, 0.3)
    if blur > 0.3:  # less would not show
        image = as_texture(cv2.GaussianBlur(image, (0, 0), blur))
    image = as_texture(cv2.LUT(image, _tones(rng, warmth)))
    noise, quality = rng.uniform(1, 4), int(rng.integers(40, 96))
    grain = rng.standard_normal(image.shape[:2], dtype=np.float32) * np.float32(noise)
    image = (image + grain[..., None]).clip(0, 255).astype(np.uint8)
    _, file = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.ascontiguousarray(as_texture(cv2.imdecode(file, cv2.IMREAD_COLOR))[..., ::-1])


def _tones(rng: Generator, warmth: float) -> Texture:
    """The film's curve: uint8 [256, 1, 3]."""
    brightness, contrast, gamma = rng.uniform((0.82, 0.8, 0.8), (1.18, 1.2, 1.25))
    curve = (0.5 + contrast * (np.linspace(0, 1, 256)[:, None] ** gamma - 0.5)) * brightness
    tint = 1 + (warmth + rng.normal(0, 0.06)) * np.array([1, 0.1, -1])
    return (curve * tint * 255).clip(0, 255).astype(np.uint8)[:, None]
