"""Photos of a rendered scene, placed by the command a user types, against their true cameras."""

import json
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from runtime import Retriever
from runtime.errors import IdError
from runtime.io.cli import run_command
from runtime.matching import KeypointStore, Matcher
from runtime.matching.store import OF_MATCHER, keep
from tools import localise
from train.data.synthetic.place import place_of

from ...conftest import draw_photo
from .conftest import QUERIES, Scene
from .scene import SCENE, SEED, pycolmap, true_camera, write_view

pytestmark = pytest.mark.slow  # the matcher is exported


def run(*arguments: object) -> int:
    return run_command(lambda _: localise.main([str(argument) for argument in arguments]))


@pytest.fixture
def command(scene: Scene, exported: Path, lighterglue: Path, tmp_path: Path) -> list[object]:
    """All that a run needs but queries and their cameras; writes poses.txt into the test's folder."""
    where = ["--model", scene.model, "--images", scene.images, "--index", scene.index]
    engine = ["--engine", exported / "engine.onnx", "--matcher", lighterglue, "--device", "cpu"]
    return [*where, *engine, "--top", 4, "--out", tmp_path / "poses.txt"]


def read(path: Path) -> dict[str, Any]:
    poses = {}
    for line in path.read_text().splitlines():
        name, *values = line.split()
        w, x, y, z, *translation = map(float, values)
        poses[name] = pycolmap.Rigid3d(pycolmap.Rotation3d(np.array([x, y, z, w])), np.array(translation))
    return poses


def errors(pose: Any, view: int) -> tuple[float, float]:
    """Degrees, and the distance of the centres as a part of the scene's diagonal."""
    place, camera = place_of(SEED, SCENE), true_camera(view)
    rotation = pose.rotation.matrix()
    turned = np.trace(rotation @ camera.axes.T)
    centre = -rotation.T @ pose.translation
    size = np.hypot(place.width, place.height)
    return float(np.degrees(np.arccos(np.clip((turned - 1) / 2, -1, 1)))), float(
        np.linalg.norm(centre - camera.eye) / size
    )


@pytest.mark.parametrize("known", [True, False], ids=["known cameras", "unknown focal lengths"])
def test_queries_are_placed_where_they_were_taken(
    command: list[object], scene: Scene, known: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cameras = ["--cameras", scene.cameras] if known else []
    assert run(scene.images / "queries", *command, *cameras, "--json") == 0
    poses = read(tmp_path / "poses.txt")
    assert sorted(poses) == [f"view{view:02d}.png" for view in QUERIES]
    degrees, distances = zip(*(errors(poses[f"view{view:02d}.png"], view) for view in QUERIES), strict=True)
    assert np.median(degrees) < 0.5
    assert np.median(distances) < (0.01 if known else 0.03), "a focal length and a distance are hard to tell apart"
    assert max(degrees) < 1
    printed = capsys.readouterr()
    for answer in map(json.loads, printed.out.splitlines()):
        assert answer["reason"] is None
        assert answer["inliers"] > 200
        assert answer["matches"] == sum(answer["photos"].values())
        assert set(answer["photos"]) <= {f"db/view{view:02d}.png" for view in range(8)}
        pose = poses[Path(answer["query"]).name]
        np.testing.assert_allclose(answer["translation"], pose.translation)
        np.testing.assert_allclose(answer["centre"], -pose.rotation.matrix().T @ pose.translation, atol=1e-9)
        assert ("the list" if known else "estimated") in answer["camera"]["source"]
        assert len(answer["camera"]["params"]) == (3 if known else 4)
    assert "3 of 3 queries placed" in printed.err


def test_a_photo_that_is_turned_by_its_exif_is_placed_in_its_stored_pixels(
    command: list[object], scene: Scene, tmp_path: Path
) -> None:
    """COLMAP does not turn photos: the camera of one that lies on its side is on its side."""
    upright = cv2.imread(str(scene.images / "queries" / "view20.png"))
    turned = tmp_path / "turned.jpg"
    _, data = cv2.imencode(".jpg", cv2.rotate(upright, cv2.ROTATE_90_COUNTERCLOCKWISE), [cv2.IMWRITE_JPEG_QUALITY, 95])
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    turned.write_bytes(b"\xff\xd8\xff\xe1" + (len(exif) + 2).to_bytes(2) + exif + data.tobytes()[2:])
    focal = true_camera(20).focal / 2
    assert run(turned, *command, "--camera", f"SIMPLE_PINHOLE 480 640 {focal} 240 320") == 0
    pose = read(tmp_path / "poses.txt")["turned.jpg"]
    quarter = pycolmap.Rotation3d(np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1.0]]))  # x of the stored photo is −y
    upright_pose = pycolmap.Rigid3d(quarter, np.zeros(3)) * pose
    degrees, distance = errors(upright_pose, 20)
    assert degrees < 1
    assert distance < 0.02


