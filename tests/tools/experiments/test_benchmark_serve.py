"""The benchmark of the server, whole, on the small engine."""

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs fastapi: pip install '.[serve]'")

from runtime import Retriever
from runtime.errors import ServiceError
from tools.experiments import benchmark_serve
from tools.experiments.benchmark_serve import BAD, endure, measure_load, measure_search_many, server


@pytest.mark.slow
def test_the_whole_benchmark(
    engine: Path, photos: list[str], tmp_path: Path, make_photo: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, queries = tmp_path / "index", [Path(photo).read_bytes() for photo in photos]
    with Retriever(engine, index, device="cpu") as retriever:
        retriever.add(photos)
    assert measure_search_many(engine, index, queries, 20, "cpu", 1) > 0
    with server(engine, index, "cpu", 1) as (host, port, process):
        load = measure_load(host, port, queries, callers=3, queries=10)
        assert (load.callers, len(load.milliseconds)) == (3, 10)
        assert load.throughput == pytest.approx(10 / load.seconds)
        endured = endure(host, port, process, queries, 4 * len(BAD))
        assert endured.statuses == {200: 3 * len(BAD), 400: 5, 404: 2}
        assert 10 < min(endured.megabytes) <= max(endured.megabytes) < 2000
        monkeypatch.setattr(benchmark_serve, "BAD", (("/search", b"", 200),))
        with pytest.raises(ServiceError, match="got status 400, not 200"):
            endure(host, port, process, queries, 8)
