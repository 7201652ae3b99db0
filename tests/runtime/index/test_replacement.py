"""An index that is replaced, moved or deleted under a process that holds it open, and the swap that is meant."""

import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

import runtime.index.catalogue
from runtime.errors import (
    DamagedError,
    IncompatibleError,
    MissingError,
    ReplacedError,
    StorageError,
    UsageError,
    WriterBusyError,
)
from runtime.index import Index
from runtime.index.catalogue import Catalogue
from runtime.index.verification import CATALOGUE

from .index_images import LAYOUT, assert_holds, everything, found, make_images, new_index

WRITES: dict[str, Callable[[Index], object]] = {
    "add": lambda index: index.add(*make_images(50)),
    "remove": lambda index: index.remove(["image0"]),
    "compact": lambda index: index.compact(),
}


def filled(path: Path, *seeds: int) -> Path:
    """A closed index of these images, each in a commit of its own."""
    index = new_index(path)
    for seed in seeds:
        index.add(*make_images(seed))
    index.close()
    return path


def rebuilt(path: Path, new: Path) -> None:
    shutil.rmtree(path)
    new.rename(path)


def renamed(path: Path, new: Path) -> None:
    path.rename(path.with_name("old"))
    new.rename(path)


def deleted(path: Path, new: Path) -> None:
    shutil.rmtree(path)


def swapped(path: Path, new: Path) -> None:
    Index.replace(path, new)


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("replace", [rebuilt, renamed, deleted, swapped])
def test_a_holder_writes_nothing_into_what_replaced_its_index(
    replace: Callable[[Path, Path], None], write: Callable[[Index], object], tmp_path: Path
) -> None:
    path = filled(tmp_path / "live", 0, 1, 2)
    holder = Index(path)
    before = everything(holder)
    replace(path, filled(tmp_path / "new", 7, 8))
    with pytest.raises(ReplacedError, match=r"live: nothing .*: replaced, moved or deleted since it was opened"):
        write(holder)
    assert everything(holder) == before  # it goes on searching
    if replace is not deleted:
        assert_holds(Index(path), [7, 8])
    if replace in (renamed, swapped):
        assert_holds(Index(tmp_path / ("old" if replace is renamed else "new")), [0, 1, 2])


@pytest.mark.parametrize("replace", [rebuilt, renamed, swapped])
def test_a_refresh_takes_up_the_replacement(replace: Callable[[Path, Path], None], tmp_path: Path) -> None:
    path = filled(tmp_path / "live", 0, 1, 2)
    holder = Index(path)
    replace(path, filled(tmp_path / "new", 7, 8))
    holder.refresh()
    assert_holds(holder, [7, 8])
    holder.add(*make_images(9))
    holder.remove(["image7"])
    holder.compact()
    assert_holds(Index(path), [8, 9])


def test_a_refresh_says_what_it_cannot_take_up(tmp_path: Path) -> None:
    path = filled(tmp_path / "live", 0, 1)
    holder = Index(path)
    before = everything(holder)
    path.rename(tmp_path / "elsewhere")
    with pytest.raises(ReplacedError, match="moved or deleted since it was opened; searches go on"):
        holder.refresh()
    Index.create(path, fingerprint="another engine", layout=LAYOUT).close()
    with pytest.raises(ReplacedError, match="replaced by an index of another engine; searches go on"):
        holder.refresh()
    assert everything(holder) == before
    shutil.rmtree(path)
    (tmp_path / "elsewhere").rename(path)
    holder.refresh()
    assert_holds(holder, [0, 1])


def test_a_link_that_is_changed_leaves_both_indexes_whole(tmp_path: Path) -> None:
    blue, green, live = filled(tmp_path / "blue", 0, 1), filled(tmp_path / "green", 5), tmp_path / "live"
    live.symlink_to(blue)
    holder = Index(live)
    live.unlink()
    live.symlink_to(green)
    for write in WRITES.values():
        with pytest.raises(ReplacedError):
            write(holder)
    assert_holds(Index(blue), [0, 1])
    assert_holds(Index(green), [5])
    holder.refresh()
    holder.add(*make_images(6))
    assert_holds(Index(green), [5, 6])
    assert_holds(Index(blue), [0, 1])


