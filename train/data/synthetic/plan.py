"""What the architect of one building decided, all from one small vocabulary."""

from dataclasses import dataclass
from typing import Literal

from numpy.random import Generator

from train.data.synthetic.drawing import (
    BOARDS,
    BRICK,
    PAINTS,
    PLASTER,
    ROOFS,
    STONE,
    TRIMS,
    WALLS,
    Colour,
    Masonry,
    pick,
)

Gable = Literal["flat", "eaves", "triangle", "steps"]
Head = Literal["flat", "arch", "point"]


@dataclass(frozen=True)
class WindowStyle:
    """What all the windows of a storey look like."""

    head: Head
    panes: tuple[int, int]  # across, down
    breadth: float  # of the bay's width
    hood: float | None = None  # how high its peak rises, in metres; None is no hood
    shutters: bool = False


WINDOWS = (
    WindowStyle("flat", (2, 3), 0.42, hood=0.0),
    WindowStyle("flat", (2, 2), 0.36, shutters=True),
    WindowStyle("arch", (2, 3), 0.44),
    WindowStyle("flat", (1, 2), 0.4, hood=0.4),
    WindowStyle("flat", (3, 4), 0.5),
    WindowStyle("point", (2, 4), 0.34),
    WindowStyle("arch", (3, 4), 0.4, hood=0.0, shutters=True),
    WindowStyle("flat", (3, 1), 0.66),
)
MATERIALS = (BRICK, STONE, PLASTER, BOARDS)
GABLES: tuple[Gable, ...] = ("flat", "eaves", "triangle", "steps")


@dataclass(frozen=True)
class Plan:
    """Lengths in metres; a bay is the part of the front, from ground to eaves, that one column of windows takes."""

    material: Masonry
    wall: Colour
    trim: Colour
    paint: Colour
    roof: Colour
    gable: Gable
    bays: int
    bay: float  # width of one
    storeys: int
    storey: float  # height of an upper one
    ground_floor: float  # height
    depth: float
    upper_window: WindowStyle
    ground_window: WindowStyle

    @property
    def width(self) -> float:
        return self.bays * self.bay

    @property
    def height(self) -> float:
        """Of the eaves."""
        return self.floor(self.storeys)

    @property
    def rise(self) -> float:
        """Of the gable or the roof above the eaves."""
        return {"flat": 0.9, "eaves": 3.0, "triangle": 0.34 * self.width, "steps": 0.4 * self.width}[self.gable]

    @property
    def front_rise(self) -> float:
        """The part of the rise that the front wall fills."""
        return 0.0 if self.gable == "eaves" else self.rise

    def floor(self, storey: int) -> float:
        """The height above the ground of an upper storey's floor; the storey above the last is the eaves."""
        return self.ground_floor + (storey - 1) * self.storey


def draw_plan(rng: Generator) -> Plan:
    return Plan(
        material=pick(rng, MATERIALS),
        wall=pick(rng, WALLS),
        trim=pick(rng, TRIMS),
        paint=pick(rng, PAINTS),
        roof=pick(rng, ROOFS),
        gable=pick(rng, GABLES),
        bays=int(rng.integers(3, 7)),
        bay=rng.uniform(2.0, 2.9),
        storeys=int(rng.integers(2, 5)),
        storey=rng.uniform(2.8, 3.5),
        ground_floor=rng.uniform(3.2, 4.2),
        depth=rng.uniform(7, 10),
        upper_window=pick(rng, WINDOWS),
        ground_window=pick(rng, WINDOWS),
    )
