"""The light on a place: the hour, the sun, the sky, the shadows cast and the lamps lit."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator

from train.data.synthetic.geometry import Points
from train.data.synthetic.palette import Colour
from train.data.synthetic.sheet import Texture, as_texture, mottle

SKY_SHAPE = (60, 80)  # rows and columns it is computed at: the same clouds in any size of picture
LAMPS = 32  # more than any front has windows


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