def test_photos_added_later_are_found_without_a_rebuild(
    command: list[object], scene: Scene, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An index that holds one photo of the model, then another; the keypoints of the first are kept."""
    index = tmp_path / "growing"
    with Retriever(exported / "engine.onnx", index, root=scene.images, device="cpu") as retriever:
        for count, view in enumerate((6, 1), 1):
            retriever.add([scene.images / f"db/view{view:02d}.png"])
            run(scene.images / "queries/view21.png", *command, "--index", index, "--cameras", scene.cameras, "--json")
            answer = json.loads(capsys.readouterr().out.splitlines()[-1])
            assert len(answer["photos"]) == count


def test_photos_of_other_places_are_not_placed(
    command: list[object], scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is said why, whether their cameras are known or not; poses of an earlier run do not stay."""
    others = [tmp_path / "house.png", tmp_path / "texture.png"]
    write_view(others[0], 2, SCENE + 3)  # its windows are others: façades of the same windows may be placed
    cv2.imwrite(str(others[1]), draw_photo(0, height=480, width=640))
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8 no photo")
    (tmp_path / "poses.txt").write_text("an earlier pose\n")
    for camera in ([], ["--camera", "SIMPLE_PINHOLE 640 480 700 320 240"]):
        assert run(*others, broken, *command, *camera) == 1
        printed = capsys.readouterr()
        for other in others:
            assert f"{other}: not placed: " in printed.out
        assert f"{broken}: not placed: {broken}: " in printed.out
        assert "poses.txt: 0 of 3 queries placed" in printed.err
        assert "no query could be placed; the reasons are above" in printed.err
        assert (tmp_path / "poses.txt").read_text() == ""


def test_without_a_matcher_beside_the_engine_one_is_made(
    scene: Scene, engine: Path, lighterglue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export(networks: str, out: Path, **_: object) -> None:
        assert networks == "lighterglue"
        for file in lighterglue.parent.iterdir():
            shutil.copy(file, out.parent)

    monkeypatch.setattr("export.matcher.export_matcher", export)
    where = ["--model", scene.model, "--images", scene.images, "--index", scene.index, "--engine", engine]
    out = tmp_path / "poses.txt"
    assert run(scene.images / "queries/view20.png", *where, "--top", 2, "--cameras", scene.cameras, "--out", out) == 0
    assert (engine.parent / "matcher.onnx").exists()
    assert len(read(out)) == 1


def test_a_query_of_the_model_is_placed_by_the_others(
    command: list[object], scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the model's camera, and without itself among the answers."""
    assert run(scene.images / "db/view03.png", *command, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert "db/view03.png" not in answer["photos"]
    assert answer["camera"]["source"] == "the model"
    assert errors(read(tmp_path / "poses.txt")["view03.png"], 3)[0] < 1


# ------------------------------------------------------------------------------------------------ wrong input


def test_a_model_whose_names_do_not_match_names_three_and_the_root(
    command: list[object], scene: Scene, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index, query = tmp_path / "index", scene.images / "queries/view20.png"
    with Retriever(exported / "engine.onnx", index, root=scene.images / "db", device="cpu") as retriever:
        retriever.add(sorted((scene.images / "db").iterdir()))
    assert run(query, *command, "--index", index) == 1
    line = capsys.readouterr().err
    assert "db/view00.png, db/view01.png, db/view02.png in the model" in line
    assert "view00.png, view01.png, view02.png in the index" in line
    assert f"--root {scene.images / 'db'} would match" in line
    assert run(query, *command, "--index", index, "--root", scene.images / "db", "--cameras", scene.cameras) == 0


def test_photos_of_the_model_that_moved_are_named(
    command: list[object], scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of them, with the folder that would match; one is passed over, and said."""
    images = Path(shutil.copytree(scene.images, tmp_path / "images"))
    query = [images / "queries/view20.png", "--cameras", scene.cameras]
    for wrong in (images / "db", tmp_path):
        assert run(*query, *command, "--images", wrong) == 1
        line = capsys.readouterr().err
        assert f"{wrong}: no image of the model is here: db/view00.png, db/view01.png, db/view02.png" in line
        assert f"--images {images} would match" in line
    assert run(*query, *command, "--images", tmp_path / "none") == 1
    assert "none: no such folder; --images is the one from which the model's names" in capsys.readouterr().err
    for view in (2, 3, 4):
        (images / f"db/view{view:02d}.png").unlink()
    assert run(*query, *command, "--images", images, "--top", 8) == 0
    assert "3 of 8 photos could not be matched" in capsys.readouterr().err


def test_kept_keypoints_need_no_photos(
    command: list[object], scene: Scene, exported: Path, lighterglue: Path, tmp_path: Path
) -> None:
    """Nor do they change a pose."""
    query, own = scene.images / "queries/view20.png", ["--cameras", scene.cameras]
    assert run(query, *command, *own) == 0
    expected = (tmp_path / "poses.txt").read_text()
    index = Path(shutil.copytree(scene.index, tmp_path / "index"))
    with closing(
        KeypointStore(OF_MATCHER.path(index), Matcher(lighterglue, device="cpu").fingerprint, make=True)
    ) as kept:
        names = [f"db/view{view:02d}.png" for view in range(8)]
        keep(kept, {name: scene.images / name for name in names}, Matcher(lighterglue, device="cpu"))
    (tmp_path / "nothing").mkdir()
    assert run(query, *command, *own, "--index", index, "--images", tmp_path / "nothing") == 0
    got = [list(map(float, text.split()[1:])) for text in (expected, (tmp_path / "poses.txt").read_text())]
    np.testing.assert_allclose(got[0], got[1], atol=5e-3)  # descriptors are kept in half precision


@pytest.mark.parametrize(
    ("wrong", "status", "line"),
    [
        (["--model", "{empty}"], 1, "no model of COLMAP's here"),
        (["--camera", "PINHOLE 640 480 500"], 2, "a camera is a model of COLMAP's, width, height and its parameters"),
        (["--camera", "NONSENSE 640 480 500 1 2"], 2, "a camera is a model of COLMAP's"),
        (["--camera", "PINHOLE 640 480 0 0 320 240"], 2, "a camera is a model of COLMAP's"),
        (["--camera", "PINHOLE 640 480 nan 500 320 240"], 2, "a camera is a model of COLMAP's"),
        (["--cameras", "{empty}/none.txt"], 1, "none.txt: no such file"),
        (["--cameras", "{bad}"], 1, "bad.txt, line 2: PINHOLE 1: a camera is"),
        (["--camera", "SIMPLE_PINHOLE 640 640 500 320 320"], 1, "and its camera 640×640: another shape"),
        (["--matcher", "{empty}/m.onnx"], 1, "m.onnx: no matcher here"),
        (["--index", "{empty}/none"], 1, "no index here"),
        (["--candidates", "5"], 2, "only a re-ranking looks at them"),
    ],
)
def test_wrong_input_is_a_line(
    command: list[object],
    scene: Scene,
    tmp_path: Path,
    wrong: list[str],
    status: int,
    line: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.txt").write_text("# cameras\na.jpg PINHOLE 1\n")
    places = {"empty": str(tmp_path / "empty"), "bad": str(tmp_path / "bad.txt")}
    arguments = [word.format(**places) for word in wrong]
    try:
        got = run(scene.images / "queries/view20.png", *command, *arguments)
    except SystemExit as usage:
        got = int(usage.code or 0)
    assert got == status
    printed = capsys.readouterr()
    assert line in printed.err + printed.out
    assert "Traceback" not in printed.err


def test_a_damaged_model_is_named(
    command: list[object], scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Path(shutil.copytree(scene.model, tmp_path / "sfm"))
    for file, content in (("images.bin", b"\xff" * 40), ("points3D.bin", (0).to_bytes(8))):
        whole = (model / file).read_bytes()
        (model / file).write_bytes(content)
        assert run(scene.images / "queries/view20.png", *command, "--model", model) == 1
        assert f"{model}: " in capsys.readouterr().err
        (model / file).write_bytes(whole)


def test_names_depend_on_all_queries_and_not_on_which_are_placed(tmp_path: Path) -> None:
    a, b, c = (tmp_path / name for name in ("one/x.jpg", "two/x.jpg", "two/y.jpg"))
    assert localise.result_names([a, c]) == {a: "x.jpg", c: "y.jpg"}
    assert localise.result_names([a, b, c]) == {a: "one/x.jpg", b: "two/x.jpg", c: "two/y.jpg"}
    with pytest.raises(IdError, match=r"a b.jpg: the name has a blank"):
        localise.result_names([tmp_path / "a b.jpg"])
    with pytest.raises(IdError, match=r"x.jpg: the file of .*one/x.jpg under another name; name it once"):
        localise.result_names([a, tmp_path / "two" / ".." / "one" / "x.jpg"])


def test_cameras_of_no_query_are_said(
    command: list[object], scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name in the list may be that as seen from the images, as hloc has it."""
    cameras = tmp_path / "cameras.txt"
    lines = scene.cameras.read_text().replace("view20.png", "queries/view20.png")
    cameras.write_text(lines + "other.png SIMPLE_PINHOLE 640 480 700 320 240\n")
    queries = [scene.images / f"queries/view{view:02d}.png" for view in QUERIES]
    assert run(*queries, *command, "--cameras", cameras, "--json") == 0
    printed = capsys.readouterr()
    assert f"{cameras}: 1 lines are of no query, such as other.png" in printed.err
    assert all(json.loads(line)["camera"]["source"] == "the list" for line in printed.out.splitlines())


def test_a_model_in_the_folder_below_is_named(
    command: list[object], scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(scene.images / "queries/view20.png", *command, "--model", scene.model.parent) == 1
    assert f"there is one in {scene.model}" in capsys.readouterr().err
