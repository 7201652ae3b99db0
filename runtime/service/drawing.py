"""What two photos have in common, as numbers for JSON and as a picture."""

from typing import Any

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from runtime.io.image import Image, resize
from runtime.rerank.comparison import Comparison

HEIGHT, GAP = 640, 12  # pixels of the picture, and between the photos
MAX_RATIO = 3.0  # of a photo's width to its height: a panorama is drawn smaller
LINE, DOT, OUTLINE, FRAME = (80, 200, 60), (90, 220, 70), (20, 30, 20), (47, 217, 255)  # BGR
BACKGROUND = 24
QUALITY = 88
FRACTION = 4  # bits of a pixel that OpenCV draws by


def as_json(seen: Comparison) -> dict[str, Any]:
    """A comparison as values for JSON: ``pairs`` are x, y in the query, x, y in the photo, and the weight."""
    pairs = np.hstack([seen.query_ends, seen.image_ends, seen.weights[:, None]])
    return {
        "query": dict(zip(("width", "height"), seen.query_size, strict=True)),
        "photo": dict(zip(("width", "height"), seen.image_size, strict=True)),
        "pairs": np.round(pairs, 4).tolist(),
        "frame": None if seen.frame is None else np.round(seen.frame[:4], 1).tolist(),
        "inliers": seen.inliers,
        "shared": seen.shared,
        "score": seen.score,
        "verified": seen.verified,
    }


def draw(seen: Comparison, query: Image, image: Image) -> bytes:
    """A JPEG of both photos side by side, a line for each pair, and the frame of the query in the photo.

    Args:
        seen: of these two.
        query: uint8 [H, W, 3], BGR.
        image: the same.
    """
    left, right = fitted(query), fitted(image)
    canvas = np.full((HEIGHT, left.shape[1] + GAP + right.shape[1], 3), BACKGROUND, np.uint8)
    shifts = 0, left.shape[1] + GAP
    for shift, photo in zip(shifts, (left, right), strict=True):
        canvas[: photo.shape[0], shift : shift + photo.shape[1]] = photo
    starts = scaled(seen.query_ends, query, left)
    ends = scaled(seen.image_ends, image, right) + np.array([shifts[1], 0])
    for start, end in zip(fixed_point(starts), fixed_point(ends), strict=True):
        for colour, thickness in ((OUTLINE, 3), (LINE, 1)):
            cv2.line(canvas, start, end, colour, thickness, cv2.LINE_AA, FRACTION)
        for place in (start, end):
            cv2.circle(canvas, place, 4 << FRACTION, OUTLINE, -1, cv2.LINE_AA, FRACTION)
            cv2.circle(canvas, place, 3 << FRACTION, DOT, -1, cv2.LINE_AA, FRACTION)
    if seen.frame is not None:
        photo = canvas[: right.shape[0], shifts[1] :].copy()  # only within it: a wrong map may reach anywhere
        corners = np.clip(scaled(seen.frame, image, right), -(1 << 15), 1 << 15)
        cv2.polylines(photo, [np.array(fixed_point(corners), np.int32)], False, FRAME, 2, cv2.LINE_AA, FRACTION)
        canvas[: right.shape[0], shifts[1] :] = photo
    return simplejpeg.encode_jpeg(canvas, quality=QUALITY, colorspace="BGR")


def fitted(photo: Image) -> Image:
    """A photo as it is drawn: as high as the picture, or lower if it is very wide."""
    height, width = photo.shape[:2]
    factor = min(HEIGHT / height, MAX_RATIO * HEIGHT / width)
    return resize(photo, (max(1, round(width * factor)), max(1, min(HEIGHT, round(height * factor)))))


def scaled(positions: NDArray[np.floating], photo: Image, drawn: Image) -> NDArray[np.floating]:
    """Positions in a photo, [n, 2], as positions in what is drawn of it."""
    sides = np.array([drawn.shape[1] / photo.shape[1], drawn.shape[0] / photo.shape[0]])
    return (positions + 0.5) * sides - 0.5


def fixed_point(positions: NDArray[np.floating]) -> list[tuple[int, int]]:
    """Positions as OpenCV draws them: whole numbers with FRACTION bits behind the point."""
    return [(int(x), int(y)) for x, y in np.rint(positions * (1 << FRACTION)).tolist()]
