"""Makes and keeps an index: ``python tools/index.py engine.onnx PHOTOS...`` adds photos; options do the rest."""

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from tqdm import tqdm

from runtime.asmk_method.importing import import_asmk
from runtime.bundle import EngineFiles, is_engine
from runtime.errors import DamagedError, ImageError
from runtime.first_stage import ASMK
from runtime.index import Index
from runtime.index.catalogue import PATIENCE
from runtime.index.ids import is_unicode
from runtime.index.verification import verify
from runtime.io.cli import add_threads, positive_int, program, run_command, seconds
from runtime.io.decoding import MAX_PIXELS
from runtime.io.finding import describe_passed_over, look_for_photos
from runtime.io.image import describe_unreadable
from runtime.retriever import Retriever
from tools.environment import peak_memory


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    beside = options.import_asmk[1] if options.import_asmk else options.engine
    path = Path(options.index) if options.index else EngineFiles.of(Path(beside)).index
    if options.swap:
        swap(path, Path(options.swap), options.wait)
    if options.import_asmk:
        import_from_asmk(path, *map(Path, options.import_asmk))
    if options.remove:
        remove(path, options.remove, options.wait)
    if options.photos:
        with Retriever(
            options.engine,
            path,
            device=options.device,
            threads=options.threads,
            wait=options.wait,
            max_pixels=options.max_pixels,
        ) as retriever:
            add(retriever, options.photos)
    if options.compact:
        compact(path, options.wait)
    if options.stats:
        print_stats(path)
    if options.verify:
        print_verification(path)


def import_from_asmk(path: Path, codebook: Path, inverted_file: Path) -> None:
    """Makes an index of what the ``asmk`` package saved."""
    made = import_asmk(codebook, inverted_file, path)
    besides = f" and {made.distractors} distractors" if made.distractors else ""
    print(f"imported {made.images} images{besides}, {made.entries} entries, from {inverted_file} into {made.index}")
    print(f"its {made.words} visual words are {made.codebook}; runtime.asmk_method searches with the two")


def add(retriever: Retriever, roots: list[str]) -> None:
    """Adds the photos of files and folders that are not in the index yet: an interrupted run goes on."""
    found = look_for_photos(roots)
    ids, unnamed = sort_out(found.photos)
    known = set(retriever.index.existing(ids)) if retriever.index else set()
    begin = time.perf_counter()
    report = retriever.add([id_ for id_ in ids if id_ not in known])
    seconds = time.perf_counter() - begin
    print(
        f"added {len(report.added)} photos to {retriever.index_path} in {seconds:.1f} s, "
        f"{len(report.added) / seconds:.1f} a second{_memory()}; it holds {len(retriever)}"
    )
    if known:
        print(f"{len(known)} were there already")
    if found.passed_over:
        print(describe_passed_over(found.passed_over))
    skipped = report.skipped | unnamed
    if skipped:
        print(describe_unreadable(skipped))
    if skipped and not report.added and not known:
        raise ImageError("none of the photos could be read")


def sort_out(photos: Sequence[Path]) -> tuple[list[str], dict[str, str]]:
    """The paths that can be ids, and why the others cannot: file names may be any bytes."""
    ids, unnamed = [], {}
    for path in map(str, photos):
        if is_unicode(path):
            ids.append(path)
        else:
            unnamed[path] = f"{path!r}: its name is not valid Unicode; rename it"
    return ids, unnamed


def _memory() -> str:
    return "" if sys.platform == "win32" else f", with {peak_memory() / 1e6:.0f} MB of memory at most"


def swap(path: Path, new: Path, wait: float) -> None:
    """Puts an index in the place of another one, which then lies where the first was."""
    Index.replace(path, new, wait=wait)
    print(f"{path}: replaced by {new}, where the index before it lies now; the same command swaps them back")


def remove(path: Path, ids: list[str], wait: float) -> None:
    """Removes photos from an index; ``compact`` frees their space."""
    with closing(Index(path, wait=wait)) as index:
        index.remove(ids)
    print(f"removed {len(set(ids))} photos from {path}")


