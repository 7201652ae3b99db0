"""Searches an index with photos: ``python tools/search.py engine.onnx QUERY... --index DIR [--top 10] [--json]``."""

if __name__ == "__main__":
    import howl

    howl.run_script("tools.search")  # before the imports: howl.py says why

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from runtime.errors import ImageError, UnknownIdError
from runtime.index import Hit, Hits
from runtime.io.cli import (
    add_engine_arguments,
    add_ray_arguments,
    add_rerank_arguments,
    check_ray_arguments,
    check_rerank_arguments,
    positive_int,
    program,
)
from tools.opening import open_retriever


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    with open_retriever(
        options.engine,
        options.index,
        ray=options.ray,
        replicas=options.replicas,
        on_missing=options.on_missing,
        root=options.root,
        matcher=options.matcher,
        device=options.device,
        threshold=options.threshold,
        alpha=options.alpha,
        threads=options.threads,
    ) as retriever:
        index = retriever.index
        only = index.selected(options.only) if index is not None and options.only else None
        exclude = index.selected(options.exclude) if index is not None and options.exclude else []
        if index is not None and (unknown := sorted(set(exclude) - set(index.existing(exclude)))):
            raise UnknownIdError(f"--exclude {unknown[0]}: not in {retriever.index_path}, nor a folder of it")
        stranger_score, unreadable = retriever.stranger_score, []
        for query in options.queries:
            if len(options.queries) > 1 and not options.json:
                print(query)
            try:
                hits = retriever.search(
                    query,
                    options.top,
                    min_score=options.min_score,
                    only=only,
                    exclude=exclude,
                    rerank=options.rerank,
                    candidates=options.candidates,
                )
            except ImageError as error:
                print(json.dumps({"query": query, "error": str(error)}) if options.json else f"{error}")
                unreadable.append(query)
            else:
                print_hits(query, hits, stranger_score, options.min_score, as_json=options.json)
                if hits.is_partial:
                    print(f"without {', '.join(hits.missing)}, which did not answer", file=sys.stderr)
        if options.index is None:
            print(f"searched {retriever.index_path}, which holds {len(retriever)} photos", file=sys.stderr)
    if unreadable:
        raise ImageError(f"{len(unreadable)} of {len(options.queries)} queries cannot be read; their lines are above")


def print_hits(query: str, hits: Hits, stranger_score: float | None, min_score: float | None, *, as_json: bool) -> None:
    """Prints the answers to a query, and whether they stand out from what photos of other places score.

    Args:
        query: path of the photo.
        hits: its answers.
        stranger_score: ``Retriever.stranger_score``.
        min_score: the least score that was asked for.
        as_json: a line of JSON.
    """
    if as_json:
        answer = {"query": query, "hits": [asdict(hit) for hit in hits], "stranger_score": stranger_score}
        print(json.dumps(answer | ({"missing": hits.missing} if hits.is_partial else {})))
        return
    counts_inliers = any(hit.inliers is not None for hit in hits)
    for rank, hit in enumerate(hits, 1):
        count = f"{'':12}" if hit.inliers is None else f"{hit.inliers:4d} inliers"
        geometry = f"  {count}  {'verified' if hit.verified else '':8}" if counts_inliers else ""
        print(f"{rank:4d}  {hit.score:.6f}{geometry}  {hit.id}")
    if not hits and min_score is not None:
        print(f"no answer scores {min_score:g} or more")
    elif not hits:
        print("nothing in the index resembles this photo")
    elif stranger_score is not None and all(first_score(hit) < stranger_score for hit in hits):
        before = " before re-ranking" if hits[0].first_score is not None else ""
        print(f"no answer stands out: photos of other places score up to about {stranger_score:.6f} here{before}")


def first_score(hit: Hit) -> float:
    """What the first stage gave, which is what the scores of strangers are."""
    return hit.score if hit.first_score is None else hit.first_score


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=program("tools/search.py"),
        description="Ranks the photos of an index by their likeness to each query photo.",
    )
    add_engine_arguments(parser, searches=True)
    parser.add_argument("queries", metavar="QUERY", nargs="+", help="photos")
    parser.add_argument("--index", metavar="DIR", help="default: engine.index beside the engine")
    parser.add_argument("--top", type=positive_int, default=10, metavar="N", help="answers at most (%(default)s)")
    parser.add_argument(
        "--min-score",
        type=float,
        metavar="S",
        help="the least score of an answer, before --rerank (howl index --stats has a scale)",
    )
    parser.add_argument("--only", metavar="ID", action="append", help="search only this photo or folder; repeatable")
    parser.add_argument(
        "--exclude",
        metavar="ID",
        action="append",
        help="leave out this photo or folder; repeatable",
    )
    add_rerank_arguments(parser)
    parser.add_argument(
        "--root", metavar="DIR", help="from which ids are seen: where --rerank ransac and lightglue find the photos"
    )
    parser.add_argument("--json", action="store_true", help="a line of JSON for each query")
    add_ray_arguments(parser, searches=True)
    options = parser.parse_intermixed_args(arguments)
    check_ray_arguments(parser, options, ("replicas", "on_missing"))
    check_rerank_arguments(parser, options)
    return options
