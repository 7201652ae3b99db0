"""Measures whole queries, stage by stage: ``python tools/benchmark.py engine.onnx PHOTOS... [--index DIR]``.

With ``--compare`` or ``--compare-index`` a second engine or index takes turns with the first, photo by photo; with
``--load`` several callers ask at a time.
"""

if __name__ == "__main__":
    import howl

    howl.run_script("tools.benchmark")  # before the imports: howl.py says why

import argparse
import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tqdm import tqdm

from runtime.engine.onnxruntime import CPU
from runtime.errors import ImageError
from runtime.io.cli import add_engine_arguments, positive_int, program
from runtime.io.files import atomic_write, ensure_writable
from runtime.io.finding import find_photos
from runtime.io.image import decode
from runtime.io.prefetch import prefetch_map
from tools.benchmarking.levels import profile_levels
from tools.benchmarking.measuring import (
    COLD_STARTS,
    WARM_UP,
    compare,
    measure_cold_starts,
    measure_load,
    measure_stages,
)
from tools.benchmarking.report import Measured, Report, as_dict, as_text, draw
from tools.benchmarking.system_under_test import STAGES, SystemUnderTest, open_system
from tools.environment import describe_machine, peak_memory, require_packages

PACKAGES = ("numpy", "opencv-python-headless", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx-cu13")
ROUNDS, TOP = 3, 10
PROFILED = 50  # photos at most: a profile has room for a million events


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    if options.plot:
        require_packages("matplotlib")
    ensure_writable(*(path for path in (options.json, options.plot) if path is not None))
    report = benchmark(
        pairs(Path(options.engine), options.index, options.compare, options.compare_index),
        find_photos(options.photos),
        callers=options.load,
        rounds=options.repeat,
        top=options.top,
        device=options.device,
        threads=options.threads,
    )
    print(as_text(report))
    if options.json:
        with atomic_write(options.json) as file:
            file.write(json.dumps(as_dict(report), indent=1).encode())
    if options.plot:
        draw(report, options.plot)


def benchmark(
    systems: Sequence[tuple[Path, Path | None]],
    photos: Sequence[Path],
    *,
    callers: Sequence[int] = (),
    rounds: int = ROUNDS,
    top: int = TOP,
    device: str | None = None,
    threads: int | None = None,
    cold_starts: int = COLD_STARTS,
) -> Report:
    """Asks one engine, or two in turn, for every photo, and measures each stage, load and cold start.

    Args:
        systems: the engine and the index of each; None for an index of the photos, made for this.
        photos: the queries; those that cannot be read are left out, and the report says why.
        callers: numbers of callers that ask at a time.
        rounds: of all photos.
        top: answers asked for, at most.
        device: ``cpu``, ``cuda``, or None for a GPU if there is one.
        threads: that share a query on the CPU; None for one a core.
        cold_starts: of every system.

    Raises:
        HowlError: no photo can be read, or an engine or an index is missing, damaged or does not fit the other.
    """
    readable, skipped = split_readable(photos)
    with ExitStack() as stack:
        opened = [
            stack.enter_context(open_system(engine, index, readable, device=device, threads=threads))
            for engine, index in systems
        ]
        taken = measure_stages(opened, readable, rounds, top)
        memory = peak_memory()  # before the profiler and the callers take theirs
        measured = []
        for system, milliseconds in zip(opened, taken, strict=True):
            queries = len(readable) * rounds
            measured.append(
                Measured(
                    engine=str(system.encoder.path),
                    index=system.index_name,
                    images=len(system.index),
                    provider=system.encoder.engine.provider,
                    manifest=system.encoder.manifest,
                    milliseconds={stage: milliseconds[:, :, i].ravel().tolist() for i, stage in enumerate(STAGES)},
                    levels=measure_levels(system, readable[:PROFILED], threads),
                    cold_starts=measure_cold_starts(system, readable[0], top, device, times=cold_starts),
                    loads=[measure_load(system, readable, many, queries, top) for many in sorted(callers)],
                )
            )
        return Report(
            environment=describe_machine(PACKAGES),
            photos=[str(photo) for photo in readable],
            skipped=skipped,
            warm_up=WARM_UP,
            rounds=rounds,
            top=top,
            threads=opened[0].threads,
            systems=measured,
            ratio=compare(*(milliseconds.sum(axis=2) for milliseconds in taken)) if len(taken) == 2 else None,
            peak_memory=memory,
        )


def split_readable(paths: Sequence[Path]) -> tuple[list[Path], dict[str, str]]:
    """The photos that can be read, and why the others cannot, by path. Raises ImageError if none can."""

    def reason(path: Path) -> str | None:
        try:
            decode(path)
        except ImageError as error:
            return str(error)
        return None

    checked = dict(tqdm(prefetch_map(reason, paths), total=len(paths), desc="reading", unit="photo", disable=None))
    skipped = {str(path): why for path, why in checked.items() if why is not None}
    if len(skipped) == len(paths):
        raise ImageError(f"{next(iter(skipped.values()))}; no photo is left to ask")
    return [path for path, why in checked.items() if why is None], skipped


def measure_levels(system: SystemUnderTest, photos: Sequence[Path], threads: int | None) -> list[list[float]] | None:
    """The network's milliseconds by level of the pyramid; None for a single level, and if nothing can tell."""
    encoder = system.encoder
    number = len(encoder.manifest.scales)
    if encoder.engine.provider != CPU or number == 1:
        return None  # on a GPU, ONNX Runtime's profiler times the launch of a kernel, not its work
    images = (encoder.load(photo) for photo in tqdm(photos, desc="profiling", unit="photo", disable=None))
    taken = profile_levels(encoder.path, number, images, threads)
    return None if taken is None else taken.tolist()


def pairs(
    engine: Path, index: Path | None, compare: Path | None, compare_index: Path | None
) -> list[tuple[Path, Path | None]]:
    """The engine and index of every system: one, or two if there is something to compare."""
    if not compare and not compare_index:
        return [(engine, index)]
    return [(engine, index), (compare or engine, compare_index or index)]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=program("tools/benchmark.py"), description="Measures whole queries, stage by stage, and under load."
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
        "--repeat", type=positive_int, default=ROUNDS, metavar="R", help="rounds of all photos (%(default)s)"
    )
    parser.add_argument("--top", type=positive_int, default=TOP, metavar="K", help="answers at most (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements, every sample too")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw stages and load, as PNG")
    return parser.parse_args(arguments)
