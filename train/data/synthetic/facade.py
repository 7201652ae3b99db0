"""What is drawn on the wall of a front: windows, door, shop, the stone around them, and the landmarks.

Landmarks are what makes a front unmistakable: signs, paintings, plants and pipes.
"""

import numpy as np
from numpy.random import Generator

from train.data.synthetic.drawing import (
    GLASS,
    LEAVES,
    STONE,
    VIVID,
    WHITE,
    Colour,
    Points,
    Sheet,
    arc,
    pick,
    pick_several,
    rectangle,
    surface,
    toned,
)
from train.data.synthetic.plan import Head, Plan, WindowStyle


def dress(sheet: Sheet, rng: Generator, plan: Plan) -> None:
    """Facing of the ground floor, string courses, pilasters and plinth."""
    width, rise, top = plan.width, plan.front_rise, plan.front_rise + plan.height
    if rng.random() < 0.4:
        sheet.paste(surface(rng, STONE, plan.trim, width, plan.ground_floor), top - plan.ground_floor)
    for storey in range(1, plan.storeys + 1):
        if rng.random() < 0.5:
            y = top - plan.floor(storey) - 0.1
            sheet.box(0, y, width, 0.2, plan.trim)
            sheet.box(0, y + 0.2, width, 0.07, toned(plan.wall, 0.55))
    spacing = int(rng.integers(0, 3))  # of pilasters in bays; 0 is none
    for bay in range(0, plan.bays + 1, spacing) if spacing else ():
        x = bay * plan.bay
        sheet.box(x - 0.2, rise, 0.4, top, plan.trim)
        sheet.box(x + 0.2, rise, 0.06, top, toned(plan.wall, 0.6))
        sheet.box(x - 0.28, rise, 0.56, 0.35, toned(plan.trim, 0.92))
    sheet.box(0, top - 0.5, width, 0.5, toned(plan.trim, 0.8))


def draw_window(
    sheet: Sheet, rng: Generator, plan: Plan, style: WindowStyle, x: float, sill: float, height: float
) -> Points:
    """Draws a window centred on x that stands at ``sill``, down from the sheet's top; its glass is returned."""
    width, y, shade = style.breadth * plan.bay, sill - height, toned(plan.wall, 0.55)
    left, right = x - width / 2, x + width / 2
    sheet.polygon(_opening(style.head, x, y - 0.14, width + 0.28, height + 0.14), plan.trim)
    sheet.polygon(_opening(style.head, x, y - 0.03, width + 0.06, height + 0.03), shade)
    glass = _opening(style.head, x, y, width, height)
    sheet.polygon(glass, toned(GLASS, rng.uniform(0.6, 1.3)))
    if rng.random() < 0.4:  # curtains
        for curtain in (left + 0.05 * width, right - 0.31 * width):
            sheet.box(curtain, y + 0.3 * width, 0.26 * width, height - 0.3 * width, (196, 188, 172))

    across, down = style.panes
    for bar in np.linspace(left, right, across + 1)[1:-1]:
        sheet.stroke([(bar, y + 0.06), (bar, sill)], WHITE, 0.06)
    for bar in np.linspace(y, sill, down + 1)[1:-1]:
        sheet.stroke([(left, bar), (right, bar)], WHITE, 0.06)
    sheet.stroke(glass, WHITE, 0.08, closed=True)
    sheet.box(left - 0.2, sill, width + 0.4, 0.13, plan.trim)
    sheet.box(left - 0.2, sill + 0.13, width + 0.4, 0.08, shade)

    if style.shutters:
        for shutter in (left - 0.06 - 0.53 * width, right + 0.06 + 0.03 * width):
            _shutter(sheet, plan, shutter, y, width * 0.5, height)
    if style.hood is not None:
        left, right, base = left - 0.25, right + 0.25, y - 0.2
        eaves = base - 0.18
        hood = [(left, base), (right, base), (right, eaves), (x, eaves - style.hood), (left, eaves)]
        sheet.polygon(hood, plan.trim)
        sheet.box(left, base, right - left, 0.06, shade)
    return glass


