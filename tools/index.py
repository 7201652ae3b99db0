"""Adds photos to an index, removes or counts them: ``python tools/index.py engine.onnx PHOTOS... --index DIR``."""

import argparse
import sys
import time
from collections.abc import Sequence

from runtime.command import add_engine_arguments, run_command
from runtime.errors import HowlError
from runtime.image import find_photos
from runtime.retriever import Retriever


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    with Retriever(options.engine, options.index, device=options.device) as retriever:
        if options.remove:
            retriever.remove(options.remove)
            print(f"removed {len(options.remove)} photos from {retriever.index_path}")
        if options.photos:
            add(retriever, options.photos)
        if options.stats:
            print_stats(retriever)


def add(retriever: Retriever, roots: list[str]) -> None:
    """Adds the photos of files and folders that are not in the index yet: an interrupted run goes on."""
    ids = [str(path) for path in find_photos(roots)]
    known = set(retriever.index.known(ids)) if retriever.index else set()
    begin = time.perf_counter()
    report = retriever.add([id_ for id_ in ids if id_ not in known])
    seconds = time.perf_counter() - begin
    print(f"added {len(report.added)} photos to {retriever.index_path} in {seconds:.1f} s; it holds {len(retriever)}")
    if known:
        print(f"{len(known)} were there already")
    if report.skipped:
        print(f"skipped {len(report.skipped)} unreadable photos:")
        for reason in report.skipped.values():
            print(f"  {reason}")
    if report.skipped and not report.added and not known:
        raise HowlError("none of the photos could be read")


def print_stats(retriever: Retriever) -> None:
    """Counts and sizes of the index."""
    if retriever.index is None:
        raise HowlError(f"{retriever.index_path}: no index here; name photos to make one")
    stats = retriever.index.stats()
    per_image = stats.entries / max(1, stats.images + stats.removed)
    print(f"{retriever.index_path}")
    print(f"  images          {stats.images}  ({stats.removed} removed, still on disk)")
    print(f"  entries         {stats.entries}  ({per_image:.0f} visual words an image)")
    print(f"  visual words    {len(retriever.encoder.codebook)}")
    print(f"  segments        {stats.segments}")
    print(f"  bytes on disk   {stats.bytes}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/index.py", description="Adds photos to an index (the default), removes them, or counts them."
    )
    add_engine_arguments(parser, searches=False)
    parser.add_argument("photos", metavar="PHOTOS", nargs="*", help="files, or folders that are searched through")
    parser.add_argument("--index", metavar="DIR", help="default: engine.index beside the engine")
    parser.add_argument("--remove", metavar="ID", nargs="+", help="photos to remove, by the path they were added under")
    parser.add_argument("--stats", action="store_true", help="say what the index holds")
    options = parser.parse_args(arguments)
    if not (options.photos or options.remove or options.stats):
        parser.error("nothing to do: name photos, --remove or --stats")
    return options


if __name__ == "__main__":
    sys.exit(run_command(main))
