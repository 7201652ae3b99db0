"""The comparison that decides whether an export is kept."""

import numpy as np
import pytest

from export.parity import (
    Tolerance,
    global_difference,
    local_difference,
    match_rows,
    raise_if_unequal,
    sizes_to_check,
)
from runtime.errors import HowlError
from runtime.features import LocalFeatures

TOLERANCE = Tolerance(descriptor=1e-3, matched=0.9, equal=0.9)
IMAGE = np.zeros((48, 64, 3), np.uint8)


def features(n: int = 40, seed: int = 0) -> LocalFeatures:
    random = np.random.default_rng(seed)
    return LocalFeatures(
        random.normal(size=(n, 8)).astype(np.float32),
        np.sort(random.random(n).astype(np.float32))[::-1],
        (random.permutation(n * 3).reshape(n, 3) * 4).astype(np.float32),
    )


def at(positions: list[list[float]]) -> LocalFeatures:
    of = features(len(positions))
    return LocalFeatures(of.descriptors, of.strengths, np.array(positions, np.float32))


def rows(of: LocalFeatures, order: np.ndarray) -> LocalFeatures:
    return LocalFeatures(of.descriptors[order], of.strengths[order], of.positions[order])


def test_swapped_rows_are_no_difference() -> None:
    wanted = features()
    got = rows(wanted, np.random.default_rng(1).permutation(len(wanted)))
    result = local_difference(got, wanted, IMAGE, TOLERANCE)
    assert (result.matched, result.equal, result.largest) == (1, 1, 0)
    assert not result.exceeds(TOLERANCE)


def test_one_position_of_another_scale_is_no_match() -> None:
    a, b = at([[1, 2, 0.5], [3, 4, 1]]), at([[1, 2, 1], [3, 4, 1]])
    assert match_rows(a, b, pixels=0.01).tolist() == [[1, 1]]


def test_positions_match_within_the_tolerance_in_pixels() -> None:
    a, b = at([[0.99, 2.02, 1], [5, 4, 1]]), at([[1.01, 1.98, 1], [5, 4.11, 1], [-0.01, 3, 1]])
    assert match_rows(a, b, pixels=0.1).tolist() == [[0, 0]]
    assert match_rows(a, b, pixels=0.2).tolist() == [[0, 0], [1, 1]]


def test_of_features_on_one_spot_the_nearest_descriptors_match() -> None:
    wanted = at([[7, 7, 1]] * 5)
    got = rows(wanted, np.array([3, 1, 4, 0, 2]))
    assert match_rows(got, wanted, pixels=0.1).tolist() == [[3, 0], [1, 1], [4, 2], [0, 3], [2, 4]]


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_wrong_descriptors_count_by_their_share(share: float) -> None:
    wanted = features()
    wrong = wanted.descriptors.copy()
    wrong[: int(share * len(wanted))] *= 1.1
    result = local_difference(LocalFeatures(wrong, wanted.strengths, wanted.positions), wanted, IMAGE, TOLERANCE)
    assert result.equal == pytest.approx(1 - share)
    assert result.largest == pytest.approx(0.1, rel=1e-3)
    assert result.exceeds(TOLERANCE) == (share > 0.1)


def test_missing_rows_and_positions_exceed_the_tolerance() -> None:
    wanted = features()
    assert local_difference(rows(wanted, np.arange(39)), wanted, IMAGE, TOLERANCE).exceeds(TOLERANCE)
    elsewhere = LocalFeatures(wanted.descriptors, wanted.strengths, wanted.positions + 1)
    result = local_difference(elsewhere, wanted, IMAGE, TOLERANCE)
    assert result.matched == 0
    with pytest.raises(HowlError, match=r"g\.onnx: differs .* 1 of 2 images \(first: 64×48\)"):
        raise_if_unequal([local_difference(wanted, wanted, IMAGE, TOLERANCE), result], TOLERANCE, "g.onnx", "PyTorch")


def test_the_sizes_checked_differ_and_one_is_small() -> None:
    photo = np.zeros((240, 320, 3), np.uint8)
    shapes = [image.shape[:2] for image in sizes_to_check(photo, features=1000)]
    assert shapes[:2] == [(240, 320), (320, 240)]
    assert len(set(shapes)) == 4
    assert all(side % 2 for side in shapes[2])
    assert max(shapes[3]) < 100


@pytest.mark.parametrize(("scale", "exceeds"), [(1.0, False), (1.0005, False), (1.1, True)])
def test_a_global_descriptor_may_be_off_by_its_relative_error(scale: float, exceeds: bool) -> None:
    wanted = np.array([0.6, 0.8, 0], np.float32)
    result = global_difference("global descriptor", (scale * wanted).astype(np.float32), wanted, IMAGE)
    assert result.error == pytest.approx(scale - 1, abs=1e-6)
    assert result.exceeds(TOLERANCE) == exceeds
    assert (result.width, result.height) == (64, 48)


@pytest.mark.parametrize("got", [[0.6, float("nan"), 0.0], [0.6, 0.8]])
def test_no_number_and_another_dimension_exceed_the_tolerance(got: list[float]) -> None:
    wanted = np.array([0.6, 0.8, 0], np.float32)
    assert global_difference("global descriptor", np.array(got, np.float32), wanted, IMAGE).exceeds(TOLERANCE)
