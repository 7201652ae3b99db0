"""Files: opened only if they are files, and written whole or not at all."""

import errno
import os
from pathlib import Path

import pytest

from runtime.errors import HowlError, StorageError
from runtime.io.files import atomic_write, ensure_writable, open_file, read_file


@pytest.fixture(params=[None, b"old"], ids=["new file", "existing file"])
def before(request: pytest.FixtureRequest) -> bytes | None:
    return request.param


@pytest.fixture
def path(tmp_path: Path, before: bytes | None) -> Path:
    path = tmp_path / "folder" / "file.bin"
    if before is not None:
        path.parent.mkdir()
        path.write_bytes(before)
    return path


def assert_untouched(path: Path, before: bytes | None) -> None:
    assert list(path.parent.iterdir()) == ([path] if before is not None else [])
    if before is not None:
        assert path.read_bytes() == before


def test_the_content_appears_at_the_end_of_the_block(path: Path, before: bytes | None) -> None:
    with atomic_write(path) as file:
        file.write(b"new")
        file.flush()
        assert path.exists() == (before is not None)
        assert before is None or path.read_bytes() == before
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), HowlError("no")], ids=repr)
def test_a_failure_inside_the_block_leaves_the_old_content(
    path: Path, before: bytes | None, error: BaseException
) -> None:
    def write_half() -> None:
        with atomic_write(path) as file:
            file.write(b"half of the n")
            raise error

    with pytest.raises(type(error)) as caught:
        write_half()
    assert caught.value is error
    assert_untouched(path, before)


def test_a_full_disk_leaves_the_old_content_and_is_one_line(
    path: Path, before: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(HowlError) as caught, atomic_write(path) as file:
        file.write(b"new")
    assert str(caught.value) == f"{path}: cannot be written: No space left on device"
    assert_untouched(path, before)


def test_the_content_is_on_the_disk_before_it_takes_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.bin"
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append((os.fstat(descriptor).st_size, path.exists())))
    with atomic_write(path) as file:
        file.write(b"12345")
    assert synced == [(5, False)]


def test_a_folder_in_the_way_is_named_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    (path / "inside").mkdir(parents=True)
    with pytest.raises(HowlError, match=r"file\.bin: cannot be written"), atomic_write(path) as file:
        file.write(b"new")
    assert list(tmp_path.iterdir()) == [path]
    assert (path / "inside").is_dir()


def test_a_file_where_the_folder_should_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "folder").write_bytes(b"")
    with (
        pytest.raises(HowlError, match=r"file\.bin: cannot be written"),
        atomic_write(tmp_path / "folder" / "file.bin"),
    ):
        pass


needs_pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")


def test_a_file_is_read_and_anything_else_is_not(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    assert read_file(tmp_path / "a") == b"content"
    with pytest.raises(OSError, match="a folder, not a file"):
        open_file(tmp_path)


@needs_pipes
def test_a_pipe_is_neither_read_nor_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="a pipe or a device, not a file"):
        read_file(tmp_path / "pipe")
    with pytest.raises(StorageError, match="it is a pipe or a device"):
        ensure_writable(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("path", "why"),
    [(".", "it is a folder"), ("file/x.json", "is a file"), ("/proc/x.json", "no file can be made in /proc")],
)
def test_what_cannot_be_written_is_found_out_before_the_work(
    path: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if path.startswith("/proc") and not Path("/proc").is_dir():
        pytest.skip("needs /proc")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=why):
        ensure_writable(tmp_path / "fine", Path(path))
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_of_a_link_the_file_is_written_that_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "file")
    for content in (b"first", b"second"):
        with atomic_write(tmp_path / "link") as file:
            file.write(content)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "real" / "file").read_bytes() == content
