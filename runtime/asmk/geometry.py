"""Where the entries of an inverted file lie in their images: 4 bytes each.

Bits 0–12 are x and 13–25 y, in steps of two pixels of the engine's input image, which has 16,384 a side at most; bits
26–31 are the scale of the pyramid, in eighths of an octave: pyramids with two levels an octave are met exactly.
"""

import numpy as np
from numpy.typing import NDArray

SIDE_BITS = 13
FORM = "13+13+6 bits, 2 pixels, eighths of an octave"  # as an index records it: of another form all would be nonsense
UNIT = 2  # pixels
STEPS_AN_OCTAVE = 8
SCALE_OFFSET = 28  # the step of scale 1: the steps begin below a tenth, and end above 16

_LARGEST_SIDE, _LARGEST_STEP = (1 << SIDE_BITS) - 1, (1 << (32 - 2 * SIDE_BITS)) - 1


def pack_geometry(positions: NDArray[np.float32]) -> NDArray[np.uint32]:
    """uint32 [n], of positions as in ``LocalFeatures``: float32 [n, 3], x, y and scale."""
    x, y = (np.clip(np.rint(positions[:, axis] / UNIT), 0, _LARGEST_SIDE).astype(np.uint32) for axis in (0, 1))
    steps = np.rint(STEPS_AN_OCTAVE * np.log2(positions[:, 2])) + SCALE_OFFSET
    packed: NDArray[np.uint32] = (
        x | y << SIDE_BITS | np.clip(steps, 0, _LARGEST_STEP).astype(np.uint32) << 2 * SIDE_BITS
    )
    return packed


def unpack_geometry(geometry: NDArray[np.uint32]) -> NDArray[np.float32]:
    """float32 [n, 3]: x, y and scale, as exactly as they were stored."""
    x, y = UNIT * (geometry & _LARGEST_SIDE), UNIT * (geometry >> SIDE_BITS & _LARGEST_SIDE)
    octaves = ((geometry >> 2 * SIDE_BITS).astype(np.float32) - SCALE_OFFSET) / STEPS_AN_OCTAVE
    return np.stack([x, y, np.exp2(octaves)], axis=1).astype(np.float32)
