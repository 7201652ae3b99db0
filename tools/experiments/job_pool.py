"""Several functions at a time, each in a new process: their logs, their share of the cores, and one end for all."""

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

from tqdm import tqdm

from runtime.cores import available_cores
from runtime.errors import HowlError

Task = TypeVar("Task")

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_SPAWN = multiprocessing.get_context("spawn")  # a fork would share the threads and the GPU of PyTorch


class JobPool:
    """Works on up to ``jobs`` tasks at a time.

    A thread follows each task, and every ``call`` is a process of its own: it writes to the task's log, gives its
    memory back at its end, and can be stopped.
    """

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._threads = max(1, available_cores() // jobs)
        self._running: set[BaseProcess] = set()
        self._stopped = False
        self._lock = Lock()

    def work(self, tasks: Iterable[Task], do: Callable[[Task], None]) -> None:
        """Does every task, started in order; the first failure, or an interrupt, stops the processes of all others."""
        with ThreadPoolExecutor(self._jobs) as pool:
            futures = [pool.submit(do, task) for task in tasks]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException:
                self._stop()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def call(self, function: Callable[..., object], *arguments: object, log: Path, command: str) -> None:
        """Calls a function in a new process and waits for its end.

        Args:
            function: of a module; it and its arguments are pickled.
            arguments: of the function.
            log: gets all that the function prints, at its end.
            command: what a user would type instead; it is printed, and written to the log.

        Raises:
            HowlError: the function failed; the line names the log.
        """
        tqdm.write(command, file=sys.stderr)
        with log.open("a", encoding="utf-8") as file:
            file.write(f"$ {command}\n")
        process = _SPAWN.Process(target=_run, args=(function, arguments, log, self._threads))
        with self._lock:
            if self._stopped:
                raise HowlError("stopped, because another run failed")
            with inherited(dict.fromkeys(THREAD_VARIABLES, str(self._threads))):
                process.start()
            self._running.add(process)
        process.join()
        with self._lock:
            self._running.discard(process)
        if process.exitcode:
            raise HowlError(f"{command} failed with exit status {process.exitcode}; see {log}")

    def _stop(self) -> None:
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.terminate()


@contextmanager
def inherited(variables: Mapping[str, str]) -> Iterator[None]:
    """A block in which new processes have these variables of the environment; afterwards it is as before.

    Libraries of linear algebra read theirs while they are loaded, which is before the function of a job is called.
    """
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _run(function: Callable[..., object], arguments: tuple[Any, ...], log: Path, threads: int) -> None:
    """In the new process: calls the function with its prints going to the log; exits with 1 if it fails."""
    import torch

    torch.set_num_threads(threads)
    with log.open("a", encoding="utf-8", buffering=1) as file, redirect_stdout(file), redirect_stderr(file):
        try:
            function(*arguments)
        except HowlError as error:
            print(f"error: {error}")
            sys.exit(1)
        except Exception:
            traceback.print_exc()
            sys.exit(1)
