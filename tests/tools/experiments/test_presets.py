"""The measurement of presets: its table and plot; the commands that it runs have tests of their own."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from export.presets import PRESETS
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
        name: {"mAP": {"val-a": 0.9 - 0.01 * i, "val-b": 0.5}, "seconds": [0.4 / (i + 1), 0.5 / (i + 1), 0.6 / (i + 1)]}
        for i, name in enumerate(PRESETS)
    }
    eager = {"mAP": measured["how"]["mAP"], "seconds": [1.2, 1.5, 1.8]}
    return {"machine": {"processor": "test"}, "photos": 3, "presets": {presets.EAGER: eager, **measured}}


def test_the_table_has_a_row_for_everything_that_was_timed(result: dict) -> None:
    rows = [line.split(" | ") for line in presets.table(result).splitlines()[4:]]
    assert [row[0].removeprefix("| ") for row in rows] == [presets.EAGER, *PRESETS]
    assert rows[0][5:7] == ["1500 (1350–1650)", "1.0×"]
    assert rows[1][5:7] == ["500 (450–550)", "3.0×"]
    assert rows[2][7:] == ["0.8900", "0.5000 |"]


def test_the_plot_is_drawn(result: dict, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    presets.draw(result, tmp_path / "presets.png")
    assert cv2.imread(str(tmp_path / "presets.png")).shape[1] > 1000


@pytest.mark.slow
def test_a_command_that_fails_ends_it(tmp_path: Path) -> None:
    with pytest.raises(HowlError, match=r"export/to_trt\.py failed with exit status 1"):
        presets.run(["export/to_trt.py", str(tmp_path / "missing.pt")])


def test_presets_are_what_the_export_command_takes() -> None:
    """A preset's names are those of the command's options."""
    from export.to_trt import parse

    options = parse(["ckpt.pt", "--preset", "fast", "--features", "9"])
    fast = PRESETS["fast"]
    assert (options.image_size, options.scales, options.precision) == (fast.image_size, fast.scales, fast.precision)
    assert options.features == 9
    assert parse(["ckpt.pt"]).precision == "fp32"
