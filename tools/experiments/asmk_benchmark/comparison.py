"""Both sides on the same queries, round by round in turn.

``tools/experiments/benchmark_asmk.py`` runs this file as a process of its own, and reads its line of JSON. No function
call would do: OpenBLAS and OpenMP read their environment when they are loaded, and each way of running faiss needs its
own environment.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.asmk.codebook import Codebook
from runtime.asmk.kernel import aggregate
from runtime.first_stage import ASMK, Layout
from runtime.index import Index
from tools.experiments.asmk_benchmark.measuring import mapped_bytes, own_bytes, timed
from tools.experiments.asmk_benchmark.sides import TOP, Answer, Ours, Reference, encode_query
from tools.experiments.asmk_benchmark.workload import Built, Workload, image_id
from train.metrics import average_precision, positive_ranks

AS_IT_COMES, TUNED = "as it comes", "tuned"  # how faiss runs
STAGES = ("quantise", "aggregate", "search")
ROUNDS = 3
COMPARED = 5  # queries whose scores of all images are compared
TIE = 1e-6  # scores that differ by no more may change places

Side = Ours | Reference
Rounds = list[dict[str, dict[str, list[list[float]]]]]


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    print(json.dumps(compare_sides(options.workload, options.index, options.images, options.asmk, options.build_in)))


def compare_sides(
    folder: Path, index_path: Path, images: int, asmk: str | None = None, build_in: Path | None = None
) -> dict[str, Any]:
    """All that is measured in one process: time by round, memory, accuracy, equality, two threads, and building.

    Args:
        folder: of the workload.
        index_path: howl's index of its first images.
        images: how many these are.
        asmk: how faiss runs, ``AS_IT_COMES`` or ``TUNED``; None for howl alone.
        build_in: a folder, to measure building too, against asmk; None for not.
    """
    workload = Workload(folder)
    codebook = Codebook(workload.centroids)
    query = encode_query(workload.queries[0], codebook)
    result: dict[str, Any] = {}
    memory = own_bytes()
    with closing(Index(index_path)) as index:
        index.search(query, TOP)
        result["memory"] = {"howl": grown(memory)}
        sides: dict[str, Side] = {"howl": Ours(codebook, index)}
        if asmk:
            memory = own_bytes()
            reference = Reference(workload.centroids, tuned=asmk == TUNED)
            reference.fill(workload, images)
            result["memory"]["asmk"] = grown(memory)
            sides["asmk"] = reference
        result["rounds"], answers = measure(sides, workload.queries)
        result["memory"]["howl_mapped"] = mapped_bytes(index_path)
        result["scanned_entries"] = scanned(sides["howl"], workload, images)
        result["mAP"] = {name: mean_average_precision(found, workload) for name, found in answers.items()}
        if asmk:
            result["equality"] = compare(sides, answers, workload)
        result["two_threads"] = throughput(sides, workload.queries)
        if asmk and build_in:
            result["build"] = build(reference, workload, build_in)
    return result


def grown(before: int | None) -> int | None:
    """How much this process's own memory has grown since; None if the operating system does not tell."""
    after = own_bytes()
    return None if before is None or after is None else after - before


def measure(sides: dict[str, Side], queries: Sequence[NDArray[np.float32]]) -> tuple[Rounds, dict[str, list[Answer]]]:
    """[processor, wall] seconds by round, side, stage and query, and what was answered.

    In a round every side answers all queries, and then the next side does: whoever serves queries serves them alone,
    with caches that nobody else fills. In the first round everything is touched for the first time.
    """
    rounds: Rounds = []
    answers: dict[str, list[Answer]] = {}
    with tqdm(total=ROUNDS * len(sides) * len(queries), desc="asking", unit="query", disable=None, leave=False) as bar:
        for _ in range(ROUNDS):
            rounds.append({})
            for name, side in sides.items():
                asked = []
                for descriptors in queries:
                    asked.append(ask(side, descriptors))
                    bar.update()
                answers[name] = [answer for answer, _ in asked]
                rounds[-1][name] = {stage: [taken[stage] for _, taken in asked] for stage in STAGES}
    return rounds, answers


def ask(side: Any, descriptors: NDArray[np.float32]) -> tuple[Answer, dict[str, list[float]]]:
    """One query, stage by stage."""
    words, quantise = timed(side.quantise, descriptors)
    query, aggregated = timed(side.aggregate, descriptors, words)
    found, search = timed(side.search, query)
    taken = zip(STAGES, (quantise, aggregated, search), strict=True)
    return side.answer(found), {stage: list(spent) for stage, spent in taken}


