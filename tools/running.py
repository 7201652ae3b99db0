"""Runs howl's own commands, as a user would type them."""

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

from runtime.errors import HowlError

HOME = Path(__file__).resolve().parent.parent


def run_script(
    script: str,
    *arguments: str | Path,
    stdout: int | IO[str] | None = None,
    stderr: int | IO[str] | None = None,
    environment: Mapping[str, str] | None = None,
    explained: str = "its own line above says why",
    started: Callable[[subprocess.Popen[str]], None] = lambda process: None,
) -> str:
    """Runs a script of the repository with this Python, in the current folder.

    Args:
        script: its path in the repository, such as ``tools/search.py``.
        stdout, stderr: as ``subprocess`` takes them.
        environment: of the process; default: this one's.
        explained: where the reason of a failure is to be found; the end of the error's line.
        started: is given the process, for callers that may have to end it.

    Returns:
        what it printed, where ``stdout`` is ``subprocess.PIPE``; else nothing.

    Raises:
        HowlError: the script failed.
    """
    command = [sys.executable, str(HOME / script), *map(str, arguments)]
    with subprocess.Popen(command, stdout=stdout, stderr=stderr, env=environment, text=True) as process:
        try:
            started(process)
            printed, _ = process.communicate()
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise HowlError(f"{script} failed with exit status {process.returncode}; {explained}")
    return printed or ""