def test_another_current_folder_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    filled(tmp_path / "b" / "live", 5, 6)
    monkeypatch.chdir(tmp_path / "a")
    index = new_index(Path("live"))
    monkeypatch.chdir(tmp_path / "b")
    index.add(*make_images(0, 1))
    index.remove(["image1"])
    index.compact()
    index.refresh()
    assert index.verify() == []
    assert_holds(Index(tmp_path / "a" / "live"), [0])
    assert_holds(Index(tmp_path / "b" / "live"), [5, 6])


def test_the_sweep_leaves_segments_of_another_index_alone(tmp_path: Path) -> None:
    """Whatever the moment of a replacement, no writer knows the names of another index's segments as its own."""
    path, other = filled(tmp_path / "live", 0), filled(tmp_path / "new", 7)
    (segment,) = (entry for entry in other.iterdir() if entry.is_dir())
    shutil.copytree(segment, path / segment.name)
    index = Index(path)
    index.add(*make_images(1))
    assert (path / segment.name).exists()
    assert_holds(index, [0, 1])


def test_a_commit_counts_though_the_index_is_replaced_right_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, new = filled(tmp_path / "live", 0), filled(tmp_path / "new", 7)
    index, writing = Index(path), Catalogue.writing

    @contextmanager
    def replaced_after(catalogue: Catalogue, wait: float) -> Iterator[None]:
        with writing(catalogue, wait):
            yield
        monkeypatch.undo()
        Index.replace(path, new)

    monkeypatch.setattr(Catalogue, "writing", replaced_after)
    index.add(*make_images(1))
    assert_holds(Index(new), [0, 1])
    assert_holds(Index(path), [7])
    index.refresh()
    assert_holds(index, [7])


# ------------------------------------------------------------------------------------------------ the swap


def test_a_second_swap_undoes_the_first(tmp_path: Path) -> None:
    path, new = filled(tmp_path / "live", 0, 1), filled(tmp_path / "new", 7)
    Index.replace(path, new)
    assert_holds(Index(path), [7])
    assert_holds(Index(new), [0, 1])
    Index.replace(path, new)
    assert_holds(Index(path), [0, 1])


def test_what_cannot_be_swapped_stays(tmp_path: Path) -> None:
    path, other = filled(tmp_path / "live", 0), tmp_path / "other"
    Index.create(other, fingerprint="another engine", layout=LAYOUT).close()
    with pytest.raises(IncompatibleError, match=r"other: an index of another engine than .*live; it cannot"):
        Index.replace(path, other)
    regional = tmp_path / "regional"
    Index.create(regional, fingerprint="an engine", layout=replace(LAYOUT, regions=2)).close()
    with pytest.raises(IncompatibleError, match=r"regional: an index with other regions or geometry than .*live"):
        Index.replace(path, regional)
    with pytest.raises(MissingError, match="nothing: no index here"):
        Index.replace(path, tmp_path / "nothing")
    with pytest.raises(UsageError, match=r"is the index at .* itself"):
        Index.replace(path, path)
    busy = Index(filled(tmp_path / "busy", 3))
    with busy._writing("nothing"), pytest.raises(WriterBusyError, match="busy: another process is writing"):
        Index.replace(path, tmp_path / "busy", wait=0)
    assert_holds(Index(path), [0])


def test_searches_find_a_whole_index_at_every_moment_of_swaps(tmp_path: Path) -> None:
    path, new = filled(tmp_path / "live", 0, 1), filled(tmp_path / "new", 7, 8)
    reader, stop, faults = Index(path), threading.Event(), []
    answers = [everything(Index(each)) for each in (path, new)]

    def search() -> None:
        while not stop.is_set():
            reader.refresh()
            if everything(reader) not in answers:
                faults.append(reader.ids())

    thread = threading.Thread(target=search)
    thread.start()
    try:
        for _ in range(30):
            Index.replace(path, new)
    finally:
        stop.set()
        thread.join()
    assert not faults


