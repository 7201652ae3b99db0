"""The forecast: what it adds up, what it learns from an epoch, and how it is said."""

import pytest

from train.forecast import Forecast, in_words
from train.log import EpochLog


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (5, "less than a minute"),
        (80, "about 1 min"),
        (59 * 60, "about 59 min"),
        (3600, "about 1 h"),
        (95 * 60, "about 1 h 40 min"),
        (119 * 60, "about 2 h"),
    ],
)
def test_a_duration_is_said_as_precisely_as_it_is_known(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def test_a_run_takes_what_its_parts_take() -> None:
    forecast = Forecast(whitening=10, epoch=100, validation=20, words=3)
    assert forecast.left(0) == 3
    assert forecast.left(2) == 243
    assert forecast.total(2) == 273
    seldom = Forecast(whitening=0, epoch=100, validation=20, words=0, validate_every=2)
    assert seldom.left(3) == 340


def test_an_epoch_that_has_been_corrects_the_forecast() -> None:
    forecast = Forecast(whitening=10, epoch=100, validation=20, words=3)
    untrained = EpochLog(0, None, 0.5, 0.0, 0, seconds=30)
    forecast = forecast.corrected(untrained)
    assert forecast.left(1) == 133
    forecast = forecast.corrected(EpochLog(1, 0.1, 0.6, 1e-4, 5, seconds=80))
    assert forecast.left(1) == 83
    forecast = forecast.corrected(EpochLog(2, 0.1, None, 1e-4, 5, seconds=40))
    assert forecast.left(1) == 73