def scanned(side: Any, workload: Workload, images: int) -> list[int]:
    """Entries of every query's words."""
    lengths = workload.list_lengths(images)
    return [int(lengths[np.unique(side.quantise(descriptors))].sum()) for descriptors in workload.queries]


def mean_average_precision(answers: Sequence[Answer], workload: Workload) -> float:
    """Of the planted images among those found."""
    precisions = []
    for query, answer in enumerate(answers):
        planted = workload.matches(query)
        precisions.append(average_precision(positive_ranks(answer.images, planted, junk=[]), len(planted)))
    return float(np.mean(precisions))


def compare(sides: dict[str, Any], answers: dict[str, list[Answer]], workload: Workload) -> dict[str, float]:
    """The largest difference of a score, of all images for some queries, and rankings that differ by more than ties."""
    difference = 0.0
    for descriptors in workload.queries[:COMPARED]:
        both = [side.scores(side.aggregate(descriptors, side.quantise(descriptors))) for side in sides.values()]
        difference = max(difference, float(np.abs(both[0] - both[1]).max()))
    pairs = list(zip(answers["howl"], answers["asmk"], strict=True))
    wrong = 0
    for ours, theirs in pairs:
        n = min(len(ours.images), len(theirs.images))
        moved = ours.images[:n] != theirs.images[:n]
        wrong += bool((np.abs(ours.scores[:n] - theirs.scores[:n])[moved] > TIE).any())
    same = sum(np.array_equal(ours.images, theirs.images[: len(ours.images)]) for ours, theirs in pairs)
    return {"largest_difference": difference, "queries": len(pairs), "same_ranking": same, "more_than_ties": wrong}


def throughput(sides: dict[str, Any], queries: Sequence[NDArray[np.float32]]) -> dict[str, dict[str, float]]:
    """Seconds a query on the clock, with one thread and with two: howl's across queries, faiss's own for asmk."""

    def all_of(side: Any, threads: int) -> None:
        if isinstance(side, Ours):
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(lambda descriptors: ask(side, descriptors), queries))
        else:
            side.use_threads(threads)
            for descriptors in queries:
                ask(side, descriptors)

    spent: dict[str, Callable[[int], float]] = {
        name: lambda threads, side=side: timed(all_of, side, threads)[1].wall / len(queries)  # type: ignore[misc]
        for name, side in sides.items()
    }
    return {name: {"one": measured(1), "two": measured(2)} for name, measured in spent.items()}


def build(reference: Reference, workload: Workload, folder: Path) -> dict[str, float]:
    """Seconds of the processor, and on the clock, an image: from assigned descriptors to what can be searched."""
    built = workload.built()
    images = len(built.counts)
    entries, aggregated = timed(reference.aggregate_all, built)
    _, added = timed(reference.add, *entries)
    _, saved = timed(reference.save, folder / "asmk.pkl")
    _, ours = timed(build_ours, built, workload, folder / "built.index")
    return {
        "images": images,
        "asmk_cpu": (aggregated.cpu + added.cpu) / images,
        "asmk_wall": (aggregated.wall + added.wall) / images,
        "asmk_save_wall": saved.wall / images,
        "howl_cpu": ours.cpu / images,
        "howl_wall": ours.wall / images,
    }


def build_ours(built: Built, workload: Workload, path: Path) -> None:
    """A durable index of the same images."""
    ends = np.cumsum(built.counts)[:-1]
    parts = np.split(built.descriptors, ends), np.split(built.words, ends)
    images = [aggregate(*part, workload.centroids) for part in zip(*parts, strict=True)]
    with closing(
        Index.create(path, fingerprint="benchmark", layout=Layout(ASMK, workload.centroids.shape[1]))
    ) as index:
        index.add([image_id(number) for number in range(len(images))], images)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.experiments.asmk_benchmark.comparison")
    parser.add_argument("workload", type=Path)
    parser.add_argument("index", type=Path)
    parser.add_argument("images", type=int)
    parser.add_argument("--asmk", choices=(AS_IT_COMES, TUNED), help="the reference, and how faiss runs; or none")
    parser.add_argument("--build-in", type=Path, help="measure building too, in this folder")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
