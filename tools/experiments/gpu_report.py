"""Measures howl on a GPU, all of it: ``python tools/experiments/gpu_report.py [--out DIR] [--steps NAME...]``.

Every step runs in a process of its own, within a time limit, and writes its table at once: what fails or crashes does
not stop the next. ``--prepare`` makes beforehand, on any machine, what the steps work on.
"""

if __name__ == "__main__":
    import howl

    howl.run_script("tools.experiments.gpu_report")  # before the imports: howl.py says why

import argparse
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from runtime.errors import DeviceError, HowlError
from runtime.gpu import find_gpus
from runtime.io.cli import program
from runtime.io.files import atomic_write, ensure_writable
from tools.environment import require_packages
from tools.experiments.gpu_steps.measuring import Result
from tools.experiments.gpu_steps.preparation import Prepared, prepare

GRACE = 5.0  # seconds that a step has to end after its limit


class Step(NamedTuple):
    """A step of the report.

    Attributes:
        title: for people.
        module: of ``tools.experiments.gpu_steps``, which has a function of the step's name.
        limit: seconds that it may take.
    """

    title: str
    module: str
    limit: float


STEPS = {
    "machine": Step("The machine", "machine", 60),
    "tests": Step("The tests that need a GPU", "machine", 120),
    "export": Step("Export on a machine with a GPU", "engines", 120),
    "pytorch": Step("PyTorch and engine.pt2", "engines", 150),
    "compilers": Step("Compilers", "engines", 120),
    "onnxruntime": Step("ONNX Runtime on CUDA", "engines", 120),
    "tensorrt": Step("TensorRT", "engines", 120),
    "extraction": Step("An extraction, stage by stage", "extraction", 60),
    "matching": Step("ASMK: matching", "searching", 120),
    "quantising": Step("ASMK: quantising", "searching", 60),
    "retriever": Step("Whole queries", "searching", 120),
    "training": Step("Training", "training", 120),
}


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    require_packages("torch", "onnx", "tyro")
    if not options.prepare:
        if not find_gpus():
            raise DeviceError("the report needs an NVIDIA GPU, and none was found; --prepare does what needs none")
        require_packages("pandas", "tabulate")
    ensure_writable(options.out / "report.md")
    prepared = prepare(options.out / "prepared")
    if not options.prepare:
        measure(prepared, options.out, options.steps)


def measure(prepared: Prepared, out: Path, steps: Sequence[str]) -> None:
    """Runs steps in turn, and writes ``STEP.json`` for each, and ``report.md`` of all that there are."""
    for name in steps:
        print(f"{STEPS[name].title} ...", flush=True)
        outcome = run_limited(run_step, (name, prepared.folder, out), STEPS[name].limit)
        path = out / f"{name}.json"
        if outcome is not None:
            known = json.loads(path.read_text()) if path.exists() else {"rows": [], "notes": []}
            write(path, known | {"failed": outcome})
        print(as_text(name, json.loads(path.read_text())), flush=True)
        with atomic_write(out / "report.md") as file:
            file.write(report(out).encode())


def run_step(name: str, prepared: Path, out: Path) -> None:
    """Runs a step, and writes what it gives or why it failed."""
    start = time.perf_counter()
    result = Result()

    def keep(**more: str) -> None:
        seconds = round(time.perf_counter() - start, 1)
        write(out / f"{name}.json", {"rows": result.rows, "notes": result.notes, "seconds": seconds, **more})

    result.keep = keep
    keep()
    try:
        getattr(import_module(f"tools.experiments.gpu_steps.{STEPS[name].module}"), name)(Prepared(prepared), result)
    except HowlError as error:
        keep(failed=str(error))
    except Exception as error:
        keep(failed=f"{type(error).__name__}: {error}")
    else:
        keep()


def in_a_group(work: Callable[..., None], *arguments: Any) -> None:
    """Runs work as the leader of a group of processes, which ends as one."""
    os.setsid()
    work(*arguments)


def run_limited(work: Callable[..., None], arguments: tuple[Any, ...], limit: float) -> str | None:
    """Runs work in a new process; None, or what became of it if it did not end by itself and well."""
    process = processes().Process(target=in_a_group, args=(work, *arguments))
    process.start()
    process.join(limit)
    if process.is_alive():
        for signal_ in (signal.SIGTERM, signal.SIGKILL):  # the processes that it started, too
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal_)
            process.join(GRACE)
        return f"stopped after {limit:g} seconds"
    return None if process.exitcode == 0 else f"the process ended with status {process.exitcode}"


@cache
def processes() -> Any:
    """A server that has imported PyTorch, without touching the GPU, and forks a process for each step."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "tools.experiments.gpu_steps.preparation"])
    return context


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a step's JSON whole."""
    with atomic_write(path) as file:
        file.write((json.dumps(content, indent=1, default=str) + "\n").encode())


def report(out: Path) -> str:
    """All steps that have been measured, as Markdown."""
    found = {name: out / f"{name}.json" for name in STEPS}
    return "\n\n".join(as_text(name, json.loads(path.read_text())) for name, path in found.items() if path.exists())


def as_text(name: str, content: Mapping[str, Any]) -> str:
    """One step as Markdown."""
    import pandas  # late: --help and --prepare do without

    parts = [f"## {STEPS[name].title}"]
    if content["rows"]:
        table = pandas.DataFrame(content["rows"]).astype(object).fillna("")
        parts.append(table.to_markdown(index=False, disable_numparse=True))
    if "failed" in content:
        parts.append(f"Failed: {content['failed']}")
    parts += ["\n".join(content["notes"])] if content["notes"] else []
    return "\n\n".join(parts)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=program("tools/experiments/gpu_report.py"),
        description="Measures on a GPU: engines, extraction, search and training, each in a process of its own.",
    )
    parser.add_argument("--out", type=Path, default=Path("gpu-report"), metavar="DIR", help="to fill (%(default)s)")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS), metavar="STEP", help=", ".join(STEPS))
    parser.add_argument("--prepare", action="store_true", help="only make photos, network and graphs; needs no GPU")
    return parser.parse_args(arguments)
