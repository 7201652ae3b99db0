"""The demo's own parts: the folder it may empty, and the picture."""

from pathlib import Path

import cv2
import pytest

from runtime.errors import HowlError
from tools.demo import make_room, run
from tools.visualization.canvas import save
from tools.visualization.gallery import Answer, Row, draw_gallery


def test_only_what_an_earlier_demo_left_is_deleted(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    make_room(out)
    (out / "photos").mkdir()
    make_room(out)
    assert not (out / "photos").exists()

    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(HowlError, match="holds files that are not a demo's"):
        make_room(mine)
    assert (mine / "thesis.txt").read_text() == "years of work"


def test_a_command_that_fails_stops_the_demo(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(HowlError, match=r"tools/search\.py failed with exit status 1"):
        run("tools/search.py", "missing.onnx", "query.jpg")
    assert "missing.onnx: no such engine" in capfd.readouterr().err


def test_the_gallery_is_a_picture_with_a_row_a_query(photos: list[str], tmp_path: Path) -> None:
    paths = [Path(photo) for photo in photos]
    rows = [
        Row(paths[0], [Answer(paths[1], 0.5, True), Answer(paths[2], 0.25, False)]),
        Row(paths[3], [Answer(paths[4], 0.125, None)]),
    ]
    save(draw_gallery(rows[:1], "one"), tmp_path / "one.png")
    save(draw_gallery(rows, "two"), tmp_path / "two.png")
    one, two = (cv2.imread(str(tmp_path / name)) for name in ("one.png", "two.png"))
    assert two.shape[0] > one.shape[0] > 100
    assert two.shape[1] == one.shape[1]
