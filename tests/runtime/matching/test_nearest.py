"""Mutual nearest neighbours, against their definition."""

import numpy as np
import pytest

from runtime.matching import mutual_nearest


@pytest.mark.parametrize("most", [0.3, 0.9, 2.0])
def test_pairs_are_each_others_nearest_and_near(most: float) -> None:
    random = np.random.default_rng(0)
    first = random.normal(size=(40, 6)).astype(np.float32)
    second = np.concatenate([first[::2] + 0.1 * random.normal(size=(20, 6)), random.normal(size=(15, 6))])
    first, second = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (first, second.astype(np.float32)))
    expected = []
    for i in range(len(first)):
        j = min(range(len(second)), key=lambda j: np.linalg.norm(first[i] - second[j]))
        back = min(range(len(first)), key=lambda k: np.linalg.norm(first[k] - second[j]))
        if back == i and np.linalg.norm(first[i] - second[j]) <= most:
            expected.append((i, j))
    found = mutual_nearest(first, second, most)
    assert [tuple(pair) for pair in found.tolist()] == expected
    assert found.dtype == np.int64


def test_descriptors_that_are_equal_are_one_pair() -> None:
    same = np.eye(6, dtype=np.float32)[[2, 2, 2]]
    assert mutual_nearest(same, same[:2], 1.0).tolist() == [[0, 0]]


def test_a_photo_without_features_has_no_pair() -> None:
    none, some = np.empty((0, 6), np.float32), np.ones((3, 6), np.float32)
    assert mutual_nearest(none, some, 1.0).shape == (0, 2)
    assert mutual_nearest(some, none, 1.0).shape == (0, 2)
