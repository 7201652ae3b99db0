"""Finding photos: what is taken, in which order, and that nothing is passed over in silence."""

import os
from collections import Counter
from pathlib import Path

import pytest

from runtime.errors import HowlError, MissingError
from runtime.io.finding import (
    PHOTO_SUFFIXES,
    describe_passed_over,
    find_photos,
    look_for_photos,
    loose_photos,
    scenes_below,
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    names = ["b.jpg", "a.PNG", "sub/deep/c.jpeg", "sub/a.webp", ".hidden.jpg", "notes.txt", "sub/jpg", "z.tif"]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / "album.jpg").mkdir()
    return folder


def test_folders_are_searched_through_and_sorted(tree: Path) -> None:
    expected = ["a.PNG", "b.jpg", "sub/a.webp", "sub/deep/c.jpeg", "z.tif"]
    assert [path.relative_to(tree).as_posix() for path in find_photos([tree])] == expected
    assert find_photos([str(tree)]) == find_photos([tree])


def test_paths_keep_their_order_and_come_once(tree: Path) -> None:
    found = find_photos([tree / "z.tif", tree / "sub", tree])
    names = [path.relative_to(tree).as_posix() for path in found]
    assert names == ["z.tif", "sub/a.webp", "sub/deep/c.jpeg", "a.PNG", "b.jpg"]


def test_a_file_that_is_named_is_taken_whatever_it_is_called(tree: Path) -> None:
    assert find_photos([tree / "notes.txt", tree / ".hidden.jpg"]) == [tree / "notes.txt", tree / ".hidden.jpg"]


def test_a_path_that_does_not_exist_is_an_error(tree: Path) -> None:
    with pytest.raises(HowlError, match=r"nowhere: no such file or folder"):
        find_photos([tree, tree / "nowhere"])


def test_a_folder_without_photos_is_an_error_that_says_what_was_looked_for(tree: Path) -> None:
    with pytest.raises(HowlError, match="no photos") as caught:
        find_photos([tree / "album.jpg"])
    assert str(tree / "album.jpg") in str(caught.value)
    assert all(suffix in str(caught.value) for suffix in PHOTO_SUFFIXES)


def test_what_is_passed_over_is_counted_by_kind(tree: Path) -> None:
    for name in ("clip.mp4", "sub/clip.MP4", "README"):
        (tree / name).touch()
    passed_over = look_for_photos([tree]).passed_over
    assert passed_over == Counter({".mp4": 2, ".txt": 1, "without a suffix": 2})
    assert describe_passed_over(Counter({".mp4": 2, ".txt": 1})) == "passed over: 2 .mp4, 1 .txt"


@pytest.mark.parametrize("suffix", sorted(PHOTO_SUFFIXES))
def test_every_suffix_of_a_photo_is_taken_in_any_case(tmp_path: Path, suffix: str) -> None:
    for name in (f"a{suffix}", f"b{suffix.upper()}"):
        (tmp_path / name).touch()
    assert len(find_photos([tmp_path])) == 2


def test_folders_behind_links_are_searched_once(tmp_path: Path) -> None:
    real, top = tmp_path / "real", tmp_path / "top"
    (real / "deep").mkdir(parents=True)
    (real / "a.jpg").touch()
    (real / "deep" / "b.jpg").touch()
    (top / "set").mkdir(parents=True)
    (top / "set" / "scene").symlink_to(real)
    (top / "zzz").symlink_to(real / "deep")  # reached already
    (real / "deep" / "back").symlink_to(top)  # and a loop
    found = [path.relative_to(top).as_posix() for path in find_photos([top])]
    assert found == ["set/scene/a.jpg", "set/scene/deep/b.jpg"]
    assert list(scenes_below(top)) == ["set", "zzz"]


def test_a_link_that_leads_nowhere_is_taken_for_a_photo_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").symlink_to(tmp_path / "gone.jpg")
    assert find_photos([tmp_path]) == [tmp_path / "a.jpg"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may open every folder")
def test_a_folder_without_permission_is_counted(tree: Path) -> None:
    (tree / "sub").chmod(0)
    try:
        assert look_for_photos([tree]).passed_over["folder without permission"] == 1
    finally:
        (tree / "sub").chmod(0o700)


def test_a_flat_folder_is_told_what_needs_no_labels(tmp_path: Path) -> None:
    with pytest.raises(MissingError) as empty:
        scenes_below(tmp_path)
    assert "howl init" not in str(empty.value)
    (tmp_path / "a.jpg").touch()
    with pytest.raises(MissingError, match=f"for photos without labels: howl init {tmp_path}$"):
        scenes_below(tmp_path)


def test_photos_beside_the_scenes_are_named(tree: Path) -> None:
    assert list(scenes_below(tree)) == ["sub"]
    assert loose_photos(tree)["b.jpg"] == f"{tree / 'b.jpg'}: in no scene's folder; move it into one"
    assert set(loose_photos(tree)) == {"a.PNG", "b.jpg", "z.tif"}
