"""Measures an engine on labelled photos: ``python tools/evaluate.py engine.onnx DATA... [--distractors DIR]``."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.asmk import Aggregated, code_length, selectivity
from runtime.command import add_engine_arguments, run_command
from runtime.encoder import Encoder
from runtime.engine import Features
from runtime.errors import HowlError, ImageError
from runtime.evaluation import average_precision, positive_ranks, precision_at
from runtime.image import find_photos, scenes_below
from runtime.inverted_file import LARGEST, InvertedFile

PRECISION_DEPTHS = (1, 5, 10)
WORST_SHOWN = 5
DISTRACTOR = -1
STANDARD_SETS = ("roxford5k", "rparis6k")


@dataclass(frozen=True)
class QueryResult:
    """How one query fared.

    Attributes:
        query: path of the photo.
        average_precision: in [0, 1].
        precisions: mP@k for the k of PRECISION_DEPTHS.
    """

    query: str
    average_precision: float
    precisions: tuple[float, ...]


@dataclass(frozen=True)
class Summary:
    """The queries of one data set, each searched among ``photos`` photos, itself included."""

    data: str
    photos: int
    results: Sequence[QueryResult]

    def means(self) -> dict[str, float]:
        """mAP and mP@k."""
        precisions = np.mean([result.precisions for result in self.results], axis=0)
        return {
            "mAP": float(np.mean([result.average_precision for result in self.results])),
            **{f"mP@{k}": float(value) for k, value in zip(PRECISION_DEPTHS, precisions, strict=True)},
        }


@dataclass(frozen=True)
class Photo:
    """A photo as both sides of a search see it; ``scene`` is DISTRACTOR for one of none."""

    path: Path
    scene: int
    database: Aggregated
    query: Aggregated


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    sets = {data: labelled_photos(Path(data)) for data in options.data}
    others = [(path, DISTRACTOR) for path in find_photos([options.distractors])] if options.distractors else []
    refuse_overlap([path for labelled in sets.values() for path, _ in labelled], [path for path, _ in others])
    encoder = Encoder(Path(options.engine), device=options.device, threshold=options.threshold, alpha=options.alpha)
    skipped: dict[str, str] = {}
    distractors = list(encode_all(encoder, others, "distractors", skipped))
    summaries = []
    for data, labelled in sets.items():
        photos = [*encode_all(encoder, labelled, data, skipped), *distractors]
        summaries.append(Summary(data, len(photos), leave_one_out(encoder, photos)))
    print_json(options, encoder, summaries, skipped) if options.json else print_text(encoder, summaries, skipped)


def refuse_overlap(labelled: Sequence[Path], distractors: Sequence[Path]) -> None:
    """Raises HowlError where a photo of a scene is among the photos that are said to show none."""
    resolved = {path.resolve() for path in labelled}
    if both := [path for path in distractors if path.resolve() in resolved]:
        raise HowlError(f"{both[0]}: is a distractor and a labelled photo too; name a folder of other photos")


def labelled_photos(root: Path) -> list[tuple[Path, int]]:
    """The photos of a folder of folders, each with the number of its scene."""
    if str(root) in STANDARD_SETS and not root.exists():
        raise HowlError(f"{root}: the revisited Oxford and Paris sets are not supported yet; name a folder of folders")
    scenes = scenes_below(root).values()
    return [(path, number) for number, photos in enumerate(scenes) for path in photos]


def encode_all(
    encoder: Encoder, photos: Sequence[tuple[Path, int]], label: str, skipped: dict[str, str]
) -> Iterator[Photo]:
    """Every readable photo, aggregated for both sides; the others' reasons go into ``skipped``."""

    def both_sides(features: Features) -> tuple[Aggregated, Aggregated]:
        return encoder.for_database(features), encoder.for_query(features)

    encoded = encoder.encode_all([path for path, _ in photos], both_sides)
    bar = tqdm(encoded, total=len(photos), desc=label, unit="photo", disable=None)
    for (path, scene), (_, sides) in zip(photos, bar, strict=True):
        if isinstance(sides, ImageError):
            skipped[str(path)] = str(sides)
        else:
            yield Photo(path, scene, *sides)


def leave_one_out(encoder: Encoder, photos: Sequence[Photo]) -> list[QueryResult]:
    """Every labelled photo with a positive against all others; a photo never finds itself."""
    length = code_length(encoder.codebook.dimensions)
    databases = [
        InvertedFile.build([photo.database for photo in photos[start : start + LARGEST]], length)
        for start in range(0, len(photos), LARGEST)
    ]
    worth = selectivity(encoder.codebook.dimensions, encoder.asmk)
    scenes = np.array([photo.scene for photo in photos])
    results = []
    for number, photo in enumerate(tqdm(photos, desc="searching", unit="query", disable=None)):
        positives = np.flatnonzero((scenes == photo.scene) & (np.arange(len(photos)) != number))
        if photo.scene == DISTRACTOR or len(positives) == 0:
            continue
        scores = np.concatenate([database.scores(photo.query, worth) for database in databases])
        ranking = np.argsort(-scores, kind="stable")
        results.append(judge(photo, positive_ranks(ranking, positives, junk=[number]), len(positives)))
    if not results:
        raise HowlError("no photo can be a query: no scene has two readable photos")
    return results


def judge(photo: Photo, ranks: NDArray[np.intp], positives: int) -> QueryResult:
    """Average precision and precisions of one query from the ranks of its positives."""
    precisions = tuple(precision_at(ranks, k) for k in PRECISION_DEPTHS)
    return QueryResult(str(photo.path), average_precision(ranks, positives), precisions)


def print_text(encoder: Encoder, summaries: Sequence[Summary], skipped: dict[str, str]) -> None:
    """The means of every set, and its worst queries by name."""
    print(f"{encoder.path}, {encoder.engine.provider}, τ = {encoder.asmk.threshold:g}, α = {encoder.asmk.alpha:g}")
    for summary in summaries:
        means = "  ".join(f"{name} {value:.4f}" for name, value in summary.means().items())
        print(f"{summary.data}: {len(summary.results)} queries, each against {summary.photos - 1} photos")
        print(f"  {means}")
        print("  worst queries:")
        for result in sorted(summary.results, key=lambda result: result.average_precision)[:WORST_SHOWN]:
            print(f"    {result.average_precision:.4f}  {result.query}")
    if skipped:
        print(f"skipped {len(skipped)} unreadable photos:")
        for reason in skipped.values():
            print(f"  {reason}")


def print_json(
    options: argparse.Namespace, encoder: Encoder, summaries: Sequence[Summary], skipped: dict[str, str]
) -> None:
    """All of it, with every query's average precision."""
    sets = [
        {
            "data": summary.data,
            "photos": summary.photos,
            "queries": len(summary.results),
            **summary.means(),
            "average_precisions": {result.query: result.average_precision for result in summary.results},
        }
        for summary in summaries
    ]
    about = {"engine": options.engine, "provider": encoder.engine.provider, "asmk": asdict(encoder.asmk)}
    print(json.dumps({**about, "distractors": options.distractors, "skipped": skipped, "sets": sets}, indent=2))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/evaluate.py",
        description="Mean average precision on a folder of folders: every photo is a query against all others.",
    )
    add_engine_arguments(parser, searches=True)
    parser.add_argument("data", metavar="DATA", nargs="+", help="a folder with one folder a scene")
    parser.add_argument("--distractors", metavar="DIR", help="photos of none of the scenes, to search among")
    parser.add_argument("--json", action="store_true", help="for machines; with every query's average precision")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(run_command(main))
