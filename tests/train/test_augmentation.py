"""Augmentation: another view of the same photo, the same each time that it is asked for."""

import cv2
import numpy as np
import pytest

from train.augmentation import augmented, light, same_points, second_view, seen_through, shade, viewpoint


@pytest.mark.parametrize("shape", [(48, 64, 3), (65, 33, 3)])
def test_a_photo_keeps_its_size_and_becomes_another_one(shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    before = image.copy()
    seen = augmented(image, np.random.default_rng(1))
    assert (seen.shape, seen.dtype) == (shape, np.uint8)
    assert not np.array_equal(seen, image)
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(seen, augmented(image, np.random.default_rng(1)))
    assert not np.array_equal(seen, augmented(image, np.random.default_rng(2)))


def test_a_second_view_shows_nothing_but_the_photo() -> None:
    """Mirrored beyond its border: of a photo of one colour only that colour is seen."""
    image = np.full((40, 60, 3), (10, 200, 90), np.uint8)
    for seed in range(5):
        np.testing.assert_array_equal(seen_through(image, viewpoint(60, 40, np.random.default_rng(seed))), image)


def test_light_keeps_black_and_the_order_of_values() -> None:
    for seed in range(5):
        table = light(np.random.default_rng(seed)).astype(int)
        assert table.shape == (256, 3)
        assert not table[0].any()
        assert (np.diff(table, axis=0) >= 0).all()


def test_shade_leaves_some_light_everywhere_and_all_of_it_somewhere() -> None:
    for seed in range(5):
        left = shade(40, 60, np.random.default_rng(seed))
        assert left.shape == (40, 60)
        assert 0 < left.min() < left.max() <= 1


def test_the_homography_of_a_second_view_says_where_its_points_lie() -> None:
    """A white disc on grey lies in the view where the homography takes its centre."""
    for seed in range(5):
        image = np.full((120, 160, 3), 60, np.uint8)
        cv2.circle(image, (90, 55), 5, (255, 255, 255), -1)
        view, homography = second_view(image, np.random.default_rng(seed))
        x, y, depth = homography @ (90, 55, 1)
        blurred = cv2.GaussianBlur(view.sum(axis=2).astype(np.float32), (0, 0), 4)
        row, column = np.unravel_index(blurred.argmax(), blurred.shape)
        assert np.hypot(column - x / depth, row - y / depth) < 6


def test_same_points_are_those_that_the_homography_takes_to_each_other() -> None:
    here = np.array([[10.0, 10], [50, 20], [30, 70]])
    shift = np.array([[1.0, 0, 5], [0, 1, -3], [0, 0, 1]])
    there = np.array([[200.0, 200], [35.5, 67], [15, 7]])  # none, the third, the first
    i, j = same_points(here, there, shift, distance=1)
    assert list(zip(i.tolist(), j.tolist(), strict=True)) == [(0, 2), (2, 1)]
    assert same_points(here, there, shift, distance=0.4)[0].tolist() == [0]
    for zoom, pairs in ((1.25, 3), (1 / 1.25, 3), (1.4, 0), (1 / 1.4, 0)):
        assert len(same_points(here, zoom * here, np.diag([zoom, zoom, 1]), distance=1)[0]) == pairs
