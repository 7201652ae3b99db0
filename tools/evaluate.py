"""Measures an engine on labelled photos: ``python tools/evaluate.py engine.onnx DATA [--distractors DIR] [--json]``."""

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
from runtime.command import run_command
from runtime.errors import HowlError, ImageError
from runtime.evaluation import average_precision, positive_ranks, precision_at
from runtime.image import find_photos, is_photo
from runtime.inverted_file import LARGEST, InvertedFile
from runtime.retriever import Retriever

PRECISION_DEPTHS = (1, 5, 10)
WORST_SHOWN = 5


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
class Photo:
    """A photo as both sides of a search see it; ``scene`` is -1 for a distractor."""

    path: Path
    scene: int
    database: Aggregated
    query: Aggregated


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    labelled = labelled_photos(Path(options.data))
    distractors = [(path, -1) for path in find_photos([options.distractors])] if options.distractors else []
    retriever = Retriever(
        options.engine, Path(), device=options.device, threshold=options.threshold, alpha=options.alpha
    )
    skipped: dict[str, str] = {}
    photos = list(extract_all(retriever, labelled + distractors, skipped))
    results = leave_one_out(retriever, photos)
    report(options, retriever, photos, results, skipped)


def labelled_photos(root: Path) -> list[tuple[Path, int]]:
    """The photos of a folder of folders, each with the number of its scene: the folder right below ``root``."""
    if not root.is_dir():
        raise HowlError(f"{root}: no such folder; evaluation takes a folder with one folder a scene")
    scenes = [folder for folder in sorted(root.iterdir()) if folder.is_dir()]
    photos = [
        (path, number) for number, scene in enumerate(scenes) for path in sorted(scene.rglob("*")) if is_photo(path)
    ]
    if not photos:
        raise HowlError(f"{root}: no photos in its folders; put the photos of each scene into a folder of its own")
    return photos


def extract_all(retriever: Retriever, photos: Sequence[tuple[Path, int]], skipped: dict[str, str]) -> Iterator[Photo]:
    """Every readable photo, aggregated for both sides; the others' reasons go into ``skipped``."""
    for path, scene in tqdm(photos, desc="extracting", unit="photo", disable=None):
        try:
            features = retriever.extract(path)
        except ImageError as error:
            skipped[str(path)] = str(error)
            continue
        query = retriever.aggregate(features, retriever.asmk.query_assignments)
        yield Photo(path, scene, retriever.aggregate(features), query)


def leave_one_out(retriever: Retriever, photos: Sequence[Photo]) -> list[QueryResult]:
    """Every labelled photo with a positive against all others; a photo never finds itself."""
    length = code_length(retriever.codebook.dimensions)
    databases = [
        InvertedFile.build([photo.database for photo in photos[start : start + LARGEST]], length)
        for start in range(0, len(photos), LARGEST)
    ]
    worth = selectivity(retriever.codebook.dimensions, retriever.asmk)
    scenes = np.array([photo.scene for photo in photos])
    results = []
    for number, photo in enumerate(tqdm(photos, desc="searching", unit="query", disable=None)):
        positives = np.flatnonzero((scenes == photo.scene) & (np.arange(len(photos)) != number))
        if photo.scene < 0 or len(positives) == 0:
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


def report(
    options: argparse.Namespace,
    retriever: Retriever,
    photos: Sequence[Photo],
    results: Sequence[QueryResult],
    skipped: dict[str, str],
) -> None:
    """Prints the means, and the worst queries by name."""
    mean = float(np.mean([result.average_precision for result in results]))
    precisions = np.mean([result.precisions for result in results], axis=0)
    at = {f"mP@{k}": float(value) for k, value in zip(PRECISION_DEPTHS, precisions, strict=True)}
    if options.json:
        summary = {"engine": options.engine, "data": options.data, "distractors": options.distractors, "mAP": mean}
        counts = {"queries": len(results), "photos": len(photos), "skipped": skipped}
        details = {"provider": retriever.engine.provider, "asmk": asdict(retriever.asmk)}
        per_query = {result.query: result.average_precision for result in results}
        print(json.dumps({**summary, **at, **counts, **details, "average_precisions": per_query}, indent=2))
        return
    print(f"{len(results)} queries, each against {len(photos) - 1} photos, {retriever.engine.provider}")
    print(f"mAP {mean:.4f}  " + "  ".join(f"{name} {value:.4f}" for name, value in at.items()))
    print("worst queries:")
    for result in sorted(results, key=lambda result: result.average_precision)[:WORST_SHOWN]:
        print(f"  {result.average_precision:.4f}  {result.query}")
    if skipped:
        print(f"skipped {len(skipped)} unreadable photos:")
        for reason in skipped.values():
            print(f"  {reason}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/evaluate.py",
        description="Mean average precision on a folder of folders: every photo is a query against all others.",
    )
    parser.add_argument("engine", metavar="ENGINE", help="engine.onnx or engine.plan")
    parser.add_argument("data", metavar="DATA", help="a folder with one folder a scene")
    parser.add_argument("--distractors", metavar="DIR", help="photos of none of the scenes, to search among")
    parser.add_argument("--json", action="store_true", help="for machines; with every query's average precision")
    parser.add_argument("--threshold", type=float, metavar="TAU", help="τ; default: the engine's")
    parser.add_argument("--alpha", type=float, metavar="ALPHA", help="α; default: the engine's")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: a GPU where there is one")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(run_command(main))