def _opening(head: Head, x: float, y: float, width: float, height: float) -> Points:
    """The outline of a hole in the wall, centred on x, from its top y down."""
    left, right, radius = x - width / 2, x + width / 2, width / 2
    if head == "flat":
        return rectangle(left, y, width, height)
    if head == "arch":
        curve = arc(x, y + radius, radius, np.pi, 2 * np.pi)
    else:
        haunch = 0.35 * width
        curve = np.array(
            [(left, y + width), (x - haunch, y + haunch), (x, y), (x + haunch, y + haunch), (right, y + width)]
        )
    return np.vstack([curve, (right, y + height), (left, y + height)])


def _shutter(sheet: Sheet, plan: Plan, x: float, y: float, width: float, height: float) -> None:
    sheet.box(x, y, width, height, plan.paint)
    for slat in np.arange(y + 0.1, y + height - 0.1, 0.12):
        sheet.stroke([(x + 0.06, slat), (x + width - 0.06, slat)], toned(plan.paint, 0.65), 0.04)
    sheet.stroke(rectangle(x, y, width, height), toned(plan.paint, 0.75), 0.04, closed=True)


def draw_ground_floor(sheet: Sheet, rng: Generator, plan: Plan) -> list[Points]:
    """A door in one bay, a shop perhaps on its broader side, windows in the rest; the glass is returned."""
    sill, height = sheet.size[1] - 0.95, plan.ground_floor * 0.5
    door, shop = int(rng.integers(plan.bays)), range(0)
    if rng.random() < 0.6:
        shop = range(door + 1, plan.bays) if door < plan.bays / 2 else range(0, door)
    glass = []
    for bay in range(plan.bays):
        x = (bay + 0.5) * plan.bay
        if bay == door:
            _door(sheet, rng, plan, x)
        elif bay not in shop:
            glass.append(draw_window(sheet, rng, plan, plan.ground_window, x, sill, height))
    if shop:
        glass.append(_shopfront(sheet, rng, plan, shop.start * plan.bay + 0.15, len(shop) * plan.bay - 0.3))
    return glass


def _door(sheet: Sheet, rng: Generator, plan: Plan, x: float) -> None:
    height, width = plan.ground_floor * 0.72, rng.uniform(0.4, 0.55) * plan.bay
    base, head = sheet.size[1], plan.ground_window.head
    sheet.polygon(_opening(head, x, base - height - 0.25, width + 0.5, height + 0.25), plan.trim)
    sheet.polygon(_opening(head, x, base - height, width, height), toned(plan.paint, 0.7))
    for left in (x - 0.41 * width, x + 0.09 * width):
        sheet.box(left, base - 0.7 * height, 0.32 * width, 0.32 * height, plan.paint)
        sheet.box(left, base - 0.3 * height, 0.32 * width, 0.2 * height, plan.paint)
    sheet.box(x - width / 2 - 0.3, base - 0.16, width + 0.6, 0.16, (168, 164, 158))


def _shopfront(sheet: Sheet, rng: Generator, plan: Plan, x: float, width: float) -> Points:
    base, height = sheet.size[1], plan.ground_floor * 0.9
    top = base - height
    board, ink = pick_several(rng, VIVID, 2)
    sheet.box(x, top, width, height, plan.paint)
    sheet.box(x + 0.1, top + 0.08, width - 0.2, 0.62, board)
    writing(sheet, rng, x + 0.3, top + 0.17, width - 0.6, 0.44, ink)
    glass = rectangle(x + 0.15, top + 0.85, width - 0.3, height - 1.4)
    sheet.polygon(glass, GLASS)
    for _ in range(int(width * 3)):  # goods
        left, y = rng.uniform((x + 0.3, base - 1.2), (x + width - 0.6, base - 0.7))
        sheet.box(left, y, 0.3, base - 0.55 - y, toned(pick(rng, VIVID), 0.8))
    for bar in np.linspace(x + 0.15, x + width - 0.15, max(1, round(width / 1.8)) + 1):
        sheet.stroke([(bar, top + 0.85), (bar, base - 0.55)], plan.trim, 0.08)
    return glass


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
