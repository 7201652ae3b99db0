"""The benchmark of shards, small, and with shards in this process."""

from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.index.shards import Shards
from tools.experiments import benchmark_shards
from tools.experiments.asmk_benchmark.workload import Size, make_workload
from tools.experiments.benchmark_shards import main, measure

from ...runtime.sharded.conftest import LocalCluster


def test_answers_and_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark_shards, "Cluster", LocalCluster)
    workload = make_workload(tmp_path / "workload", Size(images=100, queries=2, words=200, seed=0), threads=1)
    whole, *others = measure(tmp_path, workload, 100, [1, 3])
    assert [row["index"] for row in (whole, *others)] == ["without shards, this process", "1 shard", "3 shards"]
    assert all(row["same answers"] == "2 of 2" for row in others)
    assert all(float(row["queries a second, 4 callers"]) > 0 for row in (whole, *others))
    assert float(others[1]["sent, kB a query"]) > 2 * float(others[0]["sent, kB a query"])
    assert Shards.at(tmp_path / "3 shards").count == 3


def test_too_few_images(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    connect: Callable[[object], None] = lambda address: pytest.fail("nothing may start")  # noqa: E731
    monkeypatch.setattr(benchmark_shards, "connect", connect)
    with pytest.raises(SystemExit):
        main(["--images", "20"])
    assert "need 300 images or more" in capsys.readouterr().err
