"""A building as panels: roof, side walls, street front, and what stands out from the front."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from train.data.synthetic.drawing import (
    BRICK,
    OUT,
    PLASTER,
    TILES,
    WALLS,
    Panel,
    Points,
    Sheet,
    hang,
    pick_several,
    rectangle,
    surface,
    toned,
)
from train.data.synthetic.facade import (
    banner,
    drainpipe,
    draw_ground_floor,
    draw_window,
    dress,
    gable_ornament,
    graffiti,
    ivy,
    mural,
)
from train.data.synthetic.plan import Plan

BALCONY = (1.05, 0.8)  # height of its rail, depth
LEDGE = (0.5, 0.5)  # height, depth
BLIND, BALCONIED = 0.1, 0.2  # shares of the upper windows


@dataclass(frozen=True, eq=False)
class Building:
    middle: float  # x
    panels: tuple[Panel, ...]  # each hides those before it, from wherever it can be seen


def erect(rng: Generator, plan: Plan, left: float, z: float) -> Building:
    """Builds what was planned; the front's left end stands at x = ``left``."""
    panels = [*_roof(rng, plan, left, z), *_sides(rng, plan, left, z), *_front(rng, plan, left, z)]
    return Building(left + plan.width / 2, tuple(panels))


def _roof(rng: Generator, plan: Plan, left: float, z: float) -> list[Panel]:
    width, rise, half = plan.width, plan.rise, plan.depth / 2
    if plan.gable == "flat":
        return []
    if plan.gable == "eaves":  # one slope faces the street
        ridge = plan.height + rise
        chimney = surface(rng, BRICK, WALLS[0], 0.7, 1.6)
        slope = np.hypot(rise, half)
        tiles, fall = surface(rng, TILES, plan.roof, width + 0.4, slope), np.array([0, -rise, half]) / slope
        return [
            hang(chimney, (left + rng.uniform(0.1, 0.8) * width, ridge + 0.7, z - half)),
            hang(tiles, (left - 0.2, ridge, z - half), down=fall),
        ]
    rise *= 0.95  # just below the gable's edge
    slope = np.hypot(width / 2, rise)
    tiles, fall = surface(rng, TILES, plan.roof, plan.depth, slope), np.array([width / 2, -rise, 0]) / slope
    x, y = left + width / 2, plan.height + rise
    return [
        hang(tiles, (x, y, z - plan.depth), OUT, fall * (-1, 1, 1)),
        hang(tiles, (x, y, z), -OUT, fall),
    ]


def _sides(rng: Generator, plan: Plan, left: float, z: float) -> list[Panel]:
    """The two side walls, one drawing for both: mostly blank, as party walls are."""
    rise = plan.rise if plan.gable == "eaves" else 0.0
    depth, top = plan.depth, plan.height + rise
    sheet = surface(rng, plan.material, toned(plan.wall, 0.92), depth, top)
    for storey in range(1, plan.storeys):
        for x in (depth * 0.3, depth * 0.7):
            if rng.random() < 0.4:
                draw_window(sheet, rng, plan, plan.upper_window, x, top - plan.floor(storey) - 0.8, 1.6)
    if rng.random() < 0.5:
        mural(sheet, rng, depth / 2, top - plan.height * 0.5, 0.3 * depth)
    outline = np.array([(0, rise), (depth / 2, 0), (depth, rise), (depth, top), (0, top)])
    return [
        hang(sheet, (left, top, z - depth), OUT, outline=outline),
        hang(sheet, (left + plan.width, top, z), -OUT, outline=outline),
    ]


def _front(rng: Generator, plan: Plan, left: float, z: float) -> list[Panel]:
    """The street front, then what stands out from it."""
    top = plan.front_rise + plan.height
    sheet = surface(rng, plan.material, plan.wall, plan.width, top)
    dress(sheet, rng, plan)
    panes, relief = [], []
    for storey in range(1, plan.storeys):
        for bay in range(plan.bays):
            fate, x = rng.random(), (bay + 0.5) * plan.bay
            if fate < BLIND:
                continue
            sill = top - plan.floor(storey) - 0.75
            panes.append(draw_window(sheet, rng, plan, plan.upper_window, x, sill, plan.storey * 0.58))
            if fate > 1 - BALCONIED:
                relief += _balcony(plan, left + x, plan.floor(storey) + 0.1, z)
    panes += draw_ground_floor(sheet, rng, plan)
    if plan.gable in ("triangle", "steps"):
        gable_ornament(sheet, rng, plan)
    for landmark in pick_several(rng, (graffiti, ivy, banner, drainpipe), int(rng.integers(1, 4))):
        landmark(sheet, rng, plan)
    if plan.gable == "flat":
        relief += _ledge(rng, plan, left - 0.3, top, z)
    return [hang(sheet, (left, top, z), outline=_silhouette(plan), windows=panes), *relief]


def _silhouette(plan: Plan) -> Points:
    width, rise, top = plan.width, plan.front_rise, plan.front_rise + plan.height
    if plan.gable == "triangle":
        return np.array([(0, rise), (width / 2, 0), (width, rise), (width, top), (0, top)])
    if plan.gable == "steps":
        xs, ys = np.linspace(0, 0.38 * width, 4), np.linspace(rise, 0, 5)  # steep enough to hide the roof
        climb = np.column_stack([np.repeat(xs, 2), np.repeat(ys, 2)[1:-1]])
        return np.vstack([climb, (climb * (-1, 1) + (width, 0))[::-1], (width, top), (0, top)])
    return rectangle(0, 0, width, top)


def _balcony(plan: Plan, x: float, y: float, z: float) -> list[Panel]:
    width, (height, depth) = plan.bay * 0.86, BALCONY
    rail = Sheet.clear(width, height, plan.paint)
    for bar in np.arange(0.06, width, 0.16):
        rail.stroke([(bar, 0.05), (bar, height)], plan.paint, 0.04)
    rail.box(0, 0, width, 0.09, plan.paint)
    rail.box(0, height - 0.16, width, 0.16, plan.trim)
    cheek, left, top = rail.cut(depth), x - width / 2, y + height - 0.1
    return [
        hang(Sheet.blank(width, depth, toned(plan.trim, 0.6)), (left, y, z + depth), down=-OUT),
        hang(cheek, (left, top, z), OUT),
        hang(cheek, (left + width, top, z), OUT),
        hang(rail, (left, top, z + depth)),
    ]


def _ledge(rng: Generator, plan: Plan, left: float, top: float, z: float) -> list[Panel]:
    """A moulding that runs along the front, with its underside and its ends."""
    width, (height, depth) = plan.width + 0.6, LEDGE
    face = surface(rng, PLASTER, plan.trim, width, height)
    return [
        hang(Sheet.blank(width, depth, toned(plan.trim, 0.5)), (left, top - height, z + depth), down=-OUT),
        hang(face.cut(depth), (left, top, z), OUT),
        hang(face.cut(depth), (left + width, top, z + depth), -OUT),
        hang(face, (left, top, z + depth)),
    ]
