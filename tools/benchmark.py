"""Measures whole queries, stage by stage: ``python tools/benchmark.py engine.onnx PHOTOS... [--index DIR]``.

With ``--compare`` or ``--compare-index`` a second engine or index takes turns with the first, photo by photo; with
``--load`` several callers ask at a time.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from numpy.typing import NDArray
from tqdm import tqdm

from runtime.engine.onnxruntime import CPU
from runtime.errors import HowlError, ImageError
from runtime.io.atomic import atomic_write
from runtime.io.cli import add_engine_arguments, positive_int, run_command
from runtime.io.image import decode, find_photos
from runtime.io.prefetch import prefetch_map
from tools.benchmarking.environment import environment
from tools.benchmarking.levels import profile_levels
from tools.benchmarking.measuring import WARM_UP, compare, measure_cold_starts, measure_load, measure_stages
from tools.benchmarking.plot import draw
from tools.benchmarking.report import Measured, Report, for_machines
from tools.benchmarking.system_under_test import STAGES, SystemUnderTest, open_system
from tools.benchmarking.text import as_text
from tools.environment import peak_memory
from tools.plotting import load_pyplot

PROFILED = 50  # photos at most: a profile has room for a million events


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    if options.plot:
        load_pyplot()  # sooner a missing package than a lost measurement
    photos, skipped = readable(find_photos(options.photos))
    with ExitStack() as opened:
        systems = [
            opened.enter_context(open_system(engine, index, photos, device=options.device, threads=options.threads))
            for engine, index in pairs(options)
        ]
        report = measure(systems, photos, skipped, options)
    print(as_text(report))
    if options.json:
        with atomic_write(options.json) as file:
            file.write(json.dumps(for_machines(report), indent=1).encode())
    if options.plot:
        draw(report, options.plot)


def pairs(options: argparse.Namespace) -> list[tuple[Path, Path | None]]:
    """The engine and index of every system: one, or two where there is something to compare."""
    first = (Path(options.engine), options.index)
    if not options.compare and not options.compare_index:
        return [first]
    return [first, (options.compare or first[0], options.compare_index or options.index)]


def readable(paths: Sequence[Path]) -> tuple[list[Path], dict[str, str]]:
    """The photos that can be read, and why the others cannot, by path. Raises HowlError where none can."""

    def reason(path: Path) -> str | None:
        try:
            decode(path)
        except ImageError as error:
            return str(error)
        return None

    checked = dict(tqdm(prefetch_map(reason, paths), total=len(paths), desc="reading", unit="photo", disable=None))
    skipped = {str(path): why for path, why in checked.items() if why is not None}
    if len(skipped) == len(paths):
        raise HowlError(f"{next(iter(skipped.values()))}; no photo is left to ask")
    return [path for path, why in checked.items() if why is None], skipped


def measure(
    systems: Sequence[SystemUnderTest], photos: Sequence[Path], skipped: dict[str, str], options: argparse.Namespace
) -> Report:
    """All that is reported; memory before the profiler and the callers take theirs."""
    taken = measure_stages(systems, photos, options.repeat, options.top)
    memory = peak_memory()
    measured = [measure_rest(*each, photos, options) for each in zip(systems, taken, strict=True)]
    whole = [milliseconds.sum(axis=2) for milliseconds in taken]
    return Report(
        environment=environment(),
        photos=[str(photo) for photo in photos],
        skipped=skipped,
        warm_up=WARM_UP,
        rounds=options.repeat,
        top=options.top,
        threads=systems[0].threads,
        systems=measured,
        ratio=compare(*whole) if len(whole) == 2 else None,
        peak_memory=memory,
    )


def measure_rest(
    system: SystemUnderTest, milliseconds: NDArray, photos: Sequence[Path], options: argparse.Namespace
) -> Measured:
    """A system with its stages [rounds, photos, stages], and what is measured of it alone."""
    queries = len(photos) * options.repeat
    return Measured(
        engine=str(system.encoder.path),
        index=system.index_name,
        images=len(system.index),
        provider=system.encoder.engine.provider,
        manifest=system.encoder.manifest,
        milliseconds={stage: milliseconds[:, :, number].ravel().tolist() for number, stage in enumerate(STAGES)},
        levels=levels(system, photos[:PROFILED], options.threads),
        cold_starts=measure_cold_starts(system, photos[0], options.top, options.device),
        loads=[measure_load(system, photos, callers, queries, options.top) for callers in sorted(options.load)],
    )


def levels(system: SystemUnderTest, photos: Sequence[Path], threads: int | None) -> list[list[float]] | None:
    """The network's milliseconds by level of the pyramid; None for a single level, and where nothing can tell."""
    encoder = system.encoder
    number = len(encoder.manifest.scales)
    if encoder.engine.provider != CPU or number == 1:
        return None  # on a GPU the profiler times the asking, not the doing
    images = (encoder.load(photo) for photo in tqdm(photos, desc="profiling", unit="photo", disable=None))
    taken = profile_levels(encoder.path, number, images, threads)
    return None if taken is None else taken.tolist()


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/benchmark.py", description="Measures whole queries, stage by stage, and under load."
    )
    add_engine_arguments(parser, searches=False)
    parser.add_argument("photos", metavar="PHOTOS", nargs="+", help="files and folders: the queries")
    parser.add_argument("--index", type=Path, metavar="DIR", help="default: an index of the photos, made for this")
    parser.add_argument(
        "--compare", type=Path, metavar="ENGINE", help="a second engine that takes turns with the first"
    )
    parser.add_argument("--compare-index", type=Path, metavar="DIR", help="the second's index; default: as the first's")
    parser.add_argument(
        "--load", type=positive_int, nargs="+", default=[], metavar="N", help="numbers of callers at a time"
    )
    parser.add_argument(
        "--repeat", type=positive_int, default=3, metavar="R", help="rounds of all photos (%(default)s)"
    )
    parser.add_argument("--top", type=positive_int, default=10, metavar="K", help="answers at most (%(default)s)")
    parser.add_argument(
        "--threads",
        type=positive_int,
        metavar="T",
        help="that share a query on the CPU; default, and at a cold start: all",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements, every sample too")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw stages and load, as PNG")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(run_command(main))
