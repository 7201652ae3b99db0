"""What every command does with an error, or without a package: a line, and an exit status."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from runtime.errors import HowlError, UsageError
from runtime.io.cli import run_command, run_module


def raising(error: BaseException) -> Callable[[object], None]:
    def main(arguments: object) -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UsageError("--top x: no"), 2, "error: --top x: no"),
        (HowlError("a.jpg: empty"), 1, "error: a.jpg: empty"),
        (PermissionError(13, "Permission denied", "idx/a"), 1, "error: idx/a: Permission denied"),
        (OSError(28, "No space left on device"), 1, "error: No space left on device"),
        (MemoryError(), 1, "error: not enough memory"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_is_a_line(error: BaseException, status: int, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(raising(error)) == status
    assert capsys.readouterr().err == f"{line}\n"


@pytest.mark.parametrize(("missing", "extra"), [("torch", "train"), ("onnxruntime.capi", "cpu")])
def test_a_missing_package_is_named_with_its_extra(
    missing: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ModuleType("command")
    command.main = raising(ModuleNotFoundError(name=missing))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "command", command)
    monkeypatch.setattr(sys, "argv", ["howl echo"])
    assert run_module("command") == 1
    package = missing.partition(".")[0]
    assert capsys.readouterr().err == f"error: howl echo needs {package}: in howl's folder, pip install '.[{extra}]'\n"


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGTERM")
def test_a_command_that_is_ended_clears_away_what_it_made(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def main(arguments: object) -> None:
        made = tmp_path / "draft"
        made.touch()
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        finally:
            made.unlink()

    assert run_command(main) == 143
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) == before
