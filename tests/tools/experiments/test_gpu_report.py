"""The GPU report, as far as it goes without a GPU: its steps' processes, and what it writes of them."""

import inspect
import json
import os
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from runtime.io.cli import run_command
from tools.experiments import gpu_report
from tools.experiments.gpu_report import STEPS, as_text, report, run_limited
from tools.experiments.gpu_steps.measuring import Result, spread
from tools.experiments.gpu_steps.preparation import GRAPHS, PROGRAMS, Prepared


def write_a_file(path: Path, seconds: float, status: int) -> None:
    """A step for tests: leaves a file, takes its time, ends."""
    path.write_text("begun")
    time.sleep(seconds)
    os._exit(status) if status else path.write_text("done")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seconds", "status", "limit", "outcome", "left"),
    [
        (0.0, 0, 60.0, None, "done"),
        (0.0, 3, 60.0, "the process ended with status 3", "begun"),
        (60.0, 0, 1.5, "stopped after 1.5 seconds", "begun"),
    ],
    ids=["ends", "crashes", "hangs"],
)
def test_a_step_that_crashes_or_hangs_does_not_stop_the_report(
    tmp_path: Path, seconds: float, status: int, limit: float, outcome: str | None, left: str
) -> None:
    run_limited(print, (), 60.0)  # the server of processes starts with the first
    assert run_limited(write_a_file, (tmp_path / "file", seconds, status), limit) == outcome
    assert (tmp_path / "file").read_text() == left


def test_every_step_is_a_function_that_takes_what_was_prepared_and_a_result() -> None:
    for name, step in STEPS.items():
        function = getattr(import_module(f"tools.experiments.gpu_steps.{step.module}"), name)
        assert list(inspect.signature(function).parameters) == ["prepared", "result"]


def test_the_steps_fit_one_sitting() -> None:
    """Their limits are for when something hangs; all together they end."""
    assert sum(step.limit for step in STEPS.values()) <= 30 * 60


def fake_step(monkeypatch: pytest.MonkeyPatch, step: Any) -> None:
    monkeypatch.setattr(gpu_report, "import_module", lambda name: type("module", (), {"machine": staticmethod(step)}))


def test_rows_are_kept_when_a_step_fails_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(prepared: Prepared, result: Result) -> None:
        result.add(what="first", found=1)
        with result.attempt(what="second") as row:
            row["found"] = 1 / 0
        with result.attempt(what="third") as row:
            row["found"] = 3
        assert len(json.loads((tmp_path / "machine.json").read_text())["rows"]) == 3, "written at once"
        raise RuntimeError("the GPU is on fire")

    fake_step(monkeypatch, step)
    gpu_report.run_step("machine", tmp_path / "prepared", tmp_path)
    content = json.loads((tmp_path / "machine.json").read_text())
    assert content["failed"] == "RuntimeError: the GPU is on fire"
    assert [row.get("found") for row in content["rows"]] == [1, None, 3]
    assert content["rows"][1]["failed"].startswith("ZeroDivisionError: ")
    pytest.importorskip("tabulate", reason="needs pandas and tabulate")
    text = as_text("machine", content)
    assert "Failed: RuntimeError: the GPU is on fire" in text
    assert "| third" in text
    assert report(tmp_path) == text


def test_without_a_gpu_it_says_so_before_it_prepares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_report, "find_gpus", list)
    monkeypatch.setattr(gpu_report, "prepare", lambda _: pytest.fail("it prepares, which takes minutes"))
    assert run_command(lambda _: gpu_report.main(["--out", str(tmp_path)])) == 1
    assert "the report needs an NVIDIA GPU, and none was found; --prepare" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_is_prepared_has_a_file_each() -> None:
    prepared = Prepared(Path("folder"))
    files = [prepared.graph(*name) for name in GRAPHS] + [prepared.program(*name) for name in PROGRAMS]
    assert len(set(files)) == len(files)


def test_spread_is_the_median_and_the_ends() -> None:
    assert spread([3.0, 1.0, 20.0]) == "3 (1–20)"