# ----------------------------------------------------------------------------------------- before the work


def test_a_writer_waits_for_another_one_to_end(tmp_path: Path) -> None:
    path = filled(tmp_path / "live", 0)
    first, second = Index(path), Index(path, wait=30)
    begun, done = threading.Event(), []

    def add() -> None:
        begun.set()
        second.add(*make_images(1))
        done.append(True)

    thread = threading.Thread(target=add)
    with first._writing("nothing"):
        thread.start()
        begun.wait()
        assert not done
    thread.join()
    assert_holds(Index(path), [0, 1])


def test_whether_an_index_can_be_made_is_known_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "photo.jpg").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below" / "idx"):
        with pytest.raises(StorageError, match="file is a file; name another folder"):
            Index.ensure_possible(path)
    with pytest.raises(UsageError, match="full: not empty, and not an index"):
        Index.ensure_possible(tmp_path / "full")
    Index.ensure_possible(tmp_path / "new" / "idx")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("commits", [1, 2])
def test_an_index_that_is_copied_over_is_not_written_into(tmp_path: Path, commits: int) -> None:
    """The file stays the same, and SQLite may not notice: equally many commits look alike to it."""
    held = new_index(tmp_path / "live")
    held.add(*make_images(0, 1))
    other = new_index(tmp_path / "new")
    for seed in range(10, 10 + commits):
        other.add(*make_images(seed))
    other.close()
    for file in (tmp_path / "new").rglob("*"):
        if file.is_file():
            target = tmp_path / "live" / file.relative_to(tmp_path / "new")
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(file.read_bytes())
    for write in (lambda: held.remove(["image0"]), lambda: held.add(*make_images(5)), held.compact):
        with pytest.raises(ReplacedError):
            write()
    assert found(held, 0)[0] == "image0"  # searches go on in what was opened
    held.refresh()
    assert_holds(held, range(10, 10 + commits))
    with closing(Index(tmp_path / "live")) as anew:
        assert_holds(anew, range(10, 10 + commits))


def test_paths_may_be_texts(tmp_path: Path) -> None:
    live, new = filled(tmp_path / "live", 0), filled(tmp_path / "new", 1)
    Index.replace(str(live), str(new))
    with closing(Index(str(live))) as index:
        assert_holds(index, [1])
    with pytest.raises(UsageError, match="index: a path is needed, not int"):
        Index(5)  # type: ignore[arg-type]


def test_an_index_that_another_program_keeps_locked_is_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime.index.catalogue, "PATIENCE", 0.05)
    held = new_index(tmp_path / "live")
    held.add(*make_images(0))
    with closing(sqlite3.connect(tmp_path / "live" / CATALOGUE, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(WriterBusyError):
            held.existing(["image0"])
        with pytest.raises(WriterBusyError):
            held.add(*make_images(1), wait=0)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
@pytest.mark.parametrize("name", ["words.npy", "images.npy", "ordinals.npy", CATALOGUE])
def test_a_pipe_in_the_place_of_a_file_is_said(tmp_path: Path, name: str) -> None:
    with closing(new_index(tmp_path / "live")) as index:
        index.add(*make_images(0))
    (file,) = (tmp_path / "live").rglob(name)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(DamagedError, match="not a file"):
        Index(tmp_path / "live")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_known_before_the_work(tmp_path: Path) -> None:
    path = filled(tmp_path / "live", 0)
    index = Index(path)
    path.chmod(0o500)
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StorageError, match="no permission"):
            index.ensure_writable()
        with pytest.raises(StorageError, match="no permission"):
            Index.ensure_possible(tmp_path / "new")
    finally:
        tmp_path.chmod(0o700)
        path.chmod(0o700)
