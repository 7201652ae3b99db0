"""Matches that agree with one view of a rigid scene."""

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.matching import Keypoints, affine_agreement, agreement

SIZE = (640, 480)
FOCAL = 500.0


def seen(points: NDArray[np.float64], rotation: NDArray[np.float64], shift: NDArray[np.float64]) -> NDArray[np.float32]:
    camera = points @ rotation.T + shift
    return (FOCAL * camera[:, :2] / camera[:, 2:] + (320, 240)).astype(np.float32)


def two_views(true: int, wrong: int, *, enlarged: float = 1.0) -> tuple[Keypoints, Keypoints, NDArray[np.int64]]:
    """The same points of a scene in two photos, then pairs of points that have nothing to do with each other."""
    random = np.random.default_rng(0)
    points = random.uniform((-3, -2, 6), (3, 2, 12), (true, 3))
    angle = 0.2
    turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    others = random.uniform(0, SIZE, (2, wrong, 2)).astype(np.float32)
    first = np.concatenate([seen(points, np.eye(3), np.zeros(3)), others[0]])
    second = np.concatenate([seen(points, turn, np.array([-1.5, 0.2, 0.3])), others[1]]) * np.float32(enlarged)
    rows = np.arange(true + wrong)
    size = (round(SIZE[0] * enlarged), round(SIZE[1] * enlarged))
    descriptors = np.zeros((len(rows), 1), np.float32)
    return Keypoints(first, descriptors, SIZE), Keypoints(second, descriptors, size), np.stack([rows, rows], axis=1)


@pytest.mark.parametrize("enlarged", [1.0, 4.0])
def test_what_belongs_to_one_scene_agrees_whatever_the_sizes_of_the_photos(enlarged: float) -> None:
    agreed = agreement(*two_views(60, 30, enlarged=enlarged), 0.0015)
    assert agreed.inliers[:60].mean() > 0.95
    assert agreed.inliers[60:].mean() < 0.25
    assert agreed.count == agreed.inliers.sum()
    assert agreed.share == pytest.approx(agreed.count / 90)


def test_it_is_the_same_each_time() -> None:
    views = two_views(60, 60)
    np.testing.assert_array_equal(agreement(*views, 0.003).inliers, agreement(*views, 0.003).inliers)


@pytest.mark.parametrize("count", [0, 1, 7])
def test_too_few_matches_say_nothing(count: int) -> None:
    first, second, matches = two_views(10, 0)
    agreed = agreement(first, second, matches[:count], 0.003)
    assert (agreed.count, agreed.share, len(agreed.inliers)) == (0, 0, count)


def test_matches_in_one_place_are_no_error() -> None:
    first, second, matches = two_views(20, 0)
    piled = np.zeros_like(matches)
    assert agreement(first, second, piled, 0.003).count in range(21)


MAP = np.array([[1.2, 0.3], [-0.2, 0.9]])


def mapped(true: int, wrong: int) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """Positions, where an affine map puts them, and others anywhere; each is matched with its own."""
    random = np.random.default_rng(1)
    here = random.uniform(0, 700, (true + wrong, 2))
    there = here @ MAP.T + (40, -30)
    there[true:] = random.uniform(0, 700, (wrong, 2))
    rows = np.arange(true + wrong)
    return here.astype(np.float32), there.astype(np.float32), np.stack([rows, rows], axis=1)


def test_what_an_affine_map_moves_agrees_with_it() -> None:
    here, there, matches = mapped(30, 60)
    there[:30] += np.random.default_rng(2).uniform(-3, 3, (30, 2))
    agreed = affine_agreement(here, there, matches, tolerance=10, trials=1000)
    off = np.linalg.norm(here[30:] @ MAP.T + (40, -30) - there[30:], axis=1)
    assert agreed.inliers[:30].all()
    assert not agreed.inliers[30:][off > 20].any()
    again = affine_agreement(here, there, matches, tolerance=10, trials=1000)
    np.testing.assert_array_equal(agreed.inliers, again.inliers)


@pytest.mark.parametrize("count", [0, 3])
def test_three_matches_say_nothing_of_an_affine_map(count: int) -> None:
    here, there, matches = mapped(count, 0)
    assert affine_agreement(here, there, matches, tolerance=10, trials=100).count == 0


def test_matches_in_one_place_have_no_affine_map() -> None:
    here, there, matches = mapped(10, 0)
    here[:] = here[0]
    assert affine_agreement(here, there, matches, tolerance=10, trials=100).count == 0
