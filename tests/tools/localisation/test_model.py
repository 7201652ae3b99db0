"""How deep the pixels of a model's images lie, and the pixels that a file stores."""

from pathlib import Path

import numpy as np
import pytest

from runtime.io.decoding import to_stored_pixels, turned
from tools.localisation.model import View, plane_at_origin, root_that_matches

pycolmap = pytest.importorskip("pycolmap", reason="needs pycolmap: pip install '.[localise]'")
CAMERA = pycolmap.Camera(model="SIMPLE_PINHOLE", width=640, height=480, params=[500, 320, 240])


def view_of_plane(normal: tuple[float, float, float], noise: float = 0.0) -> tuple[View, np.ndarray]:
    """An image of points on a plane n·X = 10 before a camera that is turned and moved; and that plane's normal."""
    random = np.random.default_rng(0)
    pixels = random.uniform((0, 0), (640, 480), (3000, 2))
    rays = np.column_stack([(pixels - (320, 240)) / 500, np.ones(len(pixels))])
    inverse = rays @ np.array(normal) / 10
    angle = 0.3
    rotation = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    inverse *= 1 + noise * random.normal(size=len(inverse))
    return View("a", CAMERA, rotation, np.array([1.0, 2.0, 3.0]), pixels, inverse), np.array(normal)


@pytest.mark.parametrize("normal", [(0, 0, 1.0), (0.5, 0.2, 0.8), (-0.3, 0.6, 0.7)])
def test_points_between_observed_ones_lie_on_their_plane(normal: tuple[float, float, float]) -> None:
    view, plane = view_of_plane(normal)
    asked = np.random.default_rng(1).uniform((60, 60), (580, 420), (200, 2))
    points, known = view.lift(asked)
    assert known.mean() > 0.95
    seen = points[known] @ view.rotation.T + view.translation
    np.testing.assert_allclose(seen @ plane, 10, rtol=0.01)
    projected = CAMERA.img_from_cam(seen)
    np.testing.assert_allclose(projected, asked[known], atol=1e-6)


def test_depths_that_do_not_agree_are_unknown() -> None:
    """An edge between a wall at 5 and a wall at 20, and pixels far from all that is observed."""
    random = np.random.default_rng(0)
    pixels = random.uniform((0, 0), (640, 300), (4000, 2))
    inverse = np.where(pixels[:, 0] < 320, 1 / 5, 1 / 20)
    view = View("a", CAMERA, np.eye(3), np.zeros(3), pixels, inverse)
    asked = np.array([[160.0, 150], [480, 150], [320, 150], [320, 470]])
    points, known = view.lift(asked)
    assert known.tolist() == [True, True, False, False]
    np.testing.assert_allclose(points[:2, 2], [5, 20], rtol=1e-6)


@pytest.mark.parametrize("count", [0, 3])
def test_too_few_observed_points_tell_nothing(count: int) -> None:
    view = View("a", CAMERA, np.eye(3), np.zeros(3), np.full((count, 2), 100.0), np.full(count, 0.1))
    assert not view.lift(np.array([[100.0, 100]]))[1].any()


def test_a_plane_is_fitted_exactly_and_its_misfit_measured() -> None:
    offsets = np.array([[1, 0], [0, 1], [-1, 0], [0, -1.0]]) / 4
    value, misfit = plane_at_origin(offsets, np.full(4, 3.0))
    assert (value, misfit) == (pytest.approx(3), pytest.approx(0, abs=1e-12))
    value, misfit = plane_at_origin(offsets, np.array([2, 4, 2, 4.0]))
    assert (value, misfit) == (pytest.approx(3), pytest.approx(1))


@pytest.mark.parametrize("orientation", range(9))
def test_stored_pixels_are_where_turning_takes_them_from(orientation: int) -> None:
    stored = np.zeros((40, 60, 3), np.uint8)
    stored[7, 21] = 255
    upright = turned(stored, orientation)
    y, x = np.argwhere(upright[:, :, 0])[0]
    size = (upright.shape[1], upright.shape[0])
    found, stored_size = to_stored_pixels(np.array([[x + 0.5, y + 0.5]]), size, orientation)
    assert found.tolist() == [[21.5, 7.5]]
    assert stored_size == (60, 40)


def test_the_root_that_would_match_is_found(tmp_path: Path) -> None:
    images = tmp_path / "images"
    assert root_that_matches(["a.jpg"], ["db/x.jpg", "db/a.jpg"], images) == images / "db"
    assert root_that_matches(["images/db/a.jpg"], ["db/a.jpg"], images) == tmp_path
    assert root_that_matches(["b.jpg", "other/a.jpg"], ["db/a.jpg"], images) is None
