"""Evaluation on the validation photos of SfM-120k, in a made set of the published layout."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import HowlError
from tools import evaluate
from train.data.sfm120k import photo_path

FOLDER = "train/retrieval-SfM-120k"
CIDS = [f"{i:02x}c0ffee{255 - i:02x}" for i in range(6)]
LISTS: dict[str, dict[str, list]] = {
    "train": {"cids": CIDS[:2], "cluster": [7, 7], "qidxs": [0], "pidxs": [1]},
    "val": {"cids": CIDS, "cluster": [1, 1, 1, 9, 9, 9], "qidxs": [0, 4], "pidxs": [1, 5]},
}
ECCV20 = {"cids": CIDS, "qidx": [3, 0], "gnd": [{"ok": [4]}, {"ok": [2], "junk": [0, 1, 3, 4, 5]}]}


@pytest.fixture
def root(tmp_path: Path, photos: list[str]) -> Path:
    """The six photos, and the lists of all published sets of them."""
    folder = tmp_path / "data" / FOLDER
    for cid, photo in zip(CIDS, photos, strict=True):
        path = photo_path(folder, cid)
        path.parent.mkdir(parents=True)
        shutil.copy(photo, path)
    (folder / "retrieval-SfM-120k.pkl").write_bytes(pickle.dumps(LISTS, protocol=2))
    return tmp_path / "data"


def run(capsys: pytest.CaptureFixture[str], engine: Path, root: Path) -> dict[str, Any]:
    evaluate.main([str(engine), "sfm120k", "--data-root", str(root), "--json"])
    return json.loads(capsys.readouterr().out)["sets"][0]


def test_queries_are_left_out_of_their_own_answers(
    engine: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(capsys, engine, root)
    assert (result["photos"], result["queries"]) == (6, 2)
    assert result["labels"].endswith("retrieval-SfM-120k.pkl")
    queries = [str(photo_path(root / FOLDER, CIDS[number])) for number in (0, 4)]
    assert list(result["average_precisions"]) == queries
    for precision in result["average_precisions"].values():
        # One positive among five photos, at 0-based rank r: 1 at the front, (0/r + 1/(r + 1)) / 2 behind.
        assert any(precision == pytest.approx(possible) for possible in (1, 1 / 4, 1 / 6, 1 / 8, 1 / 10))


def test_hows_list_is_taken_where_it_is_present_with_its_junk(
    engine: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / FOLDER / "retrieval-SfM-120k-val-eccv2020.pkl").write_bytes(pickle.dumps(ECCV20, protocol=2))
    result = run(capsys, engine, root)
    assert result["labels"].endswith("retrieval-SfM-120k-val-eccv2020.pkl")
    precisions = result["average_precisions"]
    assert precisions[str(photo_path(root / FOLDER, CIDS[0]))] == 1  # all but the right answer are junk
    evaluate.main([str(engine), "sfm120k", "--data-root", str(root)])
    assert "val-eccv2020.pkl): 2 queries, each against 5 photos" in capsys.readouterr().out


@pytest.mark.parametrize("broken", ["missing", "empty"])
def test_a_photo_that_is_not_there_is_an_error_and_not_another_figure(broken: str, engine: Path, root: Path) -> None:
    path = photo_path(root / FOLDER, CIDS[5])
    path.unlink()
    if broken == "empty":
        path.touch()
    with pytest.raises(HowlError, match=rf"{path.name}: {broken}[^\n]*; unpack http[^\n]*ims\.tar\.gz into"):
        evaluate.main([str(engine), "sfm120k", "--data-root", str(root)])


def test_without_the_set_it_says_what_to_fetch(engine: Path, tmp_path: Path) -> None:
    with pytest.raises(HowlError, match=r"retrieval-SfM-120k is not here.*http.*--data-root"):
        evaluate.main([str(engine), "sfm120k", "--data-root", str(tmp_path / "nowhere")])
