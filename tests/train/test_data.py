"""The sources of training photos: synthetic scenes, a folder of folders, SfM-120k, and photos that are broken."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from runtime.errors import HowlError, ImageError
from runtime.io.image import Image
from train.data import LabelledPhotos, Truth, open_data
from train.data.labelled import ALL
from train.data.synthetic import synthetic_scenes, write_scenes


def open_folder(folder: Path, image_size: int = 64) -> tuple[LabelledPhotos, LabelledPhotos]:
    return open_data(str(folder), image_size=image_size, seed=0, root=Path("data"))


def read_by_scene(photos: LabelledPhotos) -> list[Image | None]:
    return [image for _, image in photos.read_all(range(len(photos)))]


# ------------------------------------------------------------------------------------------------ photo sets


def numbered_photos(scenes: list[int], unreadable: set[int], positives: Any = None) -> LabelledPhotos:
    def read(index: int) -> Image:
        if index in unreadable:
            raise ImageError(f"{index}: empty file")
        return np.full((2, 2, 3), index, np.uint8)

    truths = positives and {ALL: {query: Truth(matches) for query, matches in positives.items()}}
    return LabelledPhotos([f"photo {i}" for i in range(len(scenes))], scenes, read, truths)


@pytest.mark.parametrize("unreadable", [set(), {1}, {0, 2}, {4, 5}, set(range(8))])
def test_the_readable_photos_of_a_scene_match_each_other(unreadable: set[int]) -> None:
    scenes = [3, 3, 3, 0, 5, 5, 1, 1]
    photos = numbered_photos(scenes, unreadable)
    images = read_by_scene(photos)
    assert [image is None for image in images] == [i in unreadable for i in range(8)]
    queries = []
    for query in range(8):
        matches = [i for i in range(8) if scenes[i] == scenes[query] and i != query and i not in unreadable]
        assert photos.positives(query).tolist() == matches
        if matches and query not in unreadable:
            queries.append(query)
    assert photos.queries().tolist() == queries
    assert photos.unreadable == {f"photo {i}": f"{i}: empty file" for i in unreadable}


def test_given_pairs_decide_what_matches() -> None:
    pairs = {0: np.array([2, 3]), 4: np.array([4, 1]), 5: np.array([1])}
    photos = numbered_photos([0, 0, 0, 0, 1, 1], {1}, pairs)
    read_by_scene(photos)
    assert photos.queries().tolist() == [0]
    assert [photos.positives(q).tolist() for q in range(6)] == [[2, 3], [], [], [], [], []]


def test_an_unreadable_photo_is_no_answer_right_or_wrong() -> None:
    truths = {"some": {0: Truth(np.array([1, 3]))}, "none": {0: Truth(np.array([3]))}}
    photos = LabelledPhotos(list("abcde"), None, lambda i: np.zeros((2, 2, 3), np.uint8), truths)
    for number in (2, 3):
        photos.drop(number, "empty file")
    assert photos.queries().tolist() == [0]
    found = {setting: [sorted(kind.tolist()) for kind in truth] for setting, truth in photos.truths(0).items()}
    assert found == {"some": [[1], [0, 2, 3]]}


def test_photos_that_are_not_searched_are_no_answers() -> None:
    truths = {"easy": {4: Truth(np.array([1]))}, "hard": {3: Truth(np.array([0]), np.array([2]))}}
    photos = LabelledPhotos(list("abcde"), None, lambda i: np.zeros((2, 2, 3), np.uint8), truths, database_size=3)
    photos.drop(4, "empty file")
    photos.drop(1, "empty file")
    assert photos.queries().tolist() == [3]
    assert {setting: [kind.tolist() for kind in truth] for setting, truth in photos.truths(3).items()} == {
        "hard": [[0], [2, 1]]
    }


def test_photos_are_read_in_the_order_asked_for() -> None:
    photos = numbered_photos([0] * 40, set())
    order = np.random.default_rng(0).permutation(40).tolist()
    assert [(i, int(image[0, 0, 0])) for i, image in photos.read_all(order)] == [(i, i) for i in order]


def test_leaving_out_by_name_passes_over_unknown_names() -> None:
    photos = numbered_photos([0, 0, 0], set())
    photos.leave_out({"photo 1": "empty file", "a stranger": "no such file"})
    assert photos.usable.tolist() == [True, False, True]
    assert photos.unreadable == {"photo 1": "empty file"}


# ----------------------------------------------------------------------------------------------- synthetic scenes


@pytest.mark.slow
def test_a_seed_makes_the_same_scenes() -> None:
    first, again, other = (synthetic_scenes(scenes=2, views=4, image_size=64, seed=seed) for seed in (5, 5, 6))
    for i in range(8):
        np.testing.assert_array_equal(first.read(i), again.read(i))
        assert not np.array_equal(first.read(i), other.read(i))


def test_made_scenes_are_views_of_buildings() -> None:
    photos = synthetic_scenes(scenes=2, views=4, image_size=64, seed=0)
    assert photos.scenes.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    shapes = [image.shape for image in read_by_scene(photos) if image is not None]
    assert shapes == 2 * [(48, 64, 3), (48, 64, 3), (48, 64, 3), (64, 48, 3)]
    assert len({image.tobytes() for image in read_by_scene(photos) if image is not None}) == 8


def test_training_and_validation_scenes_differ_for_every_seed() -> None:
    sets = [open_data("scenes", image_size=64, seed=seed, root=Path("data")) for seed in (0, 1)]
    views = [photos.read(0) for pair in sets for photos in pair]
    assert len({view.tobytes() for view in views if view is not None}) == 4


def test_made_scenes_can_be_written_as_a_folder(tmp_path: Path) -> None:
    size = {"scenes": 2, "views": 2, "image_size": 64, "seed": 3}
    write_scenes(tmp_path, **size)
    made, (written, _) = synthetic_scenes(**size), open_folder(tmp_path)
    assert written.names == made.names
    assert written.scenes.tolist() == made.scenes.tolist()
    for i in range(4):
        difference = written.read(i).astype(float) - made.read(i)
        assert np.abs(difference).mean() < 12  # what JPEG loses; another view differs by far more


# ----------------------------------------------------------------------------------------- a folder of folders


def test_every_fifth_scene_of_a_folder_validates(tmp_path: Path, write_photos: Callable) -> None:
    write_photos(tmp_path, scenes=11, views=2)
    training, validation = open_folder(tmp_path)
    places = [{name.split("/")[0] for name in photos.names} for photos in (training, validation)]
    assert [len(names) for names in places] == [9, 2]
    assert not places[0] & places[1]
    for photos in (training, validation):
        by_name = [name.split("/")[0] for name in photos.names]
        same_scene = photos.scenes[:, None] == photos.scenes[None]
        assert (same_scene == (np.array(by_name)[:, None] == np.array(by_name)[None])).all()


def test_scenes_that_cannot_be_queried_are_not_held_out(tmp_path: Path, write_photos: Callable) -> None:
    write_photos(tmp_path, scenes=11, views=2)
    (tmp_path / "place4" / "1.jpg").unlink()  # a scene with one photo is not counted
    _, validation = open_folder(tmp_path)
    assert len(validation) == 4
    assert not [name for name in validation.names if name.startswith("place4/")]


@pytest.mark.parametrize("scenes", [3, 9])
def test_a_folder_with_too_few_scenes_to_judge_by_serves_as_both(
    scenes: int, tmp_path: Path, write_photos: Callable
) -> None:
    write_photos(tmp_path, scenes=scenes, views=2)
    training, validation = open_folder(tmp_path)
    assert training is validation
    assert len(training) == 2 * scenes


def test_photos_are_found_recursively_and_other_files_are_not(tmp_path: Path, write_photos: Callable) -> None:
    write_photos(tmp_path, scenes=2, views=2)
    nested = tmp_path / "place0" / "2024" / "summer"
    nested.mkdir(parents=True)
    (tmp_path / "place0" / "0.jpg").rename(nested / "0.JPG")
    (tmp_path / "place1" / "notes.txt").write_text("no photo")
    (tmp_path / "place1" / ".hidden.jpg").write_text("no photo")
    (tmp_path / "no photos").mkdir()
    (tmp_path / "stray.jpg").write_text("of no scene")
    training, _ = open_folder(tmp_path)
    assert training.names == ["place0/1.jpg", "place0/2024/summer/0.JPG", "place1/0.jpg", "place1/1.jpg"]
    assert training.scenes.tolist() == [0, 0, 1, 1]


def test_photos_are_rgb_and_shrunk_to_the_image_size(tmp_path: Path, write_photos: Callable) -> None:
    write_photos(tmp_path, scenes=2, views=1)
    red = np.zeros((120, 90, 3), np.uint8)
    red[..., 2] = 255
    cv2.imwrite(str(tmp_path / "place0" / "red.png"), red)
    photos, _ = open_folder(tmp_path, image_size=64)
    image = photos.read(photos.names.index("place0/red.png"))
    assert image.shape == (64, 48, 3)
    assert image[32, 24].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder, write: None, "no such folder"),
        (lambda folder, write: folder.write_text("a file"), "no such folder"),
        (lambda folder, write: folder.mkdir(), "no photos in its folders"),
        (lambda folder, write: write(folder / "place0", 3, 3), "two scenes"),
        (lambda folder, write: write(folder, 3, 1), "two photos"),
    ],
    ids=["missing", "a file", "empty", "one scene", "no pairs"],
)
def test_folders_without_enough_are_one_clear_error(
    tmp_path: Path, write_photos: Callable, make: Callable, message: str
) -> None:
    make(tmp_path / "photos", write_photos)
    with pytest.raises(HowlError, match=rf"photos: [^\n]*{message}[^\n]*$"):
        open_folder(tmp_path / "photos")


def test_broken_photos_are_left_out_by_name(
    tmp_path: Path, write_photos: Callable, break_photo: Callable, breakage: str
) -> None:
    write_photos(tmp_path, scenes=2, views=3)
    photos, _ = open_folder(tmp_path)
    broken = "place1/1.jpg"
    break_photo(tmp_path / broken, breakage)
    images = dict(zip(photos.names, read_by_scene(photos), strict=True))
    assert [name for name, image in images.items() if image is None] == [broken]
    assert list(photos.unreadable) == [broken]
    assert broken in photos.unreadable[broken]
    assert "\n" not in photos.unreadable[broken]
    assert photos.describe() == "5 photos of 2 scenes, 5 can be queries"


# --------------------------------------------------------------------------------------------------- SfM-120k

CIDS = [f"{i:02x}c0ffee{255 - i:02x}a1b2c3d4e5{i:02x}" for i in range(10)]
LISTS: dict[str, dict[str, list]] = {
    "train": {"cids": CIDS[:6], "cluster": [7, 7, 7, 2, 2, 2], "qidxs": [0, 0, 4], "pidxs": [1, 2, 3]},
    "val": {"cids": CIDS[6:], "cluster": [1, 1, 9, 9], "qidxs": [0, 2], "pidxs": [1, 3]},
}
ECCV20 = {"cids": CIDS[5:], "qidx": [4, 0], "gnd": [{"ok": [1, 2], "junk": np.array([0, 4])}, {"ok": np.array([3])}]}


@pytest.fixture
def sfm120k(tmp_path: Path, photo_of: Callable[..., Image]) -> Path:
    """A root that holds ten photos in the published layout."""
    folder = tmp_path / "train" / "retrieval-SfM-120k"
    for number, cid in enumerate(CIDS):
        path = folder / "ims" / cid[-2:] / cid[-4:-2] / cid[-6:-4] / cid
        path.parent.mkdir(parents=True)
        path.write_bytes(cv2.imencode(".png", photo_of(number, 0)[:, :, ::-1])[1].tobytes())
    (folder / "retrieval-SfM-120k.pkl").write_bytes(pickle.dumps(LISTS, protocol=2))
    return tmp_path


def open_sfm120k(root: Path) -> tuple[LabelledPhotos, LabelledPhotos]:
    return open_data("sfm120k", image_size=64, seed=0, root=root)


def positives_of(photos: LabelledPhotos) -> dict[int, list[int]]:
    return {query: photos.positives(query).tolist() for query in photos.queries().tolist()}


def test_sfm120k_opens_in_its_published_layout(sfm120k: Path, photo_of: Callable[..., Image]) -> None:
    training, validation = open_sfm120k(sfm120k)
    assert training.names == CIDS[:6]
    assert training.scenes.tolist() == [7, 7, 7, 2, 2, 2]
    assert positives_of(training) == {0: [1, 2], 4: [3]}
    assert positives_of(validation) == {0: [1], 2: [3]}
    for photos, first in ((training, 0), (validation, 6)):
        for number, image in enumerate(read_by_scene(photos)):
            np.testing.assert_array_equal(image, photo_of(first + number, 0))


def test_hows_validation_list_is_taken_where_it_is_present(sfm120k: Path, photo_of: Callable[..., Image]) -> None:
    path = sfm120k / "train" / "retrieval-SfM-120k" / "retrieval-SfM-120k-val-eccv2020.pkl"
    path.write_bytes(pickle.dumps(ECCV20, protocol=2))
    training, validation = open_sfm120k(sfm120k)
    assert len(training) == 6
    assert validation.names == CIDS[5:]
    assert positives_of(validation) == {0: [3], 4: [1, 2]}
    assert [sorted(set(validation.junk(query).tolist())) for query in (0, 4)] == [[0], [0, 4]]
    np.testing.assert_array_equal(validation.read(4), photo_of(9, 0))


def test_a_missing_photo_of_sfm120k_is_left_out_by_its_cid(sfm120k: Path) -> None:
    training, _ = open_sfm120k(sfm120k)
    cid = CIDS[1]
    (sfm120k / "train/retrieval-SfM-120k/ims" / cid[-2:] / cid[-4:-2] / cid[-6:-4] / cid).unlink()
    read_by_scene(training)
    assert list(training.unreadable) == [cid]
    assert positives_of(training) == {0: [2], 4: [3]}


@pytest.mark.parametrize("missing", ["", "retrieval-SfM-120k.pkl", "ims"])
def test_missing_sfm120k_says_what_to_fetch_and_where(sfm120k: Path, missing: str) -> None:
    folder = sfm120k / "train" / "retrieval-SfM-120k"
    (folder / missing).rename(sfm120k / "elsewhere")
    with pytest.raises(HowlError) as error:
        open_sfm120k(sfm120k)
    line = str(error.value)
    assert "\n" not in line
    for part in (str(folder), "dbs/retrieval-SfM-120k.pkl", "ims/ims.tar.gz", "--data-root"):
        assert part in line


@pytest.mark.parametrize(
    "lists",
    [
        [],
        {"train": LISTS["train"]},
        {**LISTS, "val": {"cids": CIDS[6:]}},
        {**LISTS, "train": {**LISTS["train"], "qidxs": [0]}},
        {**LISTS, "train": {**LISTS["train"], "pidxs": [1, 2, 600]}},
        {**LISTS, "train": {**LISTS["train"], "qidxs": [0, 0, -1]}},
        {**LISTS, "train": {**LISTS["train"], "cluster": [1, 2]}},
        {**LISTS, "train": {**LISTS["train"], "cids": [1, 2, 3, 4, 5, 6]}},
    ],
    ids=["a list", "no val", "no pairs", "unequal", "photo 600", "query -1", "too few clusters", "no names"],
)
def test_lists_in_another_layout_are_one_clear_error(sfm120k: Path, lists: Any) -> None:
    path = sfm120k / "train" / "retrieval-SfM-120k" / "retrieval-SfM-120k.pkl"
    path.write_bytes(pickle.dumps(lists))
    with pytest.raises(HowlError, match=r"retrieval-SfM-120k\.pkl: not in the published layout[^\n]*$"):
        open_sfm120k(sfm120k)


@pytest.mark.parametrize(
    "change",
    [
        {"qidx": [4, 900]},
        {"gnd": [{"ok": [1]}]},
        {"gnd": [{"junk": [1]}] * 2},
        {"gnd": [{"ok": [1], "junk": [5]}] * 2},
    ],
)
def test_a_validation_list_in_another_layout_is_one_clear_error(sfm120k: Path, change: dict) -> None:
    path = sfm120k / "train" / "retrieval-SfM-120k" / "retrieval-SfM-120k-val-eccv2020.pkl"
    path.write_bytes(pickle.dumps(ECCV20 | change))
    with pytest.raises(HowlError, match=r"val-eccv2020\.pkl: not in the published layout[^\n]*$"):
        open_sfm120k(sfm120k)


class RunsCode:
    """Unpickled by a careless reader, it leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return open, (str(self.trace), "w")


def test_lists_that_would_run_code_are_refused(sfm120k: Path) -> None:
    path, trace = sfm120k / "train/retrieval-SfM-120k/retrieval-SfM-120k.pkl", sfm120k / "trace"
    path.write_bytes(pickle.dumps({**LISTS, "train": RunsCode(trace)}))
    with pytest.raises(HowlError, match=r"retrieval-SfM-120k\.pkl: refused"):
        open_sfm120k(sfm120k)
    assert not trace.exists()
