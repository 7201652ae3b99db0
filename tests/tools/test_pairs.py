"""The pairs command, on a small real engine."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from runtime import Retriever
from runtime.encoder import Encoder
from runtime.io.cli import run_command
from tools import pairs


def run(*arguments: object) -> int:
    return run_command(lambda _: pairs.main([str(argument) for argument in arguments]))


def lines_of(path: Path) -> list[tuple[str, ...]]:
    return [tuple(line.split()) for line in path.read_text().splitlines()]


@pytest.fixture
def folder(photos: Sequence[str]) -> Path:
    return Path(photos[0]).parent


def test_the_pairs_of_a_folder_are_those_of_searches(
    exported: Path, folder: Path, photos: list[str], tmp_path: Path
) -> None:
    """Each photo with its best answers, each unordered pair once, none with itself; names as seen from the folder."""
    out = tmp_path / "pairs.txt"
    assert run(exported / "engine.onnx", folder, "--top", 2, "--device", "cpu", "--out", out) == 0
    names = [Path(photo).name for photo in photos]
    expected: list[tuple[str, str]] = []
    with Retriever(exported / "engine.onnx", tmp_path / "index", device="cpu", root=folder) as retriever:
        retriever.add(sorted(photos))
        for photo in sorted(photos):
            name = Path(photo).name
            best = [hit.id for hit in retriever.search(photo, top=3) if hit.id != name][:2]
            expected += [(name, other) for other in best if (other, name) not in expected]
    assert lines_of(out) == expected
    assert {name for pair in expected for name in pair} <= set(names)


def test_an_index_gives_the_pairs_of_its_photos(
    exported: Path, folder: Path, photos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine, index = exported / "engine.onnx", tmp_path / "index"
    with Retriever(engine, index, device="cpu", root=folder) as retriever:
        retriever.add(sorted(photos))
    assert run(engine, folder, "--top", 3, "--out", tmp_path / "a.txt") == 0
    assert run(engine, "--index", index, "--root", folder, "--top", 3, "--out", tmp_path / "b.txt") == 0
    assert lines_of(tmp_path / "a.txt") == lines_of(tmp_path / "b.txt")
    capsys.readouterr()
    assert run(engine, "--index", index, "--root", tmp_path, "--out", tmp_path / "c.txt") == 1
    assert "name the folder from which the ids are seen with --root" in capsys.readouterr().err
    assert not (tmp_path / "c.txt").exists()


def test_a_photo_of_an_index_that_is_gone_is_left_out_and_named(
    exported: Path, photos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, engine, out = tmp_path / "some", exported / "engine.onnx", tmp_path / "pairs.txt"
    folder.mkdir()
    for number, photo in enumerate(photos[:3]):
        (folder / f"{number}.png").write_bytes(Path(photo).read_bytes())
    with Retriever(engine, tmp_path / "index", device="cpu", root=folder) as retriever:
        retriever.add(sorted(folder.iterdir()))
    (folder / "1.png").unlink()
    capsys.readouterr()
    assert run(engine, "--index", tmp_path / "index", "--root", folder, "--out", out) == 0
    assert f"left out: {folder / '1.png'}: not there any more" in capsys.readouterr().err
    assert lines_of(out)


def test_ids_and_queries_are_named_from_one_folder(
    exported: Path, folder: Path, photos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not the ids from a folder that was not named, and the queries from where howl runs."""
    engine, index, out = exported / "engine.onnx", tmp_path / "index", tmp_path / "pairs.txt"
    with Retriever(engine, index, device="cpu", root=folder) as retriever:
        retriever.add(sorted(photos))
    assert run(engine, "--index", index, "--queries", photos[0], "--out", out) == 1
    assert "name the folder from which the ids are seen with --root" in capsys.readouterr().err
    assert run(engine, "--index", index, "--queries", photos[0], "--root", folder, "--out", out) == 0


