"""The commands that index and search: what they print, and what they do with wrong input."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import pytest

from runtime.io.cli import run_command
from runtime.retriever import Retriever
from tools import index, search

Main = Callable[[Sequence[str] | None], None]


def status(main: Main, *arguments: object) -> int:
    """The exit status of a command run with these arguments."""
    try:
        return run_command(lambda _: main([str(argument) for argument in arguments]))
    except SystemExit as usage:
        return int(usage.code or 0)


def test_photos_are_indexed_found_and_removed(
    engine: Path, photos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--index", tmp_path / "idx"]
    assert status(index.main, engine, *photos[:4], *where, "--stats") == 0
    printed = capsys.readouterr().out
    assert "added 4 photos" in printed
    assert "images          4" in printed

    assert status(search.main, engine, photos[2], *where, "--top", "2") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].endswith(photos[2])

    assert status(search.main, engine, photos[2], *where, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["query"] == photos[2]
    assert answer["hits"][0]["id"] == photos[2]

    assert status(index.main, engine, *where, "--remove", photos[2], photos[3]) == 0
    capsys.readouterr()
    assert status(search.main, engine, photos[2], *where, "--json") == 0
    assert {hit["id"] for hit in json.loads(capsys.readouterr().out)["hits"]} <= set(photos[:2])


def test_several_queries_are_answered_though_one_cannot_be_read(
    engine: Path, photos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty.jpg"
    empty.touch()
    assert status(index.main, engine, *photos, "--threads", 1) == 0
    capsys.readouterr()
    assert status(search.main, engine, photos[0], empty, photos[1], "--json", "--top", 1, "--threads", 1) == 1
    printed = capsys.readouterr()
    first, broken, last = map(json.loads, printed.out.splitlines())
    assert (first["hits"][0]["id"], last["hits"][0]["id"]) == (photos[0], photos[1])
    assert broken == {"query": str(empty), "error": f"{empty}: empty file"}
    assert "1 of 3 queries cannot be read" in printed.err
    assert f"searched {engine.with_suffix('.index')}, which holds {len(photos)} photos" in printed.err


def test_a_path_is_the_same_however_it_is_typed(
    engine: Path, photos: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(photos[0]).parent)
    name, where = Path(photos[0]).name, tmp_path / "idx"
    with Retriever(engine, where) as retriever:
        assert retriever.add([f"./{name}"]).added == [name]
        retriever.remove([f".//{name}"])
        assert len(retriever) == 0
    assert status(index.main, engine, f"./{name}", "--index", where) == 0
    assert status(index.main, "--index", where, "--remove", f"./{name}") == 0


def test_an_index_follows_its_folder(
    engine: Path, photos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "photos"
    (folder / "old").mkdir(parents=True)
    for path, name in zip(photos, ("a.png", "b.png", "old/c.png", "old/d.png"), strict=False):
        shutil.copy(path, folder / name)
    follow = [engine, folder, "--root", folder, "--index", tmp_path / "idx", "--sync"]
    assert status(index.main, *follow) == 0
    assert "4 new, 0 replaced, 0 as before" in capsys.readouterr().out

    shutil.copy(photos[4], folder / "a.png")
    shutil.copy(photos[5], folder / "e.png")
    shutil.rmtree(folder / "old")
    assert status(index.main, *follow) == 0
    printed = capsys.readouterr().out
    assert "1 new, 1 replaced, 1 as before" in printed
    assert "2 vanished (old/c.png, old/d.png) and are still in the index; --yes removes them" in printed
    assert status(index.main, *follow, "--yes", "--stats") == 0
    printed = capsys.readouterr().out
    assert "2 vanished (old/c.png, old/d.png) and were removed; the index holds 3" in printed
    assert "images          3" in printed
    assert status(search.main, engine, photos[4], "--index", tmp_path / "idx", "--top", 1) == 0
    assert capsys.readouterr().out.endswith(" a.png\n")


def test_folders_are_removed_searched_and_left_out(
    engine: Path, photos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--index", tmp_path / "idx", "--root", tmp_path]
    for number, path in enumerate(photos):
        folder = tmp_path / ("even" if number % 2 == 0 else "odd")
        folder.mkdir(exist_ok=True)
        shutil.copy(path, folder)
    assert status(index.main, engine, tmp_path, *where) == 0
    capsys.readouterr()

    def found(*options: object) -> list[str]:
        assert status(search.main, engine, photos[0], *where[:2], "--json", *options) == 0
        return sorted(hit["id"] for hit in json.loads(capsys.readouterr().out)["hits"])

    even = [f"even/photo{number}.png" for number in (0, 2, 4)]
    assert found("--only", "even") == even
    assert found("--exclude", "odd/", "--exclude", even[0]) == even[1:]
    assert found("--only", "even", "--min-score", 9) == []
    assert status(search.main, engine, photos[0], *where[:2], "--exclude", "nothing") == 1
    assert "--exclude nothing: not in" in capsys.readouterr().err
    assert status(search.main, engine, photos[0], *where[:2], "--min-score", 9) == 0
    assert "no answer scores 9 or more" in capsys.readouterr().out
    assert status(index.main, *where, "--remove", tmp_path / "odd") == 0
    assert "removed 3 photos" in capsys.readouterr().out
    assert found() == even
    for everything in (tmp_path, "even"):
        assert status(index.main, *where, "--remove", everything) == 2
        assert "these are all of its 3 photos; --yes removes them" in capsys.readouterr().err
    assert status(index.main, *where[:2], "--remove", "") == 1
    assert "an empty path names no photo" in capsys.readouterr().err
    assert found() == even
    assert status(index.main, *where, "--remove", "even", "--yes") == 0


def test_one_file_by_two_paths_is_said_before_it_is_added(
    engine: Path, photos: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(index.main, engine, *photos[:2]) == 0
    monkeypatch.chdir(Path(photos[0]).parent)
    assert status(index.main, engine, *(Path(photo).name for photo in photos[:3])) == 0
    line = "2 of the photos are in the index, or named here, under another id too: photo0.png is "
    assert line + photos[0] in capsys.readouterr().err


def test_a_query_that_is_nowhere_is_told_from_one_that_is_found(
    engine: Path, tmp_path: Path, make_photo: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(41):
        cv2.imwrite(str(tmp_path / f"{number}.png"), make_photo(number))
    assert status(index.main, engine, *(tmp_path / f"{number}.png" for number in range(40)), "--stats") == 0
    assert "strangers       score up to about" in capsys.readouterr().out
    assert status(search.main, engine, tmp_path / "40.png") == 0
    assert "no answer stands out" in capsys.readouterr().out
    assert status(search.main, engine, tmp_path / "4.png") == 0
    assert "stands out" not in capsys.readouterr().out


def test_a_second_run_adds_what_is_new(engine: Path, photos: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert status(index.main, engine, *photos[:2]) == 0
    assert status(index.main, engine, Path(photos[0]).parent) == 0
    printed = capsys.readouterr().out
    assert f"added {len(photos) - 2} photos" in printed
    assert "2 were there already" in printed
    assert engine.with_suffix(".index").is_dir()


def test_an_index_made_beside_is_swapped_in(
    engine: Path, photos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    live, new = tmp_path / "live", tmp_path / "new"
    assert status(index.main, engine, *photos[:2], "--index", live) == 0
    assert status(index.main, engine, *photos[3:], "--index", new) == 0
    assert status(index.main, "--index", live, "--swap", new) == 0
    assert f"{live}: replaced by {new}" in capsys.readouterr().out
    assert status(search.main, engine, photos[4], "--index", live, "--json") == 0
    assert json.loads(capsys.readouterr().out)["hits"][0]["id"] == photos[4]
    assert status(index.main, "--index", new, "--stats") == 0
    assert "images          2" in capsys.readouterr().out
    assert status(index.main, "--index", live, "--swap", tmp_path / "nothing") == 1


def test_what_is_no_photo_and_names_that_are_no_text_stop_nothing(
    engine: Path, photos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    for name in (b"a.png", b"caf\xe9.png"):
        Path(os.fsdecode(os.path.join(os.fsencode(folder), name))).write_bytes(Path(photos[0]).read_bytes())
    (folder / "notes.txt").touch()
    assert status(index.main, engine, folder) == 0
    printed = capsys.readouterr().out
    assert "added 1 photos" in printed
    assert "passed over: 1 .txt" in printed
    assert "its name is not valid Unicode; rename it" in printed


def test_unreadable_photos_are_named_and_the_rest_is_added(
    engine: Path, photos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty.jpg"
    empty.touch()
    assert status(index.main, engine, photos[0], empty) == 0
    printed = capsys.readouterr().out
    assert "added 1 photos" in printed
    assert "left out 1 unreadable photo:" in printed
    assert f"{empty}: empty file" in printed
    assert status(index.main, engine, empty, "--index", tmp_path / "other") == 1


@pytest.mark.parametrize(
    ("main", "arguments", "line"),
    [
        (index.main, ["{engine}", "nowhere.jpg"], "nowhere.jpg: no such file"),
        (index.main, ["{engine}", "--stats"], "no index here"),
        (index.main, ["{engine}", "--remove", "x.jpg"], "no index here"),
        (index.main, ["missing.onnx", "{photo}"], "missing.onnx: no such engine"),
        (search.main, ["{engine}", "{photo}"], "no index here"),
        (search.main, ["{engine}", "{photo}", "--tau", "3"], "threshold is 3.0"),
    ],
)
def test_wrong_input_is_one_line(
    main: Main,
    arguments: list[str],
    line: str,
    engine: Path,
    photos: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert status(main, *(a.format(engine=engine, photo=photos[0]) for a in arguments)) == (
        2 if "threshold" in line else 1
    )
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert line in error
    assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        (index.main, ["e.onnx"]),
        (index.main, ["e.onnx", "photos", "--threads", "99999"]),
        (search.main, ["e.onnx"]),
        (search.main, ["e.onnx", "q.jpg", "--top", "0"]),
        (index.main, ["e.onnx", "photos", "--yes"]),
        (index.main, ["e.onnx", "--sync"]),
        (index.main, ["--index", "x", "--strangers"]),
    ],
)
def test_wrong_usage_exits_with_2(main: Main, arguments: list[str]) -> None:
    assert status(main, *arguments) == 2


def test_removing_an_unknown_photo_removes_none(
    engine: Path, photos: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(index.main, engine, *photos[:2]) == 0
    assert status(index.main, engine, "--remove", photos[0], "never.jpg") == 1
    assert "never.jpg is not in the index; nothing was removed" in capsys.readouterr().err
    assert status(index.main, engine, "--stats") == 0
    assert "images          2" in capsys.readouterr().out


def test_an_index_with_geometry_says_that_it_stays_so(
    engine: Path, photos: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(index.main, engine, photos[0]) == 0
    assert "--no-geometry" not in capsys.readouterr().err
    assert status(index.main, engine, photos[1], "--no-geometry") == 0
    assert "keeps where features lie, as it was made; --no-geometry is for a new one" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------- learned matching


def test_keypoints_are_kept_and_answers_verified_with_them(
    engine: Path,
    matcher: Path,
    photos: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Ids as seen from --root; kept again only for what is new; searched from another folder without the photos."""
    root = tmp_path / "photos"
    root.mkdir()
    for photo in photos[:4]:
        shutil.copy(photo, root)
    where, by = ["--index", tmp_path / "idx"], ["--matcher", matcher]
    assert status(index.main, engine, root, *where, "--root", root, *by) == 0
    kept = tmp_path / "idx.keypoints"
    assert f"{kept}: keypoints of 4 photos, 4 of them new" in capsys.readouterr().out
    shutil.copy(photos[4], root)
    assert status(index.main, engine, root, *where, "--root", root, *by) == 0
    assert "keypoints of 5 photos, 1 of them new" in capsys.readouterr().out
    assert status(index.main, *where, "--remove", Path(photos[0]).name, "--root", root, *by) == 0
    assert "keypoints of 4 photos, 0 of them new" in capsys.readouterr().out
    assert status(index.main, *where, "--stats", "--verify") == 0
    assert f"keypoints       kept in {kept}" in capsys.readouterr().out
    shutil.rmtree(root)
    monkeypatch.chdir(tmp_path)
    assert status(index.main, *where, *by) == 1
    assert "not there, nor any other photo of" in capsys.readouterr().err
    assert status(search.main, engine, photos[2], *where, "--rerank", "lightglue", *by, "--top", 2) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.index(".png") == second.index(".png"), "columns"
    assert first.split()[2:] == ["48", "inliers", "verified", Path(photos[2]).name]
    assert "verified" not in second
    kept.write_bytes(kept.read_bytes()[:5000])
    assert status(index.main, *where, "--verify") == 1
    assert f"{kept}: damaged" in capsys.readouterr().err


