"""The benchmark of global descriptors: all sides are timed, and find the same."""

import json

import pytest

from tools.environment import is_installed
from tools.experiments import benchmark_vectors


def test_every_query_is_timed_on_every_side(capsys: pytest.CaptureFixture[str]) -> None:
    benchmark_vectors.main(["--images", "300", "--dimensions", "24", "--json"])
    result = json.loads(capsys.readouterr().out)
    sides = {"howl", "faiss, float32", "faiss, float16"} if is_installed("faiss") else {"howl"}
    assert result["milliseconds"].keys() == sides
    assert {len(times) for times in result["milliseconds"].values()} == {benchmark_vectors.QUERIES - 1}
    assert result["same"]["howl"] == 1
    assert min(result["same"].values()) > 0.95  # rounded to half precision, neighbours change places

    for package in ("pandas", "tabulate"):
        pytest.importorskip(package, reason=f"needs {package}")
    assert "| howl" in benchmark_vectors.table(result)
