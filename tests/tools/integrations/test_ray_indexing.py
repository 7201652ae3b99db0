"""Indexing on a cluster: the same entries as on one machine, whatever dies meanwhile."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from runtime import ImageError, Index, Retriever, UsageError
from runtime.addition import AddReport
from runtime.errors import StorageError
from runtime.index.shards import Shards
from tools import index as index_command
from tools.integrations.ray_indexing import Task, batch_size, engines, index_photos, new_shards, take
from tools.integrations.ray_workers import outcomes

if TYPE_CHECKING:  # which imports ray
    from ...clusters import Nodes

PHOTOS = 300


# What needs no cluster.


def test_engines_fill_the_cpus() -> None:
    nodes = [
        {"Alive": True, "Resources": {"CPU": 16.0}},
        {"Alive": True, "Resources": {"CPU": 6.0}},
        {"Alive": False, "Resources": {"CPU": 64.0}},
    ]
    assert engines(nodes, None, None) == (5, {"num_cpus": 4}, 4)
    assert engines(nodes, "cpu", 8) == (2, {"num_cpus": 8}, 8)
    assert engines([{"Alive": True, "Resources": {"CPU": 2.0}}], None, None) == (1, {"num_cpus": 2}, 2)
    with pytest.raises(UsageError, match="no machine of the cluster has so many CPUs"):
        engines(nodes, "cpu", 32)
    with pytest.raises(UsageError, match="no machine of the cluster has a GPU"):
        engines(nodes, "cuda", None)


def test_engines_take_gpus_where_there_are_some() -> None:
    nodes = [{"Alive": True, "Resources": {"CPU": 16.0, "GPU": 2.0}}, {"Alive": True, "Resources": {"CPU": 16.0}}]
    assert engines(nodes, None, None) == (2, {"num_gpus": 1}, None)
    assert engines(nodes, "cuda", 3) == (2, {"num_gpus": 1}, 3)
    assert engines(nodes, "cpu", None) == (8, {"num_cpus": 4}, 4)


def test_batches_are_worth_a_commit_and_keep_all_engines_busy() -> None:
    assert batch_size(10, 3, 4) == 8
    assert batch_size(300, 3, 4) == 38
    assert batch_size(100_000, 3, 4) == 64
    assert batch_size(100_000, 32, 4) == 512
    assert batch_size(20_000_000, 8, 32) == 1000


def test_outcomes_become_a_report() -> None:
    report, named = AddReport(), {"a": "p/a.jpg", "b": "p/b.jpg"}
    line = f"{os.path.abspath('p/b.jpg')}: empty"
    take(outcomes(["a", "b"], ["added", "skipped"], ["", line]), report, named)
    assert (report.added, report.skipped) == (["a"], {"b": "p/b.jpg: empty"})
    with pytest.raises(StorageError, match="the disk is full"):
        take(outcomes(["c"], ["failed StorageError"], ["the disk is full"]), report, {"c": "c"})


def task(engine: Path, index: Path, shards: int | None = None, **how: object) -> Task:
    settings: dict = {
        "geometry": True,
        "regions": None,
        "device": "cpu",
        "threads": 1,
        "max_pixels": 10**7,
        "wait": 10.0,
    }
    return Task(engine, index, shards, **(settings | how))


def test_where_a_new_index_can_be(tmp_path: Path, engine: Path, photos: list[str]) -> None:
    assert new_shards(task(engine, tmp_path / "new", 3)).count == 3
    with pytest.raises(UsageError, match="--shards N says how many"):
        new_shards(task(engine, tmp_path / "new"))
    (tmp_path / "half" / "shard-1").mkdir(parents=True)  # an interrupted beginning
    assert new_shards(task(engine, tmp_path / "half", 2)).count == 2
    (tmp_path / "half" / "letter.txt").touch()
    with pytest.raises(UsageError, match="not empty"):
        new_shards(task(engine, tmp_path / "half", 2))
    with Retriever(engine, tmp_path / "whole", device="cpu") as retriever:
        retriever.add(photos[:1])
    with pytest.raises(UsageError, match="an index without shards"):
        new_shards(task(engine, tmp_path / "whole", 2))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["ENGINE", "PHOTOS", "--shards", "2"], "--shards: only a cluster has use for it; add --ray"),
        (["ENGINE", "PHOTOS", "--sync", "--ray"], "--sync: not with --ray"),
        (["ENGINE", "PHOTOS", "--stats", "--ray"], "--stats: not with --ray"),
        (["--index", "x", "--remove", "y", "--ray"], "--remove: not with --ray"),
        (["ENGINE", "--ray"], "--ray: name the engine and the photos"),
        (["--ray", "ENGINE", "PHOTOS", "--index", "x"], "needs host:port; without an address write --ray last"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_what_does_not_go_together(
    words: list[str], line: str, engine: Path, photos: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    named = {"ENGINE": str(engine), "PHOTOS": photos[0]}
    with pytest.raises(SystemExit) as ended:
        index_command.main([named.get(word, word) for word in words])
    assert ended.value.code == 2
    assert line in capsys.readouterr().err


# What does.


@pytest.fixture(scope="module")
def cluster() -> "Iterator[Nodes]":
    pytest.importorskip("ray", reason="needs ray: pip install '.[ray]' (make test-ray)")
    from ...clusters import three_nodes

    with three_nodes() as nodes:
        yield nodes


@pytest.fixture
def nodes(cluster: "Nodes") -> "Nodes":
    """Three nodes, whatever a test before has killed."""
    cluster.fill()
    return cluster


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos that take some milliseconds each, one of which cannot be read."""
    from ...conftest import draw_photo

    folder = tmp_path_factory.mktemp("folder")
    for number in range(PHOTOS):
        assert cv2.imwrite(str(folder / f"{number:03}.png"), draw_photo(number, 600, 800))
    (folder / "bad.jpg").write_bytes(b"no photo")
    (folder / "note.txt").touch()
    return folder