def test_features_are_kept_and_searched_without_photos(
    engine: Path, photos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "photos"
    root.mkdir()
    for photo in photos[:4]:
        shutil.copy(photo, root)
    where = ["--index", tmp_path / "idx"]
    assert status(index.main, engine, root, *where, "--root", root, "--keep-features") == 0
    kept = tmp_path / "idx.features"
    assert f"{kept}: features of 4 photos, 4 of them new" in capsys.readouterr().out
    assert status(index.main, *where, "--stats", "--verify") == 0
    assert f"features        kept in {kept}" in capsys.readouterr().out
    shutil.rmtree(root)
    assert status(search.main, engine, photos[2], *where, "--rerank", "ransac", "--top", 2) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.split()[2:] == ["50", "inliers", "verified", Path(photos[2]).name]
    assert "verified" not in second
    kept.write_bytes(kept.read_bytes()[:5000])
    assert status(index.main, *where, "--verify") == 1
    assert f"{kept}: damaged" in capsys.readouterr().err
    assert status(index.main, *where, "--keep-features") == 2
    assert "--keep-features: name the engine" in capsys.readouterr().err


def test_features_that_there_are_none_of_are_refused_before_anything_is_indexed(
    global_engine: Path, photos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = tmp_path / "idx"
    assert status(index.main, global_engine, *photos, "--index", where, "--keep-features") == 1
    assert f"{global_engine}: gives a global descriptor only, of which --keep-features" in capsys.readouterr().err
    assert not where.exists()


def test_an_index_says_its_regions(
    engine: Path, photos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--index", tmp_path / "idx"]
    assert status(index.main, engine, *photos[:3], *where, "--regions", 3) == 0
    assert status(index.main, *where, "--stats", "--verify") == 0
    assert "regions         3 levels of R-MAC's grid" in capsys.readouterr().out
    assert status(index.main, engine, photos[3], *where, "--regions", 2) == 1
    assert "aggregates its photos by 3 levels of regions, not 2" in capsys.readouterr().err


def test_photos_without_keypoints_are_said(
    engine: Path, matcher: Path, photos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All others are kept."""
    copies = [shutil.copy(photo, tmp_path) for photo in photos[:3]]
    assert status(index.main, engine, *copies) == 0
    Path(copies[1]).unlink()
    capsys.readouterr()
    assert status(index.main, engine, "--matcher", matcher) == 1
    printed = capsys.readouterr()
    assert "keypoints of 2 photos, 2 of them new" in printed.out
    assert f"{copies[1]}: No such file" in printed.out
    assert "1 of 3 photos have no keypoints; their lines are above. --root is the folder" in printed.err


def test_a_matcher_is_for_learned_matching_only(
    engine: Path, photos: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(search.main, engine, photos[0], "--matcher", "m.onnx", "--rerank", "spatial") == 2
    assert "--matcher m.onnx: only one re-ranking uses it; add --rerank lightglue" in capsys.readouterr().err
