"""Ellipses in activation maps: where they lie and how they are shaped, and which agree with one affine map."""

import numpy as np
from numpy.typing import NDArray

from runtime.matching.ellipses import (
    MAX_REGIONS,
    Ellipses,
    affine_maps,
    agreeing_ellipses,
    find_ellipses,
    same_channel,
)

SHAPE = 48, 64


def blobs(*each: tuple[float, float, float, float, float]) -> NDArray[np.float32]:
    """A map with a round hill for each x, y, width, height and strength."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    hills = [h * np.exp(-(((x - cx) / sx) ** 2) - ((y - cy) / sy) ** 2) for cx, cy, sx, sy, h in each]
    return np.sum(hills, axis=0).astype(np.float32)


def scene(seed: int = 0) -> NDArray[np.float64]:
    """Two hills in each of 20 channels, [20, 2, 5]."""
    random = np.random.default_rng(seed)
    low, high = [8, 8, 2.0, 2.0, 80], [50, 40, 5.0, 5.0, 250]
    return random.uniform(low, high, (20, 2, 5))


def drawn(channels: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.stack([blobs(*map(tuple, hills)) for hills in channels])


def random_ellipses(seed: int, count: int, channels: int = 4) -> Ellipses:
    random = np.random.default_rng(seed)
    frames = np.column_stack([random.uniform(1, 4, count), random.uniform(-1, 1, count), random.uniform(1, 4, count)])
    return Ellipses(
        random.uniform(0, 60, (count, 2)).astype(np.float32),
        frames.astype(np.float32),
        random.integers(0, channels, count).astype(np.int32),
    )


def as_matrix(frame: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.array([[frame[0], 0], [frame[1], frame[2]]], np.float64)


def test_a_hill_is_an_ellipse_around_its_top() -> None:
    activations = np.stack([np.zeros(SHAPE, np.float32), blobs((40, 20, 8, 3, 7.0))])
    found = find_ellipses(activations, overlapping=False)
    assert found.channels.tolist() == [1]
    np.testing.assert_allclose(found.centres, [[40, 20]], atol=0.2)
    ((a, b, c),) = found.frames.tolist()
    assert abs(b) < 0.1
    assert 2 < a / c < 3.2  # 8 / 3


def test_a_query_may_have_many_in_one_place_and_a_database_photo_one() -> None:
    activations = blobs((20, 15, 6, 6, 200), (45, 30, 5, 5, 150))[None]
    thinned = find_ellipses(activations, overlapping=False)
    assert len(find_ellipses(activations, overlapping=True)) > len(thinned) >= 2
    for centre in ((20, 15), (45, 30)):
        assert np.abs(thinned.centres - centre).max(axis=1).min() < 0.5


def test_thinning_goes_across_channels_and_keeps_the_stronger() -> None:
    activations = np.stack([blobs((20, 15, 6, 6, 100)), blobs((21, 15, 6, 6, 200))])
    together = find_ellipses(activations, overlapping=False)
    alone = [
        find_ellipses(activations * keep[:, None, None], overlapping=False) for keep in np.eye(2, dtype=np.float32)
    ]
    assert together.channels[0] == 1
    assert (together.channels == 1).sum() == len(alone[1])
    assert (together.channels == 0).sum() < len(alone[0])


def test_a_channel_that_responds_everywhere_says_nothing() -> None:
    grid = [(4.0 + 7 * i, 4.0 + 7 * j, 1.5, 1.5, 200.0) for i in range(9) for j in range(6)]
    assert len(grid) > MAX_REGIONS
    assert not len(find_ellipses(blobs(*grid)[None], overlapping=True))


def test_maps_without_activations_or_too_small_for_regions_have_none() -> None:
    for shape in ((3, 48, 64), (3, 2, 9), (3, 1, 1), (0, 8, 8)):
        assert not len(find_ellipses(np.zeros(shape, np.float32), overlapping=True))
    assert not len(find_ellipses(np.full((2, 2, 9), -1, np.float32), overlapping=True))


def test_scaling_maps_the_centres_of_cells() -> None:
    found = Ellipses(np.zeros((1, 2), np.float32), np.array([[1, 0.5, 2]], np.float32), np.zeros(1, np.int32))
    scaled = found.scaled(16, 8)
    assert scaled.centres.tolist() == [[7.5, 3.5]]
    wanted = np.diag([16, 8]) @ as_matrix(found.frames[0])
    np.testing.assert_allclose(as_matrix(scaled.frames[0]), wanted)


def test_an_affine_map_takes_one_frame_to_the_other() -> None:
    query, image = random_ellipses(1, 9), random_ellipses(2, 9)
    for made, q, d in zip(affine_maps(query.frames, image.frames), query.frames, image.frames, strict=True):
        np.testing.assert_allclose(made @ as_matrix(q), as_matrix(d), rtol=1e-5, atol=1e-5)


def test_matches_are_all_pairs_of_a_channel() -> None:
    query, image = random_ellipses(3, 17).channels, random_ellipses(4, 11).channels
    here, there = same_channel(query, image)
    wanted = {(i, j) for i in range(17) for j in range(11) if query[i] == image[j]}
    assert len(here) == len(wanted)
    assert set(zip(here.tolist(), there.tolist(), strict=True)) == wanted
    assert (np.diff(there) >= 0).all()


def agreeing_by_hand(query: Ellipses, image: Ellipses, tolerance: float) -> int:
    pairs = [(i, j) for i in range(len(query)) for j in range(len(image)) if query.channels[i] == image.channels[j]]
    best = 0
    for i, j in pairs:
        a = as_matrix(image.frames[j]) @ np.linalg.inv(as_matrix(query.frames[i]))
        if not 1 / 9 <= np.linalg.det(a) <= 9:
            continue
        shift = image.centres[j] - a @ query.centres[i]
        agrees = {d for q, d in pairs if np.linalg.norm(a @ query.centres[q] + shift - image.centres[d]) <= tolerance}
        best = max(best, len(agrees))
    return best


def test_the_best_hypothesis_is_that_of_trying_them_one_by_one() -> None:
    for seed in range(3):
        query, image = random_ellipses(seed, 40), random_ellipses(seed + 10, 30)
        assert agreeing_ellipses(query, image, 6.0) == agreeing_by_hand(query, image, 6.0)


def test_a_shifted_and_enlarged_scene_agrees_and_another_does_not() -> None:
    hills = scene()
    moved = hills * [1.15, 1.15, 1.15, 1.15, 1] + [3, -2, 0, 0, 0]
    query = find_ellipses(drawn(hills), overlapping=True)
    same, other = (find_ellipses(drawn(each), overlapping=False) for each in (moved, scene(7)))
    assert agreeing_ellipses(query, same, 2.0) >= 0.8 * len(same)
    assert agreeing_ellipses(query, other, 2.0) <= 0.4 * len(other)


def test_nothing_agrees_with_nothing() -> None:
    nothing = find_ellipses(np.zeros((2, 9, 9), np.float32), overlapping=True)
    assert agreeing_ellipses(nothing, random_ellipses(0, 5), 2.0) == 0
    assert agreeing_ellipses(random_ellipses(0, 5), nothing, 2.0) == 0
