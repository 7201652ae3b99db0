"""A place: the main building, its neighbours, the ground they stand on and the furniture of the street.

- ``plan``: what the architect of a building decided
- ``building``: its walls and roofs as panels
- ``facade``: what is drawn on a front: windows, doors, shops
- ``landmarks``: what makes a front unmistakable
- ``masonry``: bare walls, roofs and pavements
- ``street``: the ground, and who and what stands on it
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from train.data.synthetic.panel import Panel
from train.data.synthetic.place.building import Building, erect
from train.data.synthetic.place.plan import draw_plan
from train.data.synthetic.place.street import furnish, lay_ground

KEPT_PLACES = 64  # of about 8 MB each: as many as training draws from at random


@dataclass(frozen=True, eq=False)
class Place:
    """What is built: the main front spans 0 ≤ x ≤ width, 0 ≤ y ≤ height at z = 0."""

    width: float
    height: float
    ground: Panel
    buildings: tuple[Building, ...]
    furniture: tuple[Panel, ...]


@lru_cache(maxsize=KEPT_PLACES)
def place_of(seed: int, scene: int) -> Place:
    """Place number ``scene`` of the world ``seed``. Raises ValueError where one of them is negative."""
    rng = np.random.default_rng([0, seed, scene])
    plan = draw_plan(rng)
    buildings = [erect(rng, plan, 0.0, 0.0)]
    for side in (-1, 1):
        if rng.random() < 0.8:
            beside = draw_plan(rng)
            gap, recess = rng.choice([0.0, 0.0, 2.5]), rng.choice([0.0, -1.5, 0.8])
            left = plan.width + gap if side == 1 else -gap - beside.width
            buildings.append(erect(rng, beside, left, recess))
    ground, furniture = lay_ground(rng, plan.width), furnish(rng, plan.width)
    return Place(plan.width, plan.height + plan.front_rise, ground, tuple(buildings), furniture)
