"""What every command does with an error: a line, and an exit status."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.errors import HowlError, UsageError
from runtime.io.cli import run_command


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
