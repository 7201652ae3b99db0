"""What photos of different places score: measured without labels, whatever photos of one place score."""

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.index.strangers import Strangers


class Scores:
    """An index of so many photos, whose scores are drawn: strangers' from one distribution, friends' far above it."""

    def __init__(self, images: int, friends: int, seed: int = 0) -> None:
        self.images, self.friends = images, friends
        self.random = np.random.default_rng(seed)

    def scores(self, query: int) -> NDArray[np.float64]:
        scores = self.random.exponential(0.01, self.images)
        scores[: self.friends] += 0.5
        scores[query % self.images] = 1  # itself
        return scores


@pytest.mark.parametrize("images", [100, 2000])
def test_the_best_stranger_is_foreseen_though_some_are_friends(images: int) -> None:
    strangers = Strangers.measure(Scores(images, images // 20), range(images // 2, images // 2 + 32), {})
    assert strangers is not None
    random = np.random.default_rng(1)
    best = np.median([random.exponential(0.01, images).max() for _ in range(200)])
    assert strangers.best_of(images) == pytest.approx(best, rel=0.35)
    assert strangers.best_of(images) < 0.2


def test_the_best_of_more_strangers_scores_more() -> None:
    strangers = Strangers(median=0.01, quartile=0.02, images=50, settings={})
    assert [strangers.best_of(images) for images in (1, 2, 4, 8)] == pytest.approx([0.01, 0.01, 0.02, 0.03])


@pytest.mark.parametrize(("images", "queries"), [(29, 29), (100, 7)])
def test_of_too_few_photos_nothing_is_said(images: int, queries: int) -> None:
    assert Strangers.measure(Scores(images, 0), range(queries), {}) is None


def test_they_come_back_from_json_and_nonsense_does_not() -> None:
    strangers = Strangers(0.01, 0.02, 50, {"method": "asmk", "alpha": 3.0})
    assert Strangers.from_json(strangers.as_json()) == strangers
    for text in ("[]", "{}", "nonsense", strangers.as_json().replace("0.01", "NaN"), strangers.as_json()[:-5]):
        with pytest.raises((ValueError, TypeError)):
            Strangers.from_json(text)
