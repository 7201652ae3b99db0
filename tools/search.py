"""Searches an index with a photo: ``python tools/search.py engine.onnx QUERY --index DIR [--top 10] [--json]``."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from runtime.command import positive_int, run_command
from runtime.retriever import Retriever


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    with Retriever(
        options.engine, options.index, device=options.device, threshold=options.threshold, alpha=options.alpha
    ) as retriever:
        hits = retriever.search(options.query, options.top)
    if options.json:
        print(json.dumps({"query": options.query, "hits": [asdict(hit) for hit in hits]}, indent=2))
        return
    for rank, hit in enumerate(hits, 1):
        print(f"{rank:4d}  {hit.score:.6f}  {hit.id}")
    if not hits:
        print("nothing in the index resembles this photo")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/search.py", description="Ranks the photos of an index by their likeness to a query photo."
    )
    parser.add_argument("engine", metavar="ENGINE", help="engine.onnx or engine.plan")
    parser.add_argument("query", metavar="QUERY", help="a photo")
    parser.add_argument("--index", metavar="DIR", help="default: engine.index beside the engine")
    parser.add_argument("--top", type=positive_int, default=10, metavar="N", help="answers at most (%(default)s)")
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.add_argument("--threshold", type=float, metavar="TAU", help="τ; default: the engine's")
    parser.add_argument("--alpha", type=float, metavar="ALPHA", help="α; default: the engine's")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: a GPU where there is one")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(run_command(main))
