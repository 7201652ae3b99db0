"""Photos as they might have been taken from another side and in another light: what few labelled photos do not show."""

from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.io.image import Image

Homography: TypeAlias = NDArray[np.floating]  # [3, 3]
Points: TypeAlias = NDArray[np.floating]  # [n, 2], x and y

CORNERS_MOVE = 0.25  # of the side, at most
TURN = 0.3  # radians, at most
ZOOM = (-0.4, 0.6)  # in octaves
GAMMA = (-0.5, 0.9)  # logarithm of the exponent: more often darker than brighter
BRIGHTNESS = (-0.5, 0.3)  # logarithm of the factor
CAST = 0.25  # logarithm of the factor of each colour, at most
COLOUR = (0.2, 1.1)  # factor of the difference from grey
BLURRED, BLUR = 0.5, (0.5, 1.7)  # share of the photos, and standard deviation in pixels
SHADED, DARKEST, SPOT = 0.5, 0.7, (0.2, 0.6)  # share of the photos, of the light that is lost, radius over the side
NOISE = (0.0, 12.0)  # standard deviation, of 255
SAME_SIZE = 0.35  # octaves by which the size of a point's surroundings may differ between two views


def augmented(image: Image, random: np.random.Generator) -> Image:
    """The photo, RGB uint8 [H, W, 3], from another side and in another light; of the same size."""
    return second_view(image, random)[0]


def second_view(image: Image, random: np.random.Generator) -> tuple[Image, Homography]:
    """``augmented``, and the homography that takes pixels x, y, 1 of the photo to the view's."""
    height, width = image.shape[:2]
    homography = viewpoint(width, height, random)
    return relit(seen_through(image, homography), random), homography


def viewpoint(width: int, height: int, random: np.random.Generator) -> Homography:
    """The homography of another viewpoint: corners moved, turned in the plane, nearer or further."""
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    moved = corners + random.uniform(-CORNERS_MOVE, CORNERS_MOVE, (4, 2)) * (width, height)
    angle, zoom = random.uniform(-TURN, TURN), 2 ** random.uniform(*ZOOM)
    rotation = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = np.array([width / 2, height / 2])
    target = ((moved - centre) @ rotation.T + centre).astype(np.float32)
    return cv2.getPerspectiveTransform(corners, target).astype(np.float64, copy=False)


def seen_through(image: Image, homography: Homography) -> Image:
    """The photo through a homography, of the same size; mirrored beyond its border."""
    height, width = image.shape[:2]
    seen = cv2.warpPerspective(image, homography, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    return seen.astype(np.uint8, copy=False)


def same_points(
    here: Points, there: Points, homography: Homography, distance: float
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Which positions of a photo and of its second view show the same point at about the same size.

    Args:
        here: in the photo, pixels [n, 2].
        there: in the view, pixels [m, 2].
        homography: from the photo to the view.
        distance: pixels, within which a position of the view must lie to be the same point.

    Returns:
        the numbers of both sides of each pair, [p] and [p]; a position of the photo has one pair at most.
    """
    homogeneous = np.column_stack([here, np.ones(len(here))]) @ homography.T
    depth = homogeneous[:, 2:]
    distances = np.linalg.norm((homogeneous[:, :2] / depth)[:, None] - there, axis=2)
    # The determinant of a homography's derivative at a point is det(H) / depth³: how much larger an area is seen.
    octaves = np.log2(np.abs(np.linalg.det(homography) / depth[:, 0] ** 3)) / 2
    distances[np.abs(octaves) > SAME_SIZE] = np.inf
    nearest = distances.argmin(axis=1)
    found = np.flatnonzero(distances[np.arange(len(here)), nearest] < distance)
    return found, nearest[found]


def relit(image: Image, random: np.random.Generator) -> Image:
    """In another light: gamma, brightness, cast, colour and shade; some of them blurred; with the noise of a camera."""
    lit = cv2.LUT(image, light(random)[:, None, :]).astype(np.float32)
    if random.random() < SHADED:
        height, width = image.shape[:2]
        lit *= shade(height, width, random)[..., None]
    grey = lit.mean(axis=2, keepdims=True)
    seen = grey + (lit - grey) * random.uniform(*COLOUR)
    if random.random() < BLURRED:
        seen = cv2.GaussianBlur(seen, (0, 0), random.uniform(*BLUR))
    seen += random.standard_normal(image.shape, np.float32) * random.uniform(*NOISE)
    return np.clip(seen, 0, 255).astype(np.uint8)


def shade(height: int, width: int, random: np.random.Generator) -> NDArray[np.float32]:
    """How much of the light is left, [height, width], in (0, 1]: a bright spot somewhere, and darker around it."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    squares = (x - random.uniform(0, width)) ** 2 + (y - random.uniform(0, height)) ** 2
    radius = random.uniform(*SPOT) * max(height, width)
    return (1 - random.uniform(0, DARKEST) * (1 - np.exp(-squares / radius**2))).astype(np.float32)


def light(random: np.random.Generator) -> NDArray[np.uint8]:
    """What becomes of the 256 values of each colour, [256, 3]."""
    gamma = np.exp(random.uniform(*GAMMA))
    factors = np.exp(random.uniform(*BRIGHTNESS) + random.uniform(-CAST, CAST, 3))
    values = 255 * factors * (np.arange(256)[:, None] / 255) ** gamma
    return np.clip(values, 0, 255).astype(np.uint8)
