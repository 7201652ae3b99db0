"""The compiled inner loops (C, beside this file): arithmetic on arrays, without any decisions."""

from runtime.native.aggregation import (
    CAN_ASSIGN,
    FAR,
    MAX_NEAREST,
    PANEL,
    ROUNDED,
    STEP,
    TILE,
    aggregate,
    assign,
    scratch_bytes,
)
from runtime.native.inverted_file import (
    CORRESPONDENCE,
    HIT,
    IMAGES,
    UNIT,
    best,
    compare,
    correspond,
    count_kept,
    place,
    place_kept,
    score,
    take,
)
from runtime.native.vectors import products, take_rows
from runtime.native.verification import verify

__all__ = [
    "CAN_ASSIGN",
    "CORRESPONDENCE",
    "FAR",
    "HIT",
    "IMAGES",
    "MAX_NEAREST",
    "PANEL",
    "ROUNDED",
    "STEP",
    "TILE",
    "UNIT",
    "aggregate",
    "assign",
    "best",
    "compare",
    "correspond",
    "count_kept",
    "place",
    "place_kept",
    "products",
    "score",
    "scratch_bytes",
    "take",
    "take_rows",
    "verify",
]
