"""Several commands at a time: their logs, their share of the cores, and an end for all of them when one fails."""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from threading import Lock
from typing import TypeVar

from tqdm import tqdm

from runtime.errors import HowlError
from tools.running import run_script

Task = TypeVar("Task")


class Crew:
    """Works on up to ``jobs`` tasks at a time."""

    def __init__(self, jobs: int):
        self._jobs = jobs
        self._environment = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs)), **os.environ}
        self._live: set[subprocess.Popen[str]] = set()
        self._stopped = False
        self._lock = Lock()

    def work(self, tasks: Iterable[Task], do: Callable[[Task], None]) -> None:
        """Does every task, begun in order; the first failure, or an interrupt, ends the commands of all others."""
        with ThreadPoolExecutor(self._jobs) as pool:
            futures = [pool.submit(do, task) for task in tasks]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException:
                self._stop()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def run(self, script: str, *arguments: str | Path, log: Path, captured: bool = False) -> str:
        """Runs a command, its lines at the end of the log; gives what it prints where ``captured``.

        Raises:
            HowlError: it failed; the line names the log.
        """
        command = f"python {shlex.join([script, *map(str, arguments)])}"
        tqdm.write(command, file=sys.stderr)
        with log.open("a") as file:
            file.write(f"$ {command}\n")
            file.flush()
            return run_script(
                script,
                *arguments,
                stdout=subprocess.PIPE if captured else file,
                stderr=file,
                environment=self._environment,
                explained=f"see {log}",
                started=self._started,
            )

    def _started(self, process: subprocess.Popen[str]) -> None:
        with self._lock:
            if self._stopped:
                raise HowlError("stopped, because another command failed")
            self._live.add(process)

    def _stop(self) -> None:
        with self._lock:
            self._stopped = True
            for process in self._live:
                process.terminate()  # does nothing where it has ended
