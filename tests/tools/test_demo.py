"""The demo's own parts: the folder it may empty, and the picture."""

from pathlib import Path

import cv2
import pytest

from runtime.errors import HowlError
from tools.demo import index_and_search, make_room
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


def test_a_step_that_fails_stops_the_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(HowlError, match=r"missing\.onnx: no such engine"):
        index_and_search(tmp_path / "missing.onnx", tmp_path, tmp_path / "query.jpg")


def test_an_index_is_made_and_searched(engine: Path, photos: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(photos[0]).parent
    index_and_search(engine, folder, Path(photos[0]), top=2)
    printed = capsys.readouterr().out
    assert f"$ python tools/index.py {engine} {folder} --stats" in printed
    assert f"$ python tools/search.py {engine} {photos[0]} --top 2" in printed
    assert printed.rstrip().splitlines()[-2].endswith(photos[0])


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
