"""Measures an engine on labelled photos: ``python tools/evaluate.py [engine.onnx] DATA... [--distractors DIR|r1m]``.

DATA is a folder of folders, or a published set: ``roxford5k``, ``rparis6k``, ``sfm120k``.
"""

if __name__ == "__main__":
    import howl

    howl.run_script("tools.evaluate")  # before the imports: howl.py says why

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from runtime.bundle import is_engine
from runtime.io.cli import (
    add_engine_options,
    add_rerank_arguments,
    check_rerank_arguments,
    program,
)
from tools.evaluation import evaluate_engine
from tools.evaluation.distractors import R1M
from train.data.revisited import REVISITED
from train.data.sfm120k import SFM120K

DEFAULT_ENGINE = "engine.onnx"  # what howl export leaves in the current folder


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    evaluation = evaluate_engine(
        Path(options.engine),
        options.data,
        distractors=options.distractors,
        data_root=Path(options.data_root),
        index=Path(options.index) if options.index else None,
        device=options.device,
        threads=options.threads,
        threshold=options.threshold,
        alpha=options.alpha,
        rerank=options.rerank,
        candidates=options.candidates,
        matcher=options.matcher,
    )
    print(json.dumps(evaluation.as_dict(), indent=2) if options.json else evaluation.as_text())


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=program("tools/evaluate.py"),
        description="Mean average precision, precision among the first answers, and the worst queries by name. In a "
        "folder with one folder a scene every photo is a query against all others. Published sets are evaluated as "
        "their authors do, for figures that can be compared.",
    )
    parser.add_argument(
        "data",
        metavar="[ENGINE] DATA",
        nargs="*",
        help=f"ENGINE: engine.onnx or engine.plan (default: {DEFAULT_ENGINE}); DATA: a folder with one folder a scene, "
        f"or a published set: {', '.join(REVISITED)} or {SFM120K} (its validation photos)",
    )
    add_engine_options(parser, searches=True)
    parser.add_argument(
        "--distractors",
        metavar=f"DIR|{R1M}",
        help=f"photos of none of the scenes, to search among; {R1M}: the published million, which stay in an index "
        "beside the engine, so that an interrupted run goes on",
    )
    parser.add_argument(
        "--index",
        metavar="DIR",
        help="an index that holds the photos, so that only queries are encoded; its other photos are distractors",
    )
    parser.add_argument(
        "--root",
        "--data-root",
        dest="data_root",
        metavar="DIR",
        default="data",
        help="where published data sets lie (%(default)s)",
    )
    add_rerank_arguments(parser)
    parser.add_argument("--json", action="store_true", help="for machines; with every query's average precision")
    options = parser.parse_args(arguments)
    check_rerank_arguments(parser, options)
    named = bool(options.data) and is_engine(Path(options.data[0]))
    options.engine = options.data.pop(0) if named else DEFAULT_ENGINE
    if not options.data:
        parser.error("name DATA: a folder with one folder a scene, or a published set")
    return options
