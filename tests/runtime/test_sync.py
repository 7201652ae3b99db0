"""What photos on the disk and an index do not have in common."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime import Retriever
from runtime.index.ids import id_of_path
from runtime.io.finding import find_photos
from runtime.sync import Differences, differences


@pytest.fixture
def folder(photos: list[str], tmp_path: Path) -> Path:
    """Three photos in a folder, and another beside them in its subfolder."""
    (tmp_path / "photos" / "more").mkdir(parents=True)
    for path, name in zip(photos, ("a.png", "b.png", "c.png", "more/d.png"), strict=False):
        shutil.copy(path, tmp_path / "photos" / name)
    return tmp_path / "photos"


@pytest.fixture
def retriever(exported: Path, folder: Path, tmp_path: Path) -> Iterator[Retriever]:
    """With the photos of the folder in its index, under ids that are seen from there."""
    with Retriever(exported / "engine.onnx", tmp_path / "idx", root=folder, device="cpu") as retriever:
        retriever.add(find_photos([folder]))
        yield retriever


def compare(retriever: Retriever, folder: Path) -> Differences:
    photos = {id_of_path(path, retriever.root): path for path in find_photos([folder])}
    return differences(retriever.index, photos, [folder], retriever.root)


def test_without_a_change_there_is_no_difference(retriever: Retriever, folder: Path) -> None:
    assert retriever.ids() == ["a.png", "b.png", "c.png", "more/d.png"]
    assert compare(retriever, folder) == Differences([], [], [], [], 4)


def test_new_changed_and_vanished_photos_are_told_apart(retriever: Retriever, folder: Path, photos: list[str]) -> None:
    shutil.copy(photos[4], folder / "e.png")
    shutil.copy(photos[5], folder / "b.png")
    os.utime(folder / "c.png", ns=(0, 0))
    (folder / "a.png").unlink()
    assert compare(retriever, folder) == Differences(["e.png"], ["b.png", "c.png"], ["a.png"], [], 1)
    retriever.add([folder / "b.png", folder / "c.png"], existing="replace")
    assert compare(retriever, folder).changed == []
    assert retriever.search(photos[5], top=1)[0].id == "b.png"


def test_only_photos_of_the_named_folder_can_have_vanished(retriever: Retriever, folder: Path) -> None:
    (folder / "a.png").unlink()
    assert compare(retriever, folder / "more").vanished == []
    photos = {id_of_path(path, folder): path for path in find_photos([folder / "b.png"])}
    assert differences(retriever.index, photos, [folder / "a.png"], folder).vanished == ["a.png"]


def test_a_photo_that_came_from_elsewhere_has_not_vanished(
    retriever: Retriever, folder: Path, photos: list[str]
) -> None:
    """Its id leads nowhere, seen from this root: it was seen from another one, or is the user's own."""
    with Retriever(retriever.encoder.path, retriever.index_path, root=Path(photos[5]).parent, device="cpu") as other:
        other.add([photos[5]])
    retriever.add([b"" + Path(photos[4]).read_bytes()], ids=["my own"])
    retriever.refresh()
    (folder / "a.png").unlink()
    found = compare(retriever, folder)
    assert (found.vanished, found.elsewhere) == (["a.png"], ["my own", "photo5.png"])


def test_a_file_that_is_passed_over_has_not_vanished(retriever: Retriever, folder: Path) -> None:
    (folder / "a.png").rename(folder / "a.dat")
    retriever.add([folder / "a.dat"])
    (folder / "more").rename(folder / ".hidden")
    retriever.add([folder / ".hidden" / "d.png"])
    assert compare(retriever, folder).vanished == ["a.png", "more/d.png"]


def test_everything_is_new_to_no_index(folder: Path) -> None:
    assert differences(None, {"a.png": folder / "a.png"}, [folder]) == Differences(["a.png"], [], [], [], 0)
