"""Searches an index with a photo: ``python tools/search.py engine.onnx QUERY --index DIR [--top 10] [--json]``."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from runtime.io.cli import add_engine_arguments, positive_int, program, run_command
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
        prog=program("tools/search.py"), description="Ranks the photos of an index by their likeness to a query photo."
    )
    add_engine_arguments(parser, searches=True)
    parser.add_argument("query", metavar="QUERY", help="a photo")
    parser.add_argument("--index", metavar="DIR", help="default: engine.index beside the engine")
    parser.add_argument("--top", type=positive_int, default=10, metavar="N", help="answers at most (%(default)s)")
    parser.add_argument("--json", action="store_true", help="for machines")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(run_command(main))
