"""The benchmark of the server, whole, on the small engine."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs fastapi: pip install '.[serve]'")

from runtime import Retriever
from runtime.errors import ServiceError
from tools.experiments import benchmark_serve
from tools.experiments.benchmark_serve import (
    BAD,
    describe_rounds,
    endure,
    measure_load,
    measure_rounds,
    one_by_one,
    server,
)


@pytest.mark.slow
def test_the_whole_benchmark(
    engine: Path, photos: list[str], tmp_path: Path, make_photo: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, queries = tmp_path / "index", [Path(photo).read_bytes() for photo in photos]
    with Retriever(engine, index, device="cpu") as retriever:
        retriever.add(photos)
    monkeypatch.setattr(benchmark_serve, "ROUNDS", 2)
    with (
        Retriever(engine, index, device="cpu", threads=1) as retriever,
        server(engine, index, 2, "cpu", 1) as (host, port, process),
    ):
        rounds = measure_rounds(host, port, queries, 1, 10, partial(one_by_one, retriever))
        assert [load.callers for load, _ in rounds] == [1, 1]
        ratios = sorted(load.throughput / here for load, here in rounds)
        line = describe_rounds(1, rounds)
        assert f"{sum(ratios) / 2:.2f} ({ratios[0]:.2f}–{ratios[1]:.2f}) of search one by one" in line
        load = measure_load(host, port, queries, callers=3, queries=10)
        assert (load.callers, len(load.milliseconds)) == (3, 10)
        assert load.throughput == pytest.approx(10 / load.seconds)
        endured = endure(host, port, process, queries, 4 * len(BAD))
        assert endured.statuses == {200: 3 * len(BAD), 400: 5, 404: 2}
        assert 10 < min(endured.megabytes) <= max(endured.megabytes) < 2000
        monkeypatch.setattr(benchmark_serve, "BAD", (("/search", b"", 200),))
        with pytest.raises(ServiceError, match="got status 400, not 200"):
            endure(host, port, process, queries, 8)
