"""Keypoints that are kept beside an index."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from runtime.errors import DamagedError, IncompatibleError, StorageError
from runtime.index.origin import Origin
from runtime.matching import Keypoints, KeypointStore, Matcher
from runtime.matching.store import BATCH, keep

ORIGIN = Origin(1, 2, 3)


def some(seed: int, n: int = 5) -> Keypoints:
    random = np.random.default_rng(seed)
    descriptors = random.normal(size=(n, 4)).astype(np.float32)
    return Keypoints(random.uniform(0, 100, (n, 2)).astype(np.float32), descriptors, (100, 80), 6)


def make(path: Path) -> KeypointStore:
    return KeypointStore(path, "a matcher", make=True)


def find_all(path: Path) -> None:
    with closing(KeypointStore(path, "a matcher")) as store:
        for i in range(50):
            store.find(str(i), ORIGIN)


def test_what_is_kept_is_found_in_another_process_too(tmp_path: Path) -> None:
    path = tmp_path / "x.keypoints"
    with closing(make(path)) as store:
        store.add([("a", ORIGIN, some(0)), ("b", None, some(1, n=0))])
        assert len(store) == 2
    with closing(KeypointStore(path, "a matcher")) as store:
        found = store.find("a", ORIGIN)
        assert found is not None
        np.testing.assert_array_equal(found.positions, some(0).positions)
        np.testing.assert_allclose(found.descriptors, some(0).descriptors, rtol=1e-3)
        assert (found.size, found.orientation) == ((100, 80), 6)
        assert (found.positions.dtype, found.descriptors.dtype) == (np.float32, np.float32)
        nothing = store.find("b", None)
        assert nothing is not None
        assert nothing.positions.shape == (0, 2)
        assert store.find("c", ORIGIN) is None


def test_keypoints_of_what_a_file_was_before_are_not_found(tmp_path: Path) -> None:
    with closing(make(tmp_path / "x")) as store:
        store.add([("a", ORIGIN, some(0))])
        assert store.find("a", Origin(1, 2, 4)) is None
        assert store.find("a", Origin(9, 2, 3)) is not None, "the same file, moved"
        assert store.find("a", None) is not None, "a photo that is gone: what is kept is all that there is"
        assert store.missing([("a", ORIGIN), ("b", ORIGIN)]) == ["b"]
        assert store.missing([("a", Origin(1, 3, 3))]) == ["a"]
        store.add([("a", Origin(1, 3, 3), some(2))])
        assert len(store) == 1
        assert store.find("a", ORIGIN) is None


def test_only_what_the_index_holds_is_kept(tmp_path: Path) -> None:
    with closing(make(tmp_path / "x")) as store:
        store.add([(id_, ORIGIN, some(0)) for id_ in "abc"])
        assert store.keep_only(["a", "c", "d"]) == 1
        assert store.find("b", ORIGIN) is None
        assert len(store) == 2


def test_keypoints_of_another_matcher_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    make(path).close()
    with pytest.raises(IncompatibleError, match=f"{path}: keypoints of another matcher; delete it, and howl index"):
        KeypointStore(path, "another matcher")


@pytest.mark.parametrize("content", [b"hello" * 1000, b""], ids=["text", "empty"])
def test_a_file_that_is_none_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(DamagedError, match=f"{path}: .*delete it, and howl index --matcher makes it again"):
        KeypointStore(path, "a matcher")


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with closing(make(path)) as store:
        store.add([(str(i), ORIGIN, some(i, n=200)) for i in range(50)])
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(DamagedError, match=f"{path}"):
        find_all(path)


def test_damaged_content_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with closing(make(path)) as store:
        store.add([("a", ORIGIN, some(0))])
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("UPDATE keypoints SET positions = x'0011'")
    with closing(KeypointStore(path, "a matcher")) as store, pytest.raises(DamagedError, match=f"{path}: damaged"):
        store.find("a", ORIGIN)


def test_a_file_is_verified_whatever_its_matcher(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with closing(make(path)) as store:
        store.add([(str(i), ORIGIN, some(i, n=200)) for i in range(50)])
    KeypointStore.verify(path)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:5000] + bytes(20_000) + whole[25_000:], b"hello" * 3000):
        path.write_bytes(damaged)
        with pytest.raises(DamagedError, match=f"{path}: "):
            KeypointStore.verify(path)


def test_a_missing_file_is_not_made_to_read(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="x"):
        KeypointStore(tmp_path / "x", "a matcher")
    assert not (tmp_path / "x").exists()


def test_photos_are_read_once_and_again_when_they_change(matcher: Path, photos: list[str], tmp_path: Path) -> None:
    cells = Matcher(matcher, device="cpu")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    named = {f"photo{i}": Path(photo) for i, photo in enumerate(photos)} | {"broken": broken}
    with closing(KeypointStore(tmp_path / "x", cells.fingerprint, make=True)) as store:
        done: list[int] = []
        report = keep(store, named, cells, done.append)
        assert report.added == [f"photo{i}" for i in range(6)]
        assert list(report.unreadable) == ["broken"]
        assert f"{broken}" in report.unreadable["broken"]
        assert sum(done) == len(named)
        assert keep(store, named, cells).added == []
        found = store.find("photo3", Origin.of(photos[3]))
        assert found is not None
        np.testing.assert_array_equal(found.positions, cells.detect(photos[3]).positions)
        copy = tmp_path / "copy.png"
        copy.write_bytes(Path(photos[0]).read_bytes())
        assert keep(store, {"photo1": copy}, cells).added == ["photo1"]
        assert len(store) == 1


def test_a_run_that_is_interrupted_goes_on(matcher: Path, photos: list[str], tmp_path: Path) -> None:
    cells = Matcher(matcher, device="cpu")
    named = {f"photo{i}": Path(photos[i % 6]) for i in range(2 * BATCH)}
    done = 0

    def stop(photos: int) -> None:
        nonlocal done
        done += photos
        if done > BATCH:
            raise KeyboardInterrupt

    with closing(KeypointStore(tmp_path / "x", cells.fingerprint, make=True)) as store:
        with pytest.raises(KeyboardInterrupt):
            keep(store, named, cells, stop)
        assert len(store) == BATCH
        assert len(keep(store, named, cells).added) == BATCH
