"""What all commands share: exit codes, one-line errors, and arguments checked before any work."""

import argparse
import shlex
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from importlib import import_module
from typing import Any

from runtime.cores import MAX_THREADS
from runtime.errors import DependencyError, HowlError, UsageError

EXTRAS = {  # what needs these modules, by the extra that installs them
    "train": ("torch", "tyro", "onnx", "onnxscript", "matplotlib"),
    "cpu": ("onnxruntime",),
    "ray": ("ray", "pyarrow"),
    "serve": ("fastapi", "starlette", "pydantic", "uvicorn", "prometheus_client", "httpx2"),
}


def program(script: str) -> str:
    """How a usage line names a command: by its script, or as ``howl NAME`` where it was called so."""
    return sys.argv[0] if sys.argv[0].startswith("howl ") else script


def run_module(name: str) -> int:
    """Imports a command's module and runs its ``main``, both as ``run_command`` does, and gives the exit status."""

    def main(arguments: Sequence[str] | None) -> None:
        try:
            import_module(name).main(arguments)
        except ModuleNotFoundError as error:
            missing = (error.name or "").partition(".")[0]
            extra = next((extra for extra, modules in EXTRAS.items() if missing in modules), None)
            if extra is None:
                raise
            raise DependencyError(
                f"{sys.argv[0]} needs {missing}: in howl's folder, pip install '.[{extra}]'"
            ) from None

    return run_command(main)


def run_command(main: Callable[[Sequence[str] | None], None]) -> int:
    """Runs a command's ``main`` and gives its exit status.

    Returns:
        0; after a one-line error, 2 for wrong usage and 1 for anything else; 130 when interrupted, 143 when ended.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    # As an exception, SIGTERM clears away what a command has made so far.
    before = signal.signal(signal.SIGTERM, _end) if in_main_thread else None
    # Pillow warns of odd metadata; whether a photo can be read is said by its error.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    warnings.showwarning = _show_warning
    try:
        main(None)
    except UsageError as error:
        return _failed(str(error), 2)
    except HowlError as error:
        return _failed(str(error))
    except KeyboardInterrupt as interrupt:  # a command may have said in it what is kept
        print(str(interrupt) or "interrupted", file=sys.stderr)
        return 130
    except _Ended:
        print("ended", file=sys.stderr)
        return 143
    except BrokenPipeError:  # `howl ... | head` is no error
        sys.stderr.close()
        return 0
    except OSError as error:  # where no function has made a HowlError of it
        return _failed(": ".join(str(part) for part in (error.filename, error.strerror or error) if part))
    except MemoryError:
        return _failed("not enough memory")
    except Exception as error:
        return _interrupted(error)
    finally:
        if in_main_thread:
            signal.signal(signal.SIGTERM, before)
    return 0


def _interrupted(error: Exception) -> int:
    """The exit status if an interrupt is behind an error: Python and PyTorch wrap those that come at odd moments."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, KeyboardInterrupt | _Ended):
            print("interrupted", file=sys.stderr)
            return 143 if isinstance(cause, _Ended) else 130
        cause = cause.__cause__ or cause.__context__
    raise error


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """A user has no use for the line of code that warns."""
    print(f"warning: {message}", file=sys.stderr)


def _failed(line: str, status: int = 1) -> int:
    print(f"error: {line}", file=sys.stderr)
    return status


class _Ended(BaseException):
    """The process was asked to end, by SIGTERM."""


def _end(signal_number: int, frame: object) -> None:
    raise _Ended


def add_engine_arguments(parser: argparse.ArgumentParser, *, searches: bool) -> None:
    """The engine that a command runs, and ``add_engine_options``."""
    parser.add_argument("engine", metavar="ENGINE", help="engine.onnx, engine.plan or engine.pt2")
    add_engine_options(parser, searches=searches)


def add_engine_options(parser: argparse.ArgumentParser, *, searches: bool) -> None:
    """What an engine runs on and, where the command searches, how."""
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: a GPU where there is one")
    parser.add_argument(
        "--threads", type=thread_number, metavar="T", help="that share the work of a photo on the CPU (all cores)"
    )
    if searches:
        parser.add_argument(
            "--tau",
            dest="threshold",
            type=float,
            metavar="TAU",
            help="τ, the least similarity of two codes that counts; default: the engine's",
        )
        parser.add_argument("--alpha", type=float, metavar="ALPHA", help="α; default: the engine's")


