"""Searches an index with photos: ``python tools/search.py engine.onnx QUERY... --index DIR [--top 10] [--json]``."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from runtime.errors import ImageError
from runtime.io.cli import add_engine_arguments, add_threads, positive_int, program, run_command
from runtime.retriever import Retriever


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    with Retriever(
        options.engine,
        options.index,
        device=options.device,
        threshold=options.threshold,
        alpha=options.alpha,
        threads=options.threads,
    ) as retriever:
        unreadable = []
        for query in options.queries:
            if len(options.queries) > 1 and not options.json:
                print(query)
            if not answer(retriever, query, options.top, as_json=options.json):
                unreadable.append(query)
        if options.index is None:
            print(f"searched {retriever.index_path}, which holds {len(retriever)} photos", file=sys.stderr)
    if unreadable:
        raise ImageError(f"{len(unreadable)} of {len(options.queries)} queries cannot be read; their lines are above")


def answer(retriever: Retriever, query: str, top: int, *, as_json: bool) -> bool:
    """Prints the answers to a query, or why it cannot be read; the others are answered all the same.

    Args:
        retriever: with an index.
        query: path of a photo.
        top: answers at most.
        as_json: a line of JSON.

    Returns:
        whether the query could be read.
    """
    try:
        hits = retriever.search(query, top)
    except ImageError as error:
        print(json.dumps({"query": query, "error": str(error)}) if as_json else f"{error}")
        return False
    if as_json:
        print(json.dumps({"query": query, "hits": [asdict(hit) for hit in hits]}))
        return True
    if not hits:
        print("nothing in the index resembles this photo")
    for rank, hit in enumerate(hits, 1):
        print(f"{rank:4d}  {hit.score:.6f}  {hit.id}")
    return True


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=program("tools/search.py"),
        description="Ranks the photos of an index by their likeness to each query photo.",
    )
    add_engine_arguments(parser, searches=True)
    add_threads(parser)
    parser.add_argument("queries", metavar="QUERY", nargs="+", help="photos")
    parser.add_argument("--index", metavar="DIR", help="default: engine.index beside the engine")
    parser.add_argument("--top", type=positive_int, default=10, metavar="N", help="answers at most (%(default)s)")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each query")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(run_command(main))
