"""The benchmark of re-ranking: what it plants, and the whole of it on a small index."""

import pytest

from tools.experiments import benchmark_rerank


@pytest.mark.slow
def test_the_whole_benchmark() -> None:
    timing = benchmark_rerank.measure(2_000, candidates=20, queries=2)
    assert len(timing.scoring) == len(timing.verifying) == len(timing.comparing) == 2
    assert timing.correspondences == pytest.approx(benchmark_rerank.SHARED, rel=0.5)
    assert timing.bytes_with == pytest.approx(timing.bytes_without * 22 / 18, rel=0.05)
