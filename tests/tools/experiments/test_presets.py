"""The measurement of presets: its table and plot; the commands that it runs have tests of their own."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from export.options import PRESETS
from runtime.errors import HowlError
from tools.experiments import presets


def test_photos_are_taken_evenly_and_enlarged(tmp_path: Path) -> None:
    for number in range(6):
        image = np.full((40, 60 if number % 2 else 50, 3), 40 * number, np.uint8)
        cv2.imwrite(str(tmp_path / f"{number}.png"), image)
    photos = presets.timed_photos([str(tmp_path)], 3)
    assert [int(photo.mean()) for photo in photos] == [0, 80, 160]
    assert {photo.shape for photo in photos} == {(819, 1024, 3)}


def test_a_large_photo_is_shrunk() -> None:
    assert presets.enlarged(np.zeros((300, 600, 3), np.uint8), 200).shape == (100, 200, 3)


@pytest.fixture
def result() -> dict:
    measured = {
        name: {
            "mAP": {"val-a": 0.9 - 0.01 * i, "val-b": 0.5},
            "features": 1000,
            "seconds": [0.4 / (i + 1), 0.5 / (i + 1), 0.6 / (i + 1)],
        }
        for i, name in enumerate(PRESETS)
    }
    eager = {"mAP": measured["how"]["mAP"], "features": 1000, "seconds": [1.2, 1.5, 1.8]}
    return {"machine": {"processor": "test"}, "photos": 3, "presets": {presets.EAGER: eager, **measured}}


def test_the_table_has_a_row_for_everything_that_was_timed(result: dict) -> None:
    pytest.importorskip("tabulate", reason="needs pandas and tabulate")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in presets.table(result).splitlines()[4:]]
    assert [row[0] for row in rows] == [presets.EAGER, *PRESETS]
    assert rows[0][5:7] == ["1500 (1350–1650)", "1.0×"]
    assert rows[1][5:7] == ["500 (450–550)", "3.0×"]
    assert rows[2][7:] == ["0.8900", "0.5000"]


def test_the_plot_is_drawn(result: dict, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    presets.draw(result, tmp_path / "presets.png")
    assert cv2.imread(str(tmp_path / "presets.png")).shape[1] > 1000


@pytest.mark.slow
def test_a_checkpoint_that_is_missing_ends_it(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((40, 60, 3), np.uint8))
    with pytest.raises(HowlError, match=r"missing\.pt: no such file"):
        presets.compare_presets(tmp_path / "missing.pt", [str(tmp_path)], tmp_path / "out")