@pytest.fixture
def whole(engine: Path, folder: Path, tmp_path: Path) -> Iterator[Index]:
    """The index that one machine makes."""
    with Retriever(engine, tmp_path / "whole", root=folder, device="cpu", threads=1) as retriever:
        retriever.add(sorted(folder.glob("*.png")))
        assert isinstance(retriever.index, Index)
        yield retriever.index


def entries(index: Index) -> dict[str, list[np.ndarray]]:
    """What an index holds of each photo."""
    ids = index.ids()
    found: dict[str, list[np.ndarray]] = {}
    for segment, rows, places in index.located(ids):
        for place, image in zip(places.tolist(), segment.images_at(rows), strict=True):
            found[ids[place]] = [array for array in image if array is not None]
    return found


def check_same(path: Path, whole: Index) -> None:
    """Each photo is in its shard, once, with the entries that it has in an index of one machine."""
    shards = Shards.at(path)
    parts = [entries(Index(shards.place(shard))) for shard in range(shards.count)]
    assert sum(map(len, parts)) == len(whole)
    assert all(shards.of(id_) == shard for shard, part in enumerate(parts) for id_ in part)
    expected = entries(whole)
    for part in parts:
        for id_, arrays in part.items():
            assert all(map(np.array_equal, arrays, expected[id_]))


def held(path: Path) -> int:
    """How many photos are in the shards by now."""
    shards = [folder for folder in path.glob("shard-*") if Index.exists(folder)]
    return sum(len(Index(folder)) for folder in shards)


def command(address: str, engine: Path, folder: Path, path: Path) -> list[str]:
    words = ["index", engine, folder, "--root", folder, "--index", path, "--shards", 3, "--ray", address]
    return [sys.executable, "howl.py", *map(str, words), "--device", "cpu", "--threads", "1"]