def add_rerank_arguments(parser: argparse.ArgumentParser) -> None:
    """How the first answers are put into a better order."""
    from runtime.rerank import RERANKERS  # late: it imports the index

    parser.add_argument(
        "--rerank",
        choices=RERANKERS,
        help="put the first answers into a better order; spatial: by geometry; similarity: by what they have in "
        "common; ransac: by matching the engine's own features; dsm: by its activation maps; lightglue: by matching "
        "the photos",
    )
    parser.add_argument(
        "--candidates",
        type=positive_int,
        metavar="N",
        help="answers that --rerank looks at; the others follow as they are (spatial, ransac and dsm: 100, "
        "similarity: 200, lightglue: 20)",
    )
    parser.add_argument(
        "--matcher",
        metavar="FILE",
        help="of keypoints, made by howl matcher; default: matcher.onnx beside the engine",
    )


def check_rerank_arguments(
    parser: argparse.ArgumentParser, options: argparse.Namespace, *, matches: bool = False
) -> None:
    """What only a re-ranking uses is a usage error without one; so is a matcher, unless the command ``matches`` too."""
    if options.candidates is not None and options.rerank is None:
        parser.error("--candidates: only a re-ranking looks at them; add --rerank")
    if options.matcher is not None and not matches and options.rerank != "lightglue":
        parser.error(f"--matcher {options.matcher}: only one re-ranking uses it; add --rerank lightglue")


def add_ray_arguments(parser: argparse.ArgumentParser, *, searches: bool) -> None:
    """The Ray cluster that has an index with shards and, where the command searches, how it is searched."""
    group = parser.add_argument_group("on many machines (docs/scaling.md)")
    group.add_argument(
        "--ray",
        type=ray_address,
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="--index has shards, on a Ray cluster: its head's host:port, or nothing for RAY_ADDRESS, the cluster of "
        "this machine, or a new one on it",
    )
    if searches:
        group.add_argument(
            "--replicas",
            type=positive_int,
            metavar="R",
            help="processes for each shard, on different machines (1)",
        )
        group.add_argument(
            "--on-missing",
            choices=("partial", "fail"),
            help="while shards do not answer: give what the others have, and name these, or fail (partial)",
        )


def check_ray_arguments(parser: argparse.ArgumentParser, options: argparse.Namespace, names: Sequence[str]) -> None:
    """What only a cluster uses is a usage error without one."""
    for name in names:
        if options.ray is None and getattr(options, name) is not None:
            parser.error(f"--{name.replace('_', '-')}: only a cluster has use for it; add --ray")


def ray_address(text: str) -> str:
    """An argparse type: the address of a cluster, and not what was meant to follow --ray, such as an engine."""
    if text and ":" not in text:
        raise argparse.ArgumentTypeError(f"{text}: needs host:port; without an address write --ray last")
    return text


def positive_int(text: str) -> int:
    """An argparse type: a whole number of at least 1."""
    value = whole_number(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be at least 1")
    return value


def thread_number(text: str) -> int:
    """An argparse type: a number of threads."""
    value = positive_int(text)
    if value > MAX_THREADS:
        raise argparse.ArgumentTypeError(f"{text}: must be at most {MAX_THREADS}")
    return value


def image_side(text: str) -> int:
    """An argparse type: a longest side in pixels that the pyramids can work on."""
    value = int(text)
    if not 64 <= value <= 8192:
        raise argparse.ArgumentTypeError(f"{text}: must lie between 64 and 8192 pixels")
    return value


def seconds(text: str) -> float:
    """An argparse type: a time of at least 0 seconds."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: must be a number of seconds, at least 0")
    return value


def whole_number(text: str) -> int:
    """An argparse type: a whole number of at least 0."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number") from None
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text}: must be at least 0")
    return value


def command_line(script: str, *words: object, options: Any = None, defaults: Any = None) -> str:
    """The command that a user would type: with ``howl`` in a process that was called so, else with the script.

    Args:
        script: such as ``export/to_trt.py``, which is ``howl export``.
        words: its arguments, those with a flag after the flag.
        options: a dataclass whose fields are named like flags; a field may hold such a dataclass.
        defaults: one of the same kind; what is equal in both is left out.
    """
    folder, _, file = script.partition("/")
    name = file.removesuffix(".py") if folder == "tools" else folder
    call = ["howl", name] if sys.argv[0].startswith("howl ") else ["python", script]
    flags = () if options is None else _flags(options, defaults)
    return shlex.join([*call, *map(str, words), *flags])


def _flags(options: Any, defaults: Any) -> Iterator[str]:
    for field in fields(options):
        value, default = getattr(options, field.name), getattr(defaults, field.name)
        flag = field.name.replace("_", "-")
        if is_dataclass(value):
            yield from _flags(value, default)
        elif value != default and isinstance(value, bool):
            yield f"--{flag}" if value else f"--no-{flag}"
        elif value != default:
            yield f"--{flag}"
            yield from map(str, value) if isinstance(value, tuple | list) else [str(value)]
