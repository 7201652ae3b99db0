"""Which engine is the best for its time: ``python tools/experiments/frontier.py NETWORK... --data DATA... --out DIR``.

Exports every combination of network, image size, levels, features and precision, and with --presets also the presets,
evaluates the engines, times them on the same photos in turn, and marks those that no other beats in both: the Pareto
front.
"""

if __name__ == "__main__":
    import howl

    howl.run_script("tools.experiments.frontier")  # before the imports: howl.py says why

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from export.exporter import export_checkpoint
from export.learning import learn, open_checkpoint
from export.options import PRECISIONS, PRESETS, ExportOptions, Preset
from runtime.errors import UsageError
from runtime.io.cli import positive_int
from runtime.io.files import ensure_writable
from runtime.io.image import Image
from tools.environment import describe_machine, load_pyplot, require_packages
from tools.evaluation import evaluate_engine
from tools.experiments.stages import write_json
from tools.experiments.timing import open_extractor, timed, timed_photos
from train.distributed import use_threads
from train.models.base import PYRAMID

PACKAGES = ("numpy", "torch", "onnxruntime")
TURNS = 2  # that every photo is timed
T = TypeVar("T")
RESULT, PLOT = "frontier.json", "frontier.png"


@dataclass(frozen=True)
class Point:
    """An engine of the search.

    Attributes:
        network: a checkpoint, or the name of a backbone to learn whitening and words for.
        preset: its settings.
    """

    network: str
    preset: Preset

    def __str__(self) -> str:
        each = self.preset
        settings = each.image_size, len(each.scales), each.features, each.precision, each.multiple_assignment
        return "-".join(map(str, (Path(self.network).stem, *settings)))

    @property
    def preset_name(self) -> str:
        """Of the preset that has these settings; empty if there is none."""
        return next((name for name, preset in PRESETS.items() if preset == self.preset), "")


@dataclass(frozen=True)
class Setting:
    """What all engines of a search share: one that is continued must have the same.

    Attributes:
        data: folders with one folder a scene, to evaluate on.
        distractors: a folder of photos of none of the scenes, to search among.
        learn: a folder of photos that whitening and words are learned from; None to take the checkpoints' own.
    """

    data: tuple[str, ...]
    distractors: str | None
    learn: str | None


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    require_packages("pandas", "tabulate", "matplotlib")
    setting = Setting(tuple(options.data), options.distractors, options.learn)
    points = points_of(options.networks, options.sizes, options.levels, options.features, options.precisions)
    if options.presets:
        points += [Point(network, preset) for network in options.networks for preset in PRESETS.values()]
    result = search(points, setting, options.out, photos=options.photos)
    draw(result, options.out / PLOT)
    print(table(result))
    print(f"\n{options.out / RESULT}, {options.out / PLOT}")


def points_of(
    networks: Iterable[str],
    sizes: Iterable[int],
    levels: Iterable[int],
    features: Iterable[int],
    precisions: Iterable[str],
) -> list[Point]:
    """All combinations, in order."""
    return [
        Point(network, Preset(size, PYRAMID[:number], k, precision))
        for network, size, number, k, precision in product(networks, sizes, levels, features, precisions)
    ]


def search(points: Sequence[Point], setting: Setting, out: Path, *, photos: int = 8) -> dict[str, Any]:
    """Accuracy and time of every engine, those of earlier searches in the folder among them.

    An interrupted search goes on where it was.

    Args:
        points: the engines.
        setting: what they share.
        out: folder of the engines and of the result, which is written after each of them.
        photos: that are timed.

    Returns:
        the machine, the setting, and the engines, as ``described``.

    Raises:
        HowlError: a network or the data cannot be read, an engine is not proven, or the folder holds another search.
    """
    use_threads(None)
    timed = timed_photos(setting.data, photos)
    ensure_writable(out / RESULT)
    accuracies = earlier_accuracies(out / RESULT, setting)
    refuse_same_names({point.network for point in (*accuracies, *points)})
    for point in points:
        if point not in accuracies:
            engine = export_point(point, setting, out)
            evaluation = evaluate_engine(engine, setting.data, distractors=setting.distractors, device="cpu").as_dict()
            accuracies[point] = {Path(each["data"]).name: each["mAP"] for each in evaluation["sets"]}
            write_json(out / RESULT, {"setting": asdict(setting), "engines": described(accuracies)})
    seconds = measure({point: out / f"{point}.onnx" for point in accuracies}, timed)
    result = {
        "machine": describe_machine(PACKAGES),
        "setting": asdict(setting),
        "engines": described(accuracies, seconds),
    }
    write_json(out / RESULT, result)
    return result