def test_names_do_not_lead_out_of_the_folder(
    exported: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    twice = [os.path.relpath(folder / name) for name in sorted(os.listdir(folder))[:2]]
    assert run(exported / "engine.onnx", *twice, "--out", "pairs.txt") == 1
    assert "lies outside of the folder where howl runs; name the folder of all photos with --root" in (
        capsys.readouterr().err
    )


def test_options_may_come_before_photos(exported: Path, folder: Path, tmp_path: Path) -> None:
    assert run(exported / "engine.onnx", "--top", 2, folder, "--out", tmp_path / "pairs.txt") == 0


def test_queries_come_first_and_need_not_be_in_the_database(
    exported: Path, folder: Path, photos: list[str], tmp_path: Path
) -> None:
    out, engine = tmp_path / "pairs.txt", exported / "engine.onnx"
    query, *database = photos
    assert run(engine, *database, "--queries", query, "--root", folder, "--top", 2, "--out", out) == 0
    assert [first for first, _ in lines_of(out)] == [Path(query).name] * 2
    assert Path(query).name not in {second for _, second in lines_of(out)}


def test_queries_that_are_the_database_give_each_pair_once(exported: Path, folder: Path, tmp_path: Path) -> None:
    engine = exported / "engine.onnx"
    assert run(engine, folder, "--top", 3, "--out", tmp_path / "a.txt") == 0
    assert run(engine, folder, "--queries", folder, "--top", 3, "--out", tmp_path / "b.txt") == 0
    assert lines_of(tmp_path / "a.txt") == lines_of(tmp_path / "b.txt")


def test_inliers_are_asked_of_a_reranking(
    exported: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where none has them, the pairs of before stay."""
    engine, out = exported / "engine.onnx", tmp_path / "pairs.txt"
    out.write_text("of before\n")
    assert run(engine, folder, "--rerank", "spatial", "--min-inliers", 10_000, "--out", out) == 1
    assert lines_of(out) == [("of", "before")]
    assert "not written, as no photo has a partner" in capsys.readouterr().err
    assert run(engine, folder, "--rerank", "spatial", "--out", out) == 0
    assert lines_of(out)
    assert run(engine, folder, "--min-inliers", 5, "--out", out) == 2
    assert "--min-inliers: only a re-ranking counts inliers; add --rerank spatial" in capsys.readouterr().err
    assert run(engine, folder, "--rerank", "similarity", "--min-inliers", 5, "--out", out) == 2
    assert "--min-inliers: this re-ranking counts no inliers; take --rerank spatial" in capsys.readouterr().err
    assert run(engine, folder, "--rerank", "similarity", "--out", out) == 0


@pytest.mark.parametrize(
    ("arguments", "status", "line"),
    [
        (["{engine}"], 2, "name the database: either PHOTOS or --index DIR"),
        (["{engine}", "{folder}", "--index", "x"], 2, "name the database: either PHOTOS or --index DIR"),
        (["{engine}", "{folder}", "--root", "{engine}.index"], 1, "lies outside the root"),
        (["{engine}", "{blank}"], 1, "a b.png: the name has a blank"),
        (["{engine}", "nowhere"], 1, "nowhere: no such file or folder"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    exported: Path,
    folder: Path,
    photos: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    status: int,
    line: str,
) -> None:
    blank = tmp_path / "blank"
    blank.mkdir()
    (blank / "a b.png").write_bytes(Path(photos[0]).read_bytes())
    known = {"engine": exported / "engine.onnx", "folder": folder, "blank": blank}
    out = tmp_path / "pairs.txt"
    try:
        got = run(*[argument.format(**known) for argument in arguments], "--out", out)
    except SystemExit as ended:
        got = int(ended.code or 0)
    assert got == status
    assert line in capsys.readouterr().err
    assert not out.exists()


def test_a_photo_that_cannot_be_read_is_left_out_and_named(
    exported: Path,
    photos: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    make_photo: Callable[..., object],
) -> None:
    folder = tmp_path / "some"
    folder.mkdir()
    for number, photo in enumerate(photos[:3]):
        (folder / f"{number}.png").write_bytes(Path(photo).read_bytes())
    (folder / "broken.png").write_bytes(b"no photo")
    assert run(exported / "engine.onnx", folder, "--out", tmp_path / "pairs.txt") == 0
    assert f"left out: {folder / 'broken.png'}" in capsys.readouterr().err
    assert all("broken" not in name for pair in lines_of(tmp_path / "pairs.txt") for name in pair)


def test_global_descriptors_are_written_as_hloc_keeps_them(
    global_engine: Path, photos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A group a photo, by its name, which may have folders."""
    h5py = pytest.importorskip("h5py")
    folder, out = tmp_path / "some", tmp_path / "global.h5"
    (folder / "deep").mkdir(parents=True)
    for number, photo in enumerate(photos[:3]):
        (folder / "deep" / f"{number}.png").write_bytes(Path(photo).read_bytes())
    (folder / "broken.png").write_bytes(b"no photo")
    assert run(global_engine, folder, "--format", "h5", "--device", "cpu", "--out", out) == 0
    assert f"left out: {folder / 'broken.png'}" in capsys.readouterr().err
    encoder = Encoder(global_engine, device="cpu")
    with h5py.File(out) as file:
        assert sorted(file["deep"]) == ["0.png", "1.png", "2.png"]
        assert list(file) == ["deep"]
        for number, photo in enumerate(photos[:3]):
            expected = encoder.engine.extract(encoder.load(photo)).need_global()
            np.testing.assert_array_equal(file[f"deep/{number}.png"]["global_descriptor"][()], expected)


def test_local_features_are_no_global_descriptors(
    exported: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "global.h5"
    assert run(exported / "engine.onnx", folder, "--format", "h5", "--out", out) == 1
    assert "gives local features only, and --format h5 is for global descriptors" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(exported / "engine.onnx", folder, "--format", "h5", "--rerank", "spatial", "--out", out)
    assert "--format h5: is for PHOTOS alone" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(("rerank", "inliers"), [("lightglue", 30), ("ransac", 20)])
def test_pairs_that_matching_verifies(
    exported: Path, matcher: Path, photos: list[str], tmp_path: Path, rerank: str, inliers: int
) -> None:
    """A photo and its copy; all others show other things."""
    images, out = tmp_path / "images", tmp_path / "pairs.txt"
    images.mkdir()
    for photo in photos:
        (images / Path(photo).name).write_bytes(Path(photo).read_bytes())
    (images / "copy.png").write_bytes(Path(photos[2]).read_bytes())
    by = ["--rerank", rerank, "--min-inliers", inliers]
    by += ["--matcher", matcher] if rerank == "lightglue" else []
    assert run(exported / "engine.onnx", images, *by, "--out", out) == 0
    assert [set(pair) for pair in lines_of(out)] == [{"copy.png", Path(photos[2]).name}]


def test_a_best_answer_that_is_gone_is_no_sign_that_inliers_are_not_counted(
    exported: Path, matcher: Path, photos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, engine = tmp_path / "images", exported / "engine.onnx"
    images.mkdir()
    for photo in photos:
        (images / Path(photo).name).write_bytes(Path(photo).read_bytes())
    (images / "copy.png").write_bytes(Path(photos[2]).read_bytes())
    with Retriever(engine, tmp_path / "index", device="cpu", root=images) as retriever:
        retriever.add(sorted(images.iterdir()))
    (images / "copy.png").unlink()
    by = [
        "--rerank",
        "lightglue",
        "--matcher",
        matcher,
        "--min-inliers",
        30,
        "--queries",
        images / Path(photos[2]).name,
    ]
    out = tmp_path / "pairs.txt"
    assert run(engine, "--index", tmp_path / "index", "--root", images, *by, "--out", out) == 1
    printed = capsys.readouterr().err
    assert "copy.png: No such file" in printed
    assert "not written, as no photo has a partner" in printed


def test_reranking_needs_local_features(
    global_engine: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pairs.txt"
    assert run(global_engine, folder, "--rerank", "spatial", "--out", out) == 1
    assert f"{global_engine}: of global descriptors, and spatial verification needs ASMK" in capsys.readouterr().err
    assert not out.exists()
