"""What makes a front unmistakable: signs, paintings, plants and pipes."""

import numpy as np
from numpy.random import Generator

from train.data.synthetic.geometry import Points
from train.data.synthetic.palette import GLASS, LEAVES, VIVID, WHITE, Colour, pick, pick_several, toned
from train.data.synthetic.place.plan import Plan
from train.data.synthetic.sheet import Sheet


def writing(sheet: Sheet, rng: Generator, x: float, y: float, width: float, size: float, ink: Colour) -> None:
    """A centred line of letters of this size, from y down."""
    letters = int(np.clip(width / size, 1, 9))
    start = x + (width - letters * size) / 2
    for i in range(letters):
        sheet.stroke(_letter(rng, start + (i + 0.1) * size, y, size), ink, size * 0.14)


def _letter(rng: Generator, x: float, y: float, size: float) -> Points:
    """Of no alphabet: a few strokes between the points of a grid."""
    spots = rng.permutation(12)[: rng.integers(4, 7)]
    return np.column_stack([x + spots % 3 * 0.33 * size, y + spots // 3 * 0.33 * size])


def mural(sheet: Sheet, rng: Generator, x: float, y: float, radius: float) -> None:
    """A square painting centred on (x, y)."""
    ground, *shapes, spot, ink = pick_several(rng, VIVID, len(VIVID))
    sheet.box(x - radius, y - radius, 2 * radius, 2 * radius, ground)
    for colour in shapes:
        corners = rng.uniform(-0.95, 0.95, (int(rng.integers(3, 6)), 2)) * radius + (x, y)
        sheet.polygon(corners, colour)
    sheet.disc(x + rng.uniform(-0.5, 0.5) * radius, y + rng.uniform(-0.5, 0.5) * radius, 0.3 * radius, spot)
    sheet.stroke(_letter(rng, x - radius / 2, y - radius / 2, radius), ink, 0.12 * radius)


def gable_ornament(sheet: Sheet, rng: Generator, plan: Plan) -> None:
    """A painted sign, or a round window with spokes, which may be a clock."""
    x, y = plan.width / 2, plan.front_rise * 0.62
    if rng.random() < 0.3:
        return mural(sheet, rng, x, y, 0.7)
    radius = rng.uniform(0.45, 0.8)
    sheet.disc(x, y, radius + 0.18, plan.trim)
    sheet.disc(x, y, radius, pick(rng, (WHITE, GLASS)))
    for angle in np.arange(rng.integers(2, 9)) * np.pi / 4:
        sheet.stroke([(x, y), (x + radius * np.sin(angle), y - radius * np.cos(angle))], plan.paint, 0.08)


def graffiti(sheet: Sheet, rng: Generator, plan: Plan) -> None:
    size = rng.uniform(0.7, 1.3)
    x, y = rng.uniform(0.2, plan.width * 0.6), sheet.size[1] - size - rng.uniform(0.3, 0.8)
    fill, edge = pick_several(rng, VIVID, 2)
    for i in range(rng.integers(2, 5)):
        strokes = _letter(rng, x + i * size * 0.85, y, size)
        sheet.stroke(strokes, edge, 0.26)
        sheet.stroke(strokes, fill, 0.15)


def ivy(sheet: Sheet, rng: Generator, plan: Plan) -> None:
    x, reach = rng.uniform(0, plan.width), rng.uniform(2, plan.height * 0.8)
    for climb in np.sort(rng.random(160)):
        spread = 0.25 + 1.8 * climb * (1 - climb)
        y = sheet.size[1] - climb * reach
        leaf = toned(pick(rng, LEAVES), rng.uniform(0.8, 1.3))
        sheet.disc(x + rng.normal(0, spread), y, rng.uniform(0.08, 0.2), leaf)


def banner(sheet: Sheet, rng: Generator, plan: Plan) -> None:
    """Hangs between two bays, above the ground floor."""
    width, height = 0.62, rng.uniform(1.8, 3.2)
    x = rng.integers(1, plan.bays) * plan.bay - width / 2
    y = sheet.size[1] - plan.ground_floor - height - 0.2
    cloth, ink = pick_several(rng, VIVID, 2)
    sheet.box(x + 0.06, y + 0.06, width, height, toned(plan.wall, 0.6))
    sheet.box(x, y, width, height, cloth)
    for i in range(int(height / 0.55)):
        sheet.stroke(_letter(rng, x + 0.13, y + 0.12 + i * 0.55, 0.46), ink, 0.07)


def drainpipe(sheet: Sheet, rng: Generator, plan: Plan) -> None:
    x = rng.integers(0, plan.bays + 1) * plan.bay * 0.98 + 0.1
    sheet.box(x + 0.12, plan.front_rise, 0.07, plan.height, toned(plan.wall, 0.6))
    sheet.box(x, plan.front_rise, 0.13, plan.height, toned(plan.paint, 1.1))
