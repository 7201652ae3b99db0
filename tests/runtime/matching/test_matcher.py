"""A matcher on its own: keypoints of photos, matches of two photos, and files that are none."""

from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from runtime.errors import DamagedError, ImageError, IncompatibleError, MissingError
from runtime.matching import Keypoints, Matcher, MatcherFiles
from runtime.matching.matcher import FINGERPRINT

from ...conftest import draw_photo


def test_keypoints_lie_in_the_pixels_of_the_photo(matcher: Path) -> None:
    """Of a photo of the detector's size, and of the same one twice as large."""
    found = Matcher(matcher, device="cpu").detect(draw_photo(0))
    assert found.size == (128, 96)
    assert found.positions.shape == (48, 2)
    assert set(np.unique(found.positions % 8)) == {3.5}
    np.testing.assert_allclose(np.linalg.norm(found.descriptors, axis=1), 1, rtol=1e-5)
    twice = Matcher(matcher, device="cpu").detect(cv2.resize(draw_photo(0), None, fx=2, fy=2, interpolation=0))
    assert twice.size == (256, 192)
    np.testing.assert_allclose(twice.positions, 2 * found.positions + 0.5)


def test_sides_become_multiples_and_positions_stay_exact(matcher: Path) -> None:
    photo = draw_photo(0)
    odd = np.ascontiguousarray(cv2.copyMakeBorder(photo, 0, 3, 0, 2, cv2.BORDER_REPLICATE))  # 130×99
    found = Matcher(matcher, device="cpu").detect(odd)
    assert found.size == (130, 99)
    expected = (np.unique((found.positions[:, 0] + 0.5) * 128 / 130 - 0.5) % 8).round(3)
    assert set(expected) == {3.5}


def test_a_narrow_photo_has_keypoints_too(matcher: Path) -> None:
    found = Matcher(matcher, device="cpu").detect(draw_photo(0, height=40, width=640))
    assert len(found) == 48
    assert (found.positions < found.size).all()
    assert (found.positions > 0).all()


def test_a_flat_photo_has_none_and_matches_nothing(matcher: Path) -> None:
    cells = Matcher(matcher, device="cpu")
    nothing = cells.detect(np.full((96, 128, 3), 128, np.uint8)).strongest(0)
    assert len(nothing) == 0
    assert cells.match(nothing, cells.detect(draw_photo(0))).shape == (0, 2)
    assert cells.match(cells.detect(draw_photo(0)), nothing).shape == (0, 2)


def test_a_photo_matches_itself_shifted(matcher: Path) -> None:
    cells = Matcher(matcher, device="cpu")
    photo = draw_photo(1, height=96, width=160)
    left, right = cells.detect(photo[:, :128]), cells.detect(photo[:, 32:])
    matches = cells.match(left, right)
    assert len(matches) > 15
    assert matches.dtype == np.int64
    moved = left.positions[matches[:, 0]] - right.positions[matches[:, 1]]
    assert (moved == (32, 0)).all(axis=1).mean() > 0.8, "flat cells look alike"
    assert len(set(matches[:, 1])) == len(matches)


def test_the_strongest_are_the_first(matcher: Path) -> None:
    found = Matcher(matcher, device="cpu").detect(draw_photo(1))
    few = found.strongest(5)
    assert isinstance(few, Keypoints)
    np.testing.assert_array_equal(few.positions, found.positions[:5])
    assert few.size == found.size
    assert len(found.strongest(1000)) == len(found)


def test_an_unreadable_photo_is_an_image_error(matcher: Path, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="nowhere"):
        Matcher(matcher, device="cpu").detect(tmp_path / "nowhere.jpg")


def test_without_a_matcher_it_says_how_to_make_one(tmp_path: Path, matcher: Path) -> None:
    missing = tmp_path / "none.onnx"
    with pytest.raises(MissingError, match=rf"{missing}: no matcher here; make one with howl matcher --out {missing}"):
        Matcher(missing)


def test_what_is_no_matcher_is_not_to_be_overwritten_by_one(matcher: Path) -> None:
    """A graph without its detector may be an engine, and a folder is none."""
    with pytest.raises(IncompatibleError, match=rf"{matcher.parent}: a folder; name the matcher.onnx that howl"):
        Matcher(matcher.parent)
    MatcherFiles(matcher).keypoints.unlink()
    with pytest.raises(IncompatibleError, match=r"matcher.onnx: no matcher: there is no matcher.keypoints.onnx beside"):
        Matcher(matcher)


def test_files_that_are_no_matcher_are_named(matcher: Path, exported: Path) -> None:
    keypoints = MatcherFiles(matcher).keypoints
    whole = keypoints.read_bytes()
    keypoints.write_bytes(whole[:-200])
    with pytest.raises(DamagedError, match=f"{keypoints}"):
        Matcher(matcher, device="cpu")
    keypoints.write_bytes((exported / "engine.onnx").read_bytes())
    with pytest.raises(IncompatibleError, match=f"{keypoints}: not a graph of a matcher; make it again"):
        Matcher(matcher, device="cpu")
    model = onnx.load_from_string(whole)
    props = {each.key: each.value for each in model.metadata_props} | {FINGERPRINT: "another"}
    onnx.helper.set_model_props(model, props)
    onnx.save(model, keypoints)
    with pytest.raises(IncompatibleError, match=f"{matcher}: belongs to another detector than {keypoints}"):
        Matcher(matcher, device="cpu")
