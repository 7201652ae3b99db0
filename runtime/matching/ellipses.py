"""Local features of activation maps, as DSM has them (Siméoni, Avrithis, Chum, CVPR 2019): one network, no training.

A channel of the map responds to one kind of thing. Where it responds, a maximally stable region (MSER: Matas et al.,
BMVC 2002; OpenCV's) becomes an ellipse, and the channel its visual word: ellipses of the same channel match. The shape
of two ellipses fixes an affine map between photos that stand upright, so one match is a hypothesis.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

MAX_REGIONS = 36  # of a channel: one with more responds to everything
MAX_OF_CHANNEL = 20
MAX_ELLIPSES = 512
MAX_DELTA, STABLE_SHARE = 12, 0.6  # of 256 steps; and the share of the map's activations that lie below MSER's step
MAX_VARIATION, MIN_DIVERSITY = 0.5, 0.2  # the latter is OpenCV's, whose pruning is not VLFeat's, of which DSM takes 0.7
MIN_CELLS, MAX_SHARE = 3, 0.75  # of a region; of the map
MIN_SIDE = 3  # cells of a map in which there are regions
MAX_OVERLAP = 0.2  # of the boxes of two ellipses of a database photo, as a part of their union
MAX_ZOOM = 3.0  # of a hypothesis, either way
AT_ONCE = 256  # hypotheses, so that memory stays small


@dataclass(frozen=True)
class Ellipses:
    """Ellipses in an image, strongest first.

    Attributes:
        centres: float32 [n, 2], x and y; the centre of the first pixel, or cell of a map, is 0.
        frames: float32 [n, 3], a, b and c of the lower-triangular L = [[a, 0], [b, c]] with L·Lᵀ the region's
            covariance: it maps a circle to the ellipse, and keeps the vertical upright.
        channels: int32 [n].
    """

    centres: NDArray[np.float32]
    frames: NDArray[np.float32]
    channels: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.centres)

    def scaled(self, x: float, y: float) -> "Ellipses":
        """The same in an image whose pixels are so much finer."""
        factors = np.array([x, y], np.float32)
        return Ellipses((self.centres + 0.5) * factors - 0.5, self.frames * factors[[0, 1, 1]], self.channels)


def find_ellipses(activations: NDArray[np.float32], *, overlapping: bool) -> Ellipses:
    """The stable regions of every channel, in cells.

    Args:
        activations: [C, h, w]; what is not above 0 is none.
        overlapping: whether ellipses may overlap, as in a query; those of a database photo are thinned out, the
            strongest first, across all channels.
    """
    height, width = activations.shape[1:]
    strongest = float(activations.max(initial=0))
    found: list[tuple[float, int, NDArray[np.float64], NDArray[np.float64], NDArray[np.int32]]] = []
    if min(height, width) >= MIN_SIDE and strongest > 0:
        steps = np.round(activations.clip(min=0) / strongest * 255).astype(np.uint8)
        detector = bright_regions(steps)
        for channel in np.flatnonzero(steps.any(axis=(1, 2))).tolist():
            found += regions_of(detector, np.ascontiguousarray(steps[channel]), channel)
    found.sort(key=lambda region: -region[0])  # stable: of equal strengths, the lower channel first
    chosen = (found if overlapping else apart(found))[:MAX_ELLIPSES]
    return Ellipses(
        np.array([centre for _, _, centre, _, _ in chosen], np.float32).reshape(-1, 2),
        np.array([frame for _, _, _, frame, _ in chosen], np.float32).reshape(-1, 3),
        np.array([channel for _, channel, *_ in chosen], np.int32),
    )


def bright_regions(steps: NDArray[np.uint8]) -> cv2.MSER:
    """A detector for maps of this size; its own step is the level below which most activations of the photo lie."""
    cells = steps[0].size
    above_zero = steps[steps > 0]
    delta = int(np.quantile(above_zero, STABLE_SHARE)) if len(above_zero) else 1
    detector = cv2.MSER.create()
    detector.setDelta(min(MAX_DELTA, max(1, delta)))
    detector.setMinArea(MIN_CELLS)
    detector.setMaxArea(max(MIN_CELLS, int(MAX_SHARE * cells)))
    detector.setMaxVariation(MAX_VARIATION)
    detector.setMinDiversity(MIN_DIVERSITY)
    detector.setPass2Only(True)  # bright ones only
    return detector


def regions_of(
    detector: cv2.MSER, of_channel: NDArray[np.uint8], channel: int
) -> list[tuple[float, int, NDArray[np.float64], NDArray[np.float64], NDArray[np.int32]]]:
    """Strength, channel, centre, frame and box of a channel's regions, the strongest first."""
    regions, boxes = detector.detectRegions(of_channel)
    if len(regions) > MAX_REGIONS:
        return []
    found = []
    for points, box in zip(regions, boxes, strict=True):
        cells = np.asarray(points)
        covariance = np.cov(cells.T, bias=True) + np.eye(2) / 12  # of points, and of the cell around each
        if min(box[2], box[3]) < 2:  # a line
            continue
        lower = np.linalg.cholesky(covariance)
        strength = float(of_channel[cells[:, 1], cells[:, 0]].max())
        frame = np.array([lower[0, 0], lower[1, 0], lower[1, 1]])
        found.append((strength, channel, cells.mean(axis=0), frame, np.asarray(box)))
    found.sort(key=lambda region: -region[0])
    return found[:MAX_OF_CHANNEL]


