"""What the index asks of the disk: what is synced before it is named, and what becomes of it where the disk refuses."""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runtime.errors import HowlError
from runtime.first_stage import ASMK, VECTORS
from runtime.index import Index
from runtime.index.segment import segment_files

from .index_images import IN_A_NEW_PROCESS, LAYOUT, assert_holds, folders, make_images, new_index

RunPython = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "landmarks.index"


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files and folders that were synced, in order, as the test goes on."""
    synced: list[Path] = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        fsync(descriptor)
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))

    monkeypatch.setattr(os, "fsync", watched)
    return synced


needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc/self/fd")


@needs_proc
@pytest.mark.parametrize("operation", ["add", "compact"])
def test_what_a_commit_names_is_synced_before(path: Path, syncs: list[Path], operation: str) -> None:
    """Every file of the segment, then its folder, then the folder of that; only then may the catalogue name it."""
    index = new_index(path)
    index.add(*make_images(0, 1))
    index.remove(["image0"])
    before = folders(path)
    syncs.clear()
    at_commit: list[list[Path]] = []
    index._catalogue._connection.set_trace_callback(
        lambda statement: at_commit.append(list(syncs)) if statement == "COMMIT" else None
    )
    if operation == "add":
        index.add(*make_images(2))
    else:
        index.compact()
    (made,) = folders(path) - before
    folder = path / made
    synced = next(paths for paths in at_commit if paths)  # a transaction that only reads comes before
    assert sorted(synced[:-2]) == sorted(folder / name for name in segment_files(LAYOUT))
    assert synced[-2:] == [folder, path]


@needs_proc
def test_the_folders_of_a_new_index_are_synced(tmp_path: Path, syncs: list[Path]) -> None:
    path = tmp_path / "new" / "below" / "landmarks.index"
    new_index(path)
    assert syncs == [path.parent, path.parent.parent, tmp_path, path]  # its own folder when the catalogue is in it


def test_a_commit_stays_through_a_power_loss(path: Path) -> None:
    """SQLite syncs the folder after it has deleted the journal, which is the commit."""
    index = new_index(path)
    (synchronous,) = index._catalogue._connection.execute("PRAGMA synchronous").fetchone()
    (journal,) = index._catalogue._connection.execute("PRAGMA journal_mode").fetchone()
    assert (synchronous, journal) == (3, "delete")  # EXTRA


# ------------------------------------------------------------------------------------------------ a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("needs mount")
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {' '.join(done.stderr.split())}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def filled(disk: Path, left: int) -> Iterator[None]:
    """A disk with about so many bytes left."""
    filler = disk / "filler"
    free = os.statvfs(disk)
    filler.write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - left)))
    yield
    filler.unlink()


OPERATIONS: dict[str, tuple[Callable[[Index], None], list[int]]] = {
    "add": (lambda index: index.add(*make_images(*range(100, 104))), [*range(10, 40), *range(100, 104)]),
    "remove": (lambda index: index.remove([f"image{seed}" for seed in range(15, 40)]), list(range(10, 15))),
    "compact": (lambda index: index.compact(), list(range(10, 40))),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_full_disk_is_refused_in_one_line(small_disk: Path, operation: str) -> None:
    """However full: it may be the segment that finds no room, or the catalogue, or its journal."""
    path = small_disk / "landmarks.index"
    index = new_index(path)
    index.add(*make_images(*range(40)))
    index.remove([f"image{seed}" for seed in range(10)])
    perform, after = OPERATIONS[operation]
    refused = 0
    for pages in range(100):
        with filled(small_disk, pages * 4096):
            line = refusal_or_none(lambda: perform(index))
            if line is None:
                break
            refused += 1
            assert line.startswith(f"{path}: nothing ")
            assert any(words in line for words in ("No space left", "is full", "disk I/O error")), line
            assert_holds(index, range(10, 40))
            assert_holds(Index(path), range(10, 40))
    assert refused >= 2
    assert_holds(Index(path), after)
    assert all(folder in index._catalogue.segment_names() for folder in folders(path))


def refusal_or_none(action: Callable[[], object]) -> str | None:
    """The one line with which something is refused, or None where it is not."""
    try:
        action()
    except HowlError as error:
        return str(error)
    return None


# --------------------------------------------------------------------------------------- a file that is truncated

lost_pages = pytest.mark.skipif(os.name != "posix", reason="the system does not let an open file be truncated")


@lost_pages
@pytest.mark.parametrize("method", [ASMK, VECTORS])
def test_a_search_of_truncated_files_is_refused_in_one_line(path: Path, method: str, run_python: RunPython) -> None:
    """In every thread, as often as it is tried; and other indexes of the process, and this one restored, answer."""
    code = f"from index_truncations import *; lose_large_files(path, {method!r})"
    done = run_python(IN_A_NEW_PROCESS + code, path)
    assert done.returncode == 0, done.stderr


@lost_pages
def test_truncated_small_files_change_no_answer(path: Path, run_python: RunPython) -> None:
    """Opening has read them."""
    done = run_python(IN_A_NEW_PROCESS + "from index_truncations import *; lose_small_files(path)", path)
    assert done.returncode == 0, done.stderr