def refuse_same_names(networks: Iterable[str]) -> None:
    """Raises UsageError if two networks share a name, after which their engines are called."""
    named: dict[str, str] = {}
    for network in networks:
        other = named.setdefault(Path(network).stem, network)
        if other != network:
            raise UsageError(f"{network}: {other} has the same name, after which engines are called; rename one")


def described(
    accuracies: Mapping[Point, Mapping[str, float]], seconds: Mapping[Point, list[float]] | None = None
) -> list[dict[str, Any]]:
    """Engines for JSON: their settings and mAP, and once they are timed, their seconds and which are on the front."""
    engines = [{**asdict(point), "name": point.preset_name, "mAP": mean_of} for point, mean_of in accuracies.items()]
    if seconds is not None:
        times = {point: float(np.median(seconds[point])) for point in accuracies}
        best = front({point: (times[point], float(np.mean(list(accuracies[point].values())))) for point in accuracies})
        for engine, point in zip(engines, accuracies, strict=True):
            engine |= {"seconds": seconds[point], "front": point in best}
    return engines


def earlier_accuracies(path: Path, setting: Setting) -> dict[Point, dict[str, float]]:
    """What earlier searches in the folder found, mAP by data set. Raises UsageError if they were of other photos."""
    if not path.exists():
        return {}
    earlier = json.loads(path.read_text())
    if earlier["setting"] != json.loads(json.dumps(asdict(setting))):
        raise UsageError(f"{path}: a search with other data, distractors or photos to learn from; name another --out")
    accuracies = {}
    for each in earlier["engines"]:
        preset = Preset(**{**each["preset"], "scales": tuple(each["preset"]["scales"])})
        accuracies[Point(each["network"], preset)] = each["mAP"]
    return accuracies


def export_point(point: Point, setting: Setting, out: Path) -> Path:
    """The engine of a point; whitening and words are learned once for each network and image size."""
    learn_from = None if setting.learn is None else Path(setting.learn)
    options = ExportOptions(
        Path(point.network),
        out / f"{point}.onnx",
        preset=point.preset_name or None,
        image_size=point.preset.image_size,
        scales=point.preset.scales,
        features=point.preset.features,
        precision=point.preset.precision,
        photos=learn_from,
        calibrate=learn_from if point.preset.precision == "int8" else None,
    )
    if learn_from is not None:
        learned = out / f"{Path(point.network).stem}-{point.preset.image_size}.pt"
        if not learned.exists():
            checkpoint = open_checkpoint(Path(point.network), learn_from)
            at_size = replace(checkpoint.extraction, image_size=point.preset.image_size)
            learn(replace(checkpoint, extraction=at_size), learn_from, say).save(learned)
        options = replace(options, checkpoint=learned)
    return export_checkpoint(options, say).engine


def say(line: str) -> None:
    """What an export tells, beside the table."""
    print(line, file=sys.stderr, flush=True)


def measure(engines: Mapping[Point, Path], photos: Sequence[Image]) -> dict[Point, list[float]]:
    """Seconds from an image in memory to its features, one thread, for every photo and turn.

    The processor's time, so that other work on the machine counts less; all engines take each photo in turn.
    """
    extractors = {point: open_extractor(path) for point, path in engines.items()}
    seconds: dict[Point, list[float]] = {point: [] for point in extractors}
    for run in extractors.values():
        run(photos[0])  # to warm up
    for photo in tqdm([*photos] * TURNS, desc="timing", unit="photo", disable=None):
        for point, run in extractors.items():
            seconds[point].append(timed(run, photo)[1] / 1e3)
    return seconds


def front(engines: Mapping[T, tuple[float, float]]) -> set[T]:
    """The engines, by seconds and accuracy, that no other one beats in one of them and equals in the other."""
    return {
        engine
        for engine, (seconds, accuracy) in engines.items()
        if not any(
            other_seconds <= seconds
            and other_accuracy >= accuracy
            and (other_seconds, other_accuracy) != (seconds, accuracy)
            for other_seconds, other_accuracy in engines.values()
        )
    }