def apart(regions: list) -> list:
    """The regions, strongest first, whose boxes overlap with none of a stronger one by much."""
    if not regions:
        return []
    boxes = np.array([box for *_, box in regions], np.float64)
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    areas = np.prod(boxes[:, 2:], axis=1)
    left = np.ones(len(regions), bool)
    chosen = []
    for number, region in enumerate(regions):
        if not left[number]:
            continue
        chosen.append(region)
        sides = (np.minimum(high, high[number]) - np.maximum(low, low[number])).clip(min=0)
        shared = np.prod(sides, axis=1)
        left &= shared <= MAX_OVERLAP * (areas + areas[number] - shared)
    return chosen


def agreeing_ellipses(query: Ellipses, image: Ellipses, tolerance: float) -> int:
    """How many of an image's ellipses lie as one affine map of the query would have them.

    Every match of two ellipses of a channel is tried as the map A·x + t, A = L_image · L_query⁻¹, which keeps upright;
    a match agrees if its centres do. The image's ellipses are counted, not the query's, of which many may overlap.

    Args:
        query, image: their ellipses.
        tolerance: of a centre, in pixels of the image.
    """
    here, there = same_channel(query.channels, image.channels)
    maps = affine_maps(query.frames[here], image.frames[there])
    zoom = np.sqrt(maps[:, 0, 0] * maps[:, 1, 1])
    tried = np.flatnonzero((zoom <= MAX_ZOOM) & (zoom >= 1 / MAX_ZOOM))
    x, y = query.centres[here], image.centres[there]
    begins = np.flatnonzero(np.diff(there, prepend=-1))  # of the matches of each of the image's ellipses
    best = 0
    for start in range(0, len(tried), AT_ONCE):
        some = tried[start : start + AT_ONCE]
        shifts = y[some] - np.einsum("hij,hj->hi", maps[some], x[some])
        mapped = np.einsum("hij,mj->hmi", maps[some], x) + shifts[:, None]
        agrees = np.square(mapped - y).sum(axis=2) <= tolerance**2  # [hypotheses, matches]
        best = max(best, int(np.logical_or.reduceat(agrees, begins, axis=1).sum(axis=1).max()))
    return best


def same_channel(query: NDArray[np.int32], image: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All pairs of a query's and an image's ellipses with equal channels, int64 [m] each, by the image's."""
    order = np.argsort(query, kind="stable")
    first, last = (np.searchsorted(query[order], image, side) for side in ("left", "right"))
    counts = last - first
    there = np.repeat(np.arange(len(image)), counts)
    within = np.arange(len(there)) - np.repeat(np.cumsum(counts) - counts, counts)
    return order[within + np.repeat(first, counts)], there


def affine_maps(query: NDArray[np.float32], image: NDArray[np.float32]) -> NDArray[np.float32]:
    """L_image · L_query⁻¹ of frames [n, 3] each, lower-triangular [n, 2, 2]."""
    (a, b, c), (d, e, f) = query.T, image.T
    maps = np.zeros((len(query), 2, 2), np.float32)
    maps[:, 0, 0] = d / a
    maps[:, 1, 1] = f / c
    maps[:, 1, 0] = e / a - f * b / (a * c)
    return maps