@pytest.fixture
def howl(request: pytest.FixtureRequest) -> Callable[..., subprocess.Popen[str]]:
    """Starts a command of howl's, whose output is kept."""
    environment = os.environ | {"PYTHONPATH": str(request.config.rootpath)}

    def start(words: list[str]) -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(words, cwd=request.config.rootpath, env=environment, text=True, **pipes)

    return start


@pytest.mark.ray
@pytest.mark.slow
def test_a_cluster_indexes_what_one_machine_does(
    nodes: "Nodes", howl: Callable, engine: Path, folder: Path, tmp_path: Path, whole: Index
) -> None:
    path = tmp_path / "sharded"
    out, err = (running := howl(command(nodes.address, engine, folder, path))).communicate(timeout=300)
    assert running.returncode == 0, err
    assert f"added {PHOTOS} photos to {path} in " in out
    assert f"it holds {PHOTOS}\n" in out
    assert "passed over: 1 .txt\n" in out
    assert f"left out 1 unreadable photo:\n  {folder}/bad.jpg: not an image" in out
    check_same(path, whole)
    assert all(Index(Shards.at(path).place(shard)).strangers() is not None for shard in range(3))
    out, err = howl(command(nodes.address, engine, folder, path)).communicate(timeout=300)
    assert f"{PHOTOS} were there already\n" in out, err
    check_same(path, whole)


@pytest.mark.ray
@pytest.mark.slow
def test_a_node_that_dies_costs_nothing(
    nodes: "Nodes", engine: Path, folder: Path, tmp_path: Path, whole: Index
) -> None:
    from ...clusters import until

    path, told = tmp_path / "sharded", list[tuple[AddReport, int] | BaseException]()
    photos = {file.name: file for file in sorted(folder.glob("*.png"))}

    def work() -> None:
        try:
            told.append(index_photos(task(engine, path, 3), photos, existing="skip", announce=print))
        except BaseException as error:
            told.append(error)

    working = threading.Thread(target=work)
    working.start()
    until(lambda: held(path) > PHOTOS // 20 or not working.is_alive())
    nodes.kill()
    assert held(path) < PHOTOS
    working.join(300)
    (result,) = told
    assert isinstance(result, tuple), result
    report, count = result
    assert count == PHOTOS
    assert sorted(report.added) == sorted(photos)
    assert not report.skipped
    check_same(path, whole)


@pytest.mark.ray
@pytest.mark.slow
def test_a_driver_that_dies_can_be_followed_by_another(
    nodes: "Nodes", howl: Callable, engine: Path, folder: Path, tmp_path: Path, whole: Index
) -> None:
    from ...clusters import until

    path = tmp_path / "sharded"
    running = howl(command(nodes.address, engine, folder, path))
    until(lambda: held(path) > PHOTOS // 20 or running.poll() is not None)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    before = held(path)
    assert 0 < before < PHOTOS
    out, err = (running := howl(command(nodes.address, engine, folder, path))).communicate(timeout=300)
    assert running.returncode == 0, err
    assert int(re.search(r"(\d+) were there already", out)[1]) >= before  # type: ignore[index]
    check_same(path, whole)


@pytest.mark.ray
@pytest.mark.slow
def test_errors_are_those_of_one_machine(nodes: "Nodes", engine: Path, photos: list[str], tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no photo")
    words = [str(engine), str(bad), "--index", str(tmp_path / "x"), "--shards", "2", "--ray", nodes.address]
    with pytest.raises(ImageError, match="none of the photos could be read"):
        index_command.main([*words, "--device", "cpu"])
    files = {"a": Path(photos[0])}
    index_photos(task(engine, tmp_path / "x"), files, existing="skip", announce=print)
    with pytest.raises(UsageError, match=r"--shards 5: .* has 2, which cannot be changed"):
        index_photos(task(engine, tmp_path / "x", 5), files, existing="skip", announce=print)
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(engine.read_bytes()[:-9])
    with pytest.raises(Exception, match="damaged"):
        index_photos(task(damaged, tmp_path / "y", 2), files, existing="skip", announce=print)