def compact(path: Path, wait: float) -> None:
    """Frees the space of removed photos, and makes searching as fast as it can be."""
    with closing(Index(path, wait=wait)) as index:
        before = index.stats()
        with tqdm(total=before.images, desc="compacting", unit="image", disable=None) as bar:
            index.compact(bar.update)
        after = index.stats()
    print(f"compacted {path}: {before.segments} segments became {after.segments}, {before.bytes} bytes {after.bytes}")


def print_stats(path: Path) -> None:
    """Counts and sizes of an index."""
    with closing(Index(path)) as index:
        stats = index.stats()
    print(f"{path}")
    print(f"  images          {stats.images}  ({stats.removed} removed, still on disk)")
    if stats.method == ASMK:
        per_image = stats.entries / max(1, stats.images + stats.removed)
        print(f"  entries         {stats.entries}  ({per_image:.0f} visual words an image)")
    else:
        print(f"  {stats.method:15} {stats.entries}")
    print(f"  segments        {stats.segments}")
    print(f"  bytes on disk   {stats.bytes}")


def print_verification(path: Path) -> None:
    """Every damage on a line of its own. Raises HowlError where there is one."""
    with tqdm(desc="verifying", unit="image", disable=None) as bar:
        found = verify(path, bar.update)
    for folder in found.orphans:
        print(f"{folder}: no damage: a writer left it behind, or is writing it; the next one deletes it")
    for damage in found.damages:
        print(damage)
    if found.damages:
        raise DamagedError(
            f"{path}: {len(found.damages)} damaged; restore the index from a backup, or index the photos again"
        )
    print(f"{path}: all well: {found.images} images, {found.entries} entries, {found.segments} segments")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=program("tools/index.py"),
        description="Adds photos to an index (the default), removes them, compacts, counts or verifies the index; "
        "several at once are done in this order, but swapping and removing come first.",
    )
    parser.add_argument(
        "engine", metavar="ENGINE", nargs="?", help="engine.onnx or engine.plan; where photos are added, or for --index"
    )
    parser.add_argument("photos", metavar="PHOTOS", nargs="*", help="files, or folders that are searched through")
    parser.add_argument("--index", metavar="DIR", help="default: engine.index beside the engine")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: a GPU where there is one")
    parser.add_argument(
        "--import-asmk",
        metavar=("CODEBOOK", "IVF"),
        nargs=2,
        help="make an index of two pickles that the asmk package saved; default for --index: beside IVF",
    )
    parser.add_argument("--remove", metavar="ID", nargs="+", help="photos to remove, by the path they were added under")
    parser.add_argument(
        "--swap", metavar="NEW", help="put the index NEW in the place of --index, atomically; NEW is then the old one"
    )
    parser.add_argument("--compact", action="store_true", help="free the space of removed photos; speeds searches up")
    parser.add_argument("--stats", action="store_true", help="say what the index holds")
    parser.add_argument("--verify", action="store_true", help="check every file of the index, and name each damage")
    add_threads(parser)
    parser.add_argument(
        "--max-pixels",
        type=positive_int,
        default=MAX_PIXELS,
        metavar="N",
        help="of a photo; larger ones are left out before they are decoded (%(default)s)",
    )
    parser.add_argument(
        "--wait",
        type=seconds,
        default=PATIENCE,
        metavar="SECONDS",
        help="for another process that is writing to the index (%(default)g)",
    )
    options = parser.parse_args(arguments)
    if options.engine is None and options.index is None and options.import_asmk is None:
        parser.error("name an engine, or an index with --index")
    if options.import_asmk and options.engine is not None:
        parser.error(f"{options.engine}: --import-asmk makes an index without an engine")
    if options.engine is not None and not is_engine(Path(options.engine)):
        parser.error(f"{options.engine}: an engine is an .onnx or a .plan file")
    maintenance = (options.swap, options.remove, options.compact, options.stats, options.verify)
    if not any((options.photos, options.import_asmk, *maintenance)):
        parser.error("nothing to do: name photos, --import-asmk, --swap, --remove, --compact, --stats or --verify")
    return options


if __name__ == "__main__":
    sys.exit(run_command(main))
