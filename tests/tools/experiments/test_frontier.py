"""The search for the best engine at each time: what it tries, its front, its table and plot."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from export.options import PRESETS, Preset
from runtime.errors import HowlError
from tools.experiments import frontier, timing
from tools.experiments.frontier import Point, Setting


def test_points_are_all_combinations_and_know_their_presets() -> None:
    points = frontier.points_of(["a.pt", "b"], [320, 480], [1, 2], [500], ["fp32"])
    assert len(points) == len({str(point) for point in points}) == 8
    assert points[1] == Point("a.pt", Preset(320, (1.0, 0.707), 500, "fp32"))
    assert not any(point.preset_name for point in points)
    assert [Point("a.pt", preset).preset_name for preset in PRESETS.values()] == list(PRESETS)


def test_the_front_has_what_no_other_beats() -> None:
    engines = {"fast": (1, 50), "slow": (9, 90), "worse": (5, 40), "as slow": (9, 80), "twin": (1, 50), "mid": (4, 70)}
    assert frontier.front(engines) == {"fast", "twin", "mid", "slow"}


def test_two_networks_of_one_name_are_refused() -> None:
    with pytest.raises(HowlError, match=r"^(a|b)/x\.pt: (a|b)/x\.pt has the same name"):
        frontier.refuse_same_names(["a/x.pt", "b/x.pt"])


def test_photos_are_taken_evenly_and_of_one_size(tmp_path: Path) -> None:
    for number in range(6):
        image = np.full((40, 60 if number % 2 else 50, 3), 40 * number, np.uint8)
        cv2.imwrite(str(tmp_path / f"{number}.png"), image)
    photos = timing.timed_photos([str(tmp_path)], 3)
    assert [int(photo.mean()) for photo in photos] == [0, 80, 160]
    assert {photo.shape for photo in photos} == {(819, 1024, 3)}


def test_a_large_photo_is_shrunk() -> None:
    assert timing.resized(np.zeros((300, 600, 3), np.uint8), 200).shape == (100, 200, 3)


@pytest.fixture
def result() -> dict:
    accuracies = {
        Point("efficientnet_lite0", preset): {"val-a": 0.9 - 0.01 * i, "val-b": 0.5}
        for i, preset in enumerate(PRESETS.values())
    }
    seconds = {point: [0.4 / (i + 1), 0.5 / (i + 1), 0.6 / (i + 1)] for i, point in enumerate(accuracies)}
    return {"machine": {"processor": "test"}, "engines": frontier.described(accuracies, seconds)}


def test_the_table_has_a_row_for_every_engine_the_fastest_first(result: dict) -> None:
    pytest.importorskip("tabulate", reason="needs pandas and tabulate")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in frontier.table(result).splitlines()[4:]]
    assert [row[5] for row in rows] == list(PRESETS)[::-1]
    assert rows[-1][6:] == ["500 (450–550)", "90.00", "50.00", "●"]


def test_the_plot_is_drawn(result: dict, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    frontier.draw(result, tmp_path / "frontier.png")
    assert cv2.imread(str(tmp_path / "frontier.png")).shape[1] > 1000


@pytest.fixture
def photos(tmp_path: Path) -> Setting:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((40, 60, 3), np.uint8))
    return Setting((str(tmp_path),), None, None)


@pytest.mark.slow
def test_a_checkpoint_that_is_missing_ends_it(photos: Setting, tmp_path: Path) -> None:
    points = frontier.points_of([str(tmp_path / "missing.pt")], [320], [1], [100], ["fp32"])
    with pytest.raises(HowlError, match=r"missing\.pt: no such file"):
        frontier.search(points, photos, tmp_path / "out")


def test_a_search_goes_on_with_the_same_photos_only(photos: Setting, tmp_path: Path) -> None:
    path, point = tmp_path / "frontier.json", Point("a.pt", Preset(320, (1.0, 0.707), 500, "fp32"))
    frontier.write_json(path, {"setting": frontier.asdict(photos), "engines": frontier.described({point: {"a": 0.5}})})
    assert frontier.earlier_accuracies(path, photos) == {point: {"a": 0.5}}
    with pytest.raises(HowlError, match=r"frontier\.json: a search with other data"):
        frontier.earlier_accuracies(path, Setting(photos.data, "elsewhere", None))