def table(result: Mapping[str, Any]) -> str:
    """Markdown, the fastest first: settings, median and quartiles of the milliseconds of a photo, and mAP."""
    import pandas  # late: `--help` does without

    rows = [
        {
            "network": Path(each["network"]).stem,
            "image": each["preset"]["image_size"],
            "levels": len(each["preset"]["scales"]),
            "K": each["preset"]["features"],
            "precision": each["preset"]["precision"],
            "preset": each["name"],
            "ms": "{1:.0f} ({0:.0f}–{2:.0f})".format(*quartiles(each)),
            **{f"mAP {of}": f"{100 * value:.2f}" for of, value in each["mAP"].items()},
            "front": "●" if each["front"] else "",
        }
        for each in sorted(result["engines"], key=lambda each: float(np.median(each["seconds"])))
    ]
    about = ", ".join(f"{name} {value}" for name, value in result["machine"].items())
    return f"{about}\n\n{pandas.DataFrame(rows).to_markdown(index=False, disable_numparse=True)}"


def quartiles(engine: Mapping[str, Any]) -> tuple[float, float, float]:
    """Of the milliseconds of a photo: the lower one, the median and the upper one."""
    low, middle, high = 1e3 * np.quantile(engine["seconds"], [0.25, 0.5, 0.75])
    return float(low), float(middle), float(high)


def draw(result: Mapping[str, Any], path: Path) -> None:
    """mAP against time for every data set: all engines, the front by mean mAP as a line, and the presets by name."""
    pyplot = load_pyplot()
    engines = sorted(result["engines"], key=lambda each: float(np.median(each["seconds"])))
    sets = list(engines[0]["mAP"])
    figure, every_axes = pyplot.subplots(
        1, len(sets), figsize=(5.5 * len(sets), 4), layout="constrained", squeeze=False
    )
    for of, axes in zip(sets, every_axes[0], strict=True):
        for network in dict.fromkeys(each["network"] for each in engines):
            mine = [each for each in engines if each["network"] == network]
            axes.plot(*coordinates(mine, of), "o", label=Path(network).stem, alpha=0.7)
        axes.plot(*coordinates([each for each in engines if each["front"]], of), "-", color="grey", zorder=0)
        for each in engines:
            if each["name"]:
                at = quartiles(each)[1], 100 * each["mAP"][of]
                axes.annotate(each["name"], at, textcoords="offset points", xytext=(5, 5), fontsize=8)
        axes.set_xscale("log")
        axes.set(xlabel="ms a photo, one thread", ylabel="mAP", title=of)
        axes.grid(which="both", alpha=0.3)
        axes.legend(fontsize=8, loc="lower right")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def coordinates(engines: Sequence[Mapping[str, Any]], of: str) -> tuple[list[float], list[float]]:
    """Milliseconds and mAP of engines on one data set."""
    return [quartiles(each)[1] for each in engines], [100 * each["mAP"][of] for each in engines]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/experiments/frontier.py",
        description="Accuracy and time of many engines, and which of them no other beats in both.",
    )
    parser.add_argument("networks", metavar="NETWORK", nargs="+", help="a checkpoint, or a backbone with --learn")
    parser.add_argument("--data", metavar="DATA", nargs="+", required=True, help="one folder a scene, to evaluate on")
    parser.add_argument("--distractors", metavar="DIR", help="photos of none of the scenes, to search among")
    parser.add_argument("--learn", metavar="DIR", help="photos that whitening and words are learned from")
    parser.add_argument("--sizes", type=positive_int, nargs="+", default=[720], help="pixels (%(default)s)")
    parser.add_argument("--levels", type=int, choices=range(1, len(PYRAMID) + 1), nargs="+", default=[5])
    parser.add_argument("--features", type=positive_int, nargs="+", default=[1000], metavar="K", help="(%(default)s)")
    parser.add_argument("--precisions", choices=PRECISIONS, nargs="+", default=["fp32"], help="(%(default)s)")
    parser.add_argument("--presets", action="store_true", help="every preset, too")
    parser.add_argument("--photos", type=positive_int, default=8, metavar="N", help="that are timed (%(default)s)")
    parser.add_argument("--out", type=Path, metavar="DIR", default="frontier", help="(%(default)s)")
    return parser.parse_args(arguments)
