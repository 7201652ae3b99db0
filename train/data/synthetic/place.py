"""A place: the main building and its neighbours, the ground they stand on, and who and what stands in the street."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.random import Generator

from train.data.synthetic.building import Building, erect
from train.data.synthetic.drawing import (
    GLASS,
    HAIRS,
    LEAVES,
    OUT,
    PAINTS,
    PLASTER,
    SKINS,
    SLABS,
    VIVID,
    WALLS,
    WHITE,
    Panel,
    Points,
    Sheet,
    arc,
    hang,
    pick,
    stand,
    surface,
    toned,
)
from train.data.synthetic.plan import draw_plan

KEPT_PLACES = 64  # of about 8 MB each: as many as training draws from at random
GROUND_DENSITY = 10.0  # pixels per metre: it is seen at a slant
BEYOND = 30.0  # metres that the street goes on for at either end, and that its paving reaches behind the fronts
KERB = BEYOND + 4  # metres from the back of the paving
ROAD = 36.0  # metres from the kerb to the end of the world


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


def lay_ground(rng: Generator, front_width: float) -> Panel:
    """Paving along the fronts, a kerb and the road."""
    length = front_width + 2 * BEYOND
    sheet = surface(rng, PLASTER, (104, 102, 102), length, KERB + ROAD, GROUND_DENSITY)
    sheet.paste(surface(rng, SLABS, pick(rng, WALLS[2:]), length, KERB, GROUND_DENSITY), 0)
    sheet.box(0, KERB, length, 0.25, (190, 188, 182))
    for x in np.arange(0, length, 6):
        sheet.box(x, KERB + 5, 3, 0.2, (220, 218, 210))
    return hang(sheet, (-BEYOND, 0, -BEYOND), down=OUT)


def furnish(rng: Generator, front_width: float) -> tuple[Panel, ...]:
    """Trees and poles that stay: they belong to the place."""
    drawn = [_tree] * int(rng.choice([0, 0, 1, 2])) + [_pole] * int(rng.integers(0, 3))
    return tuple(stand(draw(rng), rng.uniform(-4, front_width + 4), rng.uniform(2.2, 3.5)) for draw in drawn)


def passers_by(rng: Generator, front_width: float, eye: Points) -> list[Panel]:
    """Who and what is between the photographer's eye [3] and the front just now."""
    crowd = [_person] * int(rng.integers(0, 6)) + [_car] * int(rng.integers(0, 3))
    crowd += [_tree] * int(rng.random() < 0.2) + [_pole] * int(rng.random() < 0.25)
    passers = []
    for draw in crowd:
        nearness = rng.uniform(0.15, 0.5)
        spot = nearness * eye + (1 - nearness) * np.array([rng.uniform(0, front_width), 0, 0])
        passers.append(stand(draw(rng), spot[0], max(spot[2], 2.0)))
    return passers


def _tree(rng: Generator) -> Sheet:
    width, height = rng.uniform(2.5, 4.5), rng.uniform(4.5, 7.5)
    sheet = Sheet.clear(width, height, LEAVES[0])
    sheet.stroke([(width / 2, height), (width / 2 + rng.normal(0, 0.1), height * 0.4)], (84, 66, 50), 0.25)
    for _ in range(90):
        x, y = rng.normal((0.5, 0.33), (0.16, 0.12)).clip(0.1, 0.9) * (width, height)
        sheet.disc(x, y, rng.uniform(0.12, 0.4), toned(pick(rng, LEAVES), rng.uniform(0.8, 1.25)))
    return sheet


def _pole(rng: Generator) -> Sheet:
    """A traffic sign or a lamp."""
    colour = pick(rng, PAINTS)
    sheet = Sheet.clear(1.2, 5.0, colour)
    sheet.box(0.54, 0.3, 0.12, 4.7, colour)
    if rng.random() < 0.5:
        sheet.disc(0.6, 0.5, 0.42, pick(rng, VIVID))
        sheet.disc(0.6, 0.5, 0.3, WHITE)
    else:
        sheet.polygon([(0.4, 0.1), (0.8, 0.1), (0.72, 0.7), (0.48, 0.7)], (250, 226, 160))
    return sheet


def _person(rng: Generator) -> Sheet:
    coat, trousers = toned(pick(rng, VIVID + PAINTS), 0.75), toned(pick(rng, PAINTS), 0.8)
    sheet = Sheet.clear(0.8, 1.8, coat)
    stride = rng.uniform(0.02, 0.16)
    for side in (-1, 1):
        foot, hand = 0.4 + side * stride, 0.4 + side * (0.2 + stride / 2)
        sheet.stroke([(0.4, 0.9), (foot, 1.75)], toned(trousers, 1 + 0.15 * side), 0.15)
        sheet.stroke([(0.4 + side * 0.2, 0.4), (hand, 0.95)], toned(coat, 0.85), 0.11)
    sheet.polygon([(0.2, 0.34), (0.6, 0.34), (0.58, 1.0), (0.22, 1.0)], coat)
    sheet.disc(0.4, 0.18, 0.13, pick(rng, SKINS))
    sheet.polygon(arc(0.4, 0.16, 0.14, np.pi, 2 * np.pi), pick(rng, HAIRS))
    return sheet


def _car(rng: Generator) -> Sheet:
    body, tall = pick(rng, VIVID + PAINTS), rng.uniform(0, 0.9)  # from a saloon to a van
    floor = 1.5 + tall
    sheet = Sheet.clear(4.4, floor, body)
    sheet.polygon([(0.7, floor - 0.8), (1.3 - tall / 3, 0.03), (3.2 + tall / 3, 0.03), (3.8, floor - 0.8)], body)
    sheet.box(0.08, floor - 0.85, 4.24, 0.62, body)
    sheet.box(0.08, floor - 0.4, 4.24, 0.2, toned(body, 0.7))
    for left, right in ((1.1, 2.2), (2.3, 3.4)):
        sheet.polygon([(left, floor - 0.85), (left + 0.3, 0.14), (right, 0.14), (right, floor - 0.85)], GLASS)
    for x in (0.95, 3.45):
        sheet.disc(x, floor - 0.33, 0.33, (26, 26, 28))
        sheet.disc(x, floor - 0.33, 0.17, (150, 150, 154))
    return sheet
