"""Rendered views: the same numbers give the same pixels, and views of one place look alike."""

import hashlib
import subprocess
import sys

import cv2
import numpy as np
import pytest

from train.data.synthetic import render_view
from train.data.synthetic.place import place_of


def checksum(seed: int, scene: int, view: int) -> str:
    return hashlib.sha256(render_view(seed, scene, view).tobytes()).hexdigest()


@pytest.mark.slow
def test_calls_repeat_whatever_was_rendered_before():
    first = [checksum(3, scene, view) for scene in range(2) for view in range(2)]
    place_of.cache_clear()
    render_view(4, 0, 0)
    backwards = [checksum(3, scene, view) for scene in (1, 0) for view in (1, 0)]
    assert backwards == first[::-1]


@pytest.mark.slow
def test_another_process_renders_the_same():
    code = (
        "import hashlib; from train.data.synthetic import render_view;"
        "print(hashlib.sha256(render_view(3, 1, 2).tobytes()).hexdigest())"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert printed.strip() == checksum(3, 1, 2)


def test_worlds_places_and_views_differ():
    numbers = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 1, 1)]
    assert len({checksum(*three) for three in numbers}) == len(numbers)


@pytest.mark.parametrize(("width", "height"), [(320, 240), (180, 240), (97, 33), (32, 32)])
def test_any_size_is_a_picture(width: int, height: int):
    image = render_view(0, 0, 3, width=width, height=height)
    assert image.shape == (height, width, 3)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert image.std() > 10


def test_size_only_resamples():
    large, small = render_view(0, 1, 0, width=320, height=240), render_view(0, 1, 0, width=160, height=120)
    shrunk = cv2.resize(large, (160, 120), interpolation=cv2.INTER_AREA)
    other = render_view(0, 1, 1, width=160, height=120)
    assert np.abs(shrunk - small.astype(float)).mean() < 0.5 * np.abs(other - small.astype(float)).mean()


@pytest.mark.parametrize("size", [{"width": 31}, {"height": 31}, {"width": 0}, {"height": -240}])
def test_too_small_a_size_is_refused(size: dict[str, int]):
    with pytest.raises(ValueError, match="too small"):
        render_view(0, 0, 0, **size)


@pytest.mark.parametrize("numbers", [(-1, 0, 0), (0, -1, 0), (0, 0, -1)])
def test_negative_numbers_are_refused(numbers: tuple[int, int, int]):
    with pytest.raises(ValueError, match="non-negative"):
        render_view(*numbers)


@pytest.mark.slow
def test_every_view_shows_something():
    """Nights are dark, but never black; noons glare, but are never white; blur leaves edges."""
    views = [render_view(1, scene, view) for scene in range(4) for view in range(8)]
    assert all(35 < image.mean() < 220 for image in views)
    assert all(cv2.Laplacian(image, cv2.CV_64F).std() > 5 for image in views)


@pytest.mark.slow
def test_views_of_one_place_match_better_than_those_of_two():
    sift = cv2.SIFT.create(nfeatures=400)
    described = [[sift.detectAndCompute(render_view(1, s, v), None)[1] for v in range(3)] for s in range(4)]
    matcher = cv2.BFMatcher()

    def good_matches(query: np.ndarray, other: np.ndarray) -> int:
        return sum(near.distance < 0.75 * next_.distance for near, next_ in matcher.knnMatch(query, other, k=2))

    same = [good_matches(views[a], views[b]) for views in described for a, b in ((0, 1), (1, 2), (2, 0))]
    different = [good_matches(described[s][v], described[s - 1][v]) for s in range(4) for v in range(3)]
    assert np.mean(same) > 2 * np.mean(different)
