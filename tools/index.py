"""Makes and keeps an index: ``python tools/index.py engine.onnx PHOTOS...`` adds photos; options do the rest."""

if __name__ == "__main__":
    import howl

    howl.run_script("tools.index")  # before the imports: howl.py says why

import argparse
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from tqdm import tqdm

from runtime.asmk_method.importing import import_asmk
from runtime.bundle import EngineFiles, is_engine
from runtime.encoder import Encoder
from runtime.errors import DamagedError, ImageError, IncompatibleError, MissingError, UsageError
from runtime.first_stage import ASMK
from runtime.index import EXISTING, Index
from runtime.index.catalogue import PATIENCE
from runtime.index.verification import verify
from runtime.io.cli import (
    add_engine_options,
    add_ray_arguments,
    check_ray_arguments,
    positive_int,
    program,
    seconds,
)
from runtime.io.decoding import MAX_PIXELS
from runtime.io.image import describe_unreadable
from runtime.matching import Detector, EllipseDetector, EngineDetector, KeypointStore, Matcher
from runtime.matching.store import KINDS, OF_ACTIVATIONS, OF_ENGINE, OF_MATCHER, Kind, keep
from runtime.retriever import Retriever
from tools.adding import add, add_on_cluster, sync
from tools.integrations.ray_indexing import Task


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    beside = options.import_asmk[1] if options.import_asmk else options.engine
    path = Path(options.index) if options.index is not None else EngineFiles.of(Path(beside)).index
    root = Path(options.root) if options.root is not None else None
    if options.ray is not None:
        task = Task(
            engine=Path(options.engine),
            index=path,
            shards=options.shards,
            geometry=options.geometry,
            regions=options.regions,
            device=options.device,
            threads=options.threads,
            max_pixels=options.max_pixels,
            wait=options.wait,
        )
        add_on_cluster(task, options.ray, options.photos, root, options.existing)
        return
    if options.swap:
        swap(path, Path(options.swap), options.wait)
    if options.import_asmk:
        import_from_asmk(path, *map(Path, options.import_asmk))
    if options.remove:
        remove(path, options.remove, root, options.wait, may_empty=options.yes)
    if options.photos or options.strangers:
        with Retriever(
            options.engine,
            path,
            root=root,
            geometry=options.geometry,
            regions=options.regions,
            device=options.device,
            threads=options.threads,
            wait=options.wait,
            max_pixels=options.max_pixels,
        ) as retriever:
            if options.keep_features:
                feature_detectors(retriever.encoder)  # or it is refused before anything is indexed
            if retriever.index is not None and retriever.index.layout.geometry and not options.geometry:
                print(
                    f"{path}: keeps where features lie, as it was made; --no-geometry is for a new one", file=sys.stderr
                )
            if options.sync:
                sync(retriever, options.photos, may_remove=options.yes)
            elif options.photos:
                add(retriever, options.photos, options.existing)
            if options.strangers:
                retriever.measure_strangers()
    runs_on = dict(device=options.device, threads=options.threads, max_pixels=options.max_pixels)
    if options.matcher:
        keep_keypoints(path, root, Matcher(Path(options.matcher), **runs_on), OF_MATCHER)
    if options.keep_features:
        keep_features(path, root, Encoder(Path(options.engine), **runs_on))
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


def swap(path: Path, new: Path, wait: float) -> None:
    """Puts an index in the place of another one, which then lies where the first was."""
    Index.replace(path, new, wait=wait)
    print(f"{path}: replaced by {new}, where the index before it lies now; the same command swaps them back")


def remove(path: Path, names: list[str], root: Path | None, wait: float, *, may_empty: bool) -> None:
    """Removes photos, and all photos of folders, from an index; ``compact`` frees their space.

    Raises:
        UsageError: folders hold all of its photos, and it may not become empty.
        HowlError: as ``Index.remove``.
    """
    with closing(Index(path, wait=wait)) as index:
        ids = index.selected(names, root)
        if len(ids) == len(index) > len(names) and not may_empty:
            raise UsageError(f"{path}: these are all of its {len(ids)} photos; --yes removes them")
        index.remove(ids)
    print(f"removed {len(ids)} photos from {path}")


def keep_keypoints(path: Path, root: Path | None, detector: Detector, kind: Kind) -> None:
    """Keeps the keypoints of an index's photos beside it, for re-ranking by them, and for localisation.

    Raises:
        ImageError: photos cannot be read; the keypoints of the others are kept.
        HowlError: as ``Index`` and ``KeypointStore``.
    """
    with closing(Index(path)) as index:
        photos = {id_: Path(root or "", id_) for id_ in index.ids()}
    if photos and not any(photo.is_file() for photo in photos.values()):
        raise MissingError(
            f"{next(iter(photos.values()))}: not there, nor any other photo of {path}; name the folder from which the "
            "ids are seen with --root"
        )
    with closing(KeypointStore(kind.path(path), detector.fingerprint, kind, make=True)) as kept:
        with tqdm(desc=kind.name, unit="photo", disable=None) as bar:
            report = keep(kept, photos, detector, bar.update)
        size = kept.path.stat().st_size / 1e6
        print(f"{kept.path}: {kind.name} of {len(kept)} photos, {len(report.added)} of them new, {size:.0f} MB")
    if report.unreadable:
        print(describe_unreadable(report.unreadable))
        raise ImageError(
            f"{len(report.unreadable)} of {len(photos)} photos have no {kind.name}; their lines are above. --root is "
            "the folder from which the ids are seen"
        )


def keep_features(path: Path, root: Path | None, encoder: Encoder) -> None:
    """Keeps what an engine gives of an index's photos for re-ranking: local features, ellipses in activation maps.

    Raises:
        IncompatibleError: the engine gives neither.
        HowlError: as ``keep_keypoints``.
    """
    for detector, kind in feature_detectors(encoder):
        keep_keypoints(path, root, detector, kind)


def feature_detectors(encoder: Encoder) -> list[tuple[Detector, Kind]]:
    """What can be kept of an engine's features. Raises IncompatibleError if there is nothing."""
    found: list[tuple[Detector, Kind]] = []
    if encoder.manifest.activations:
        found.append((EllipseDetector(encoder), OF_ACTIVATIONS))
    if encoder.manifest.features is not None:
        found.append((EngineDetector(encoder), OF_ENGINE))
    if not found:
        raise IncompatibleError(
            f"{encoder.path}: gives a global descriptor only, of which --keep-features has nothing to keep; leave it "
            "out, or export the network with --activations (gem, solar) or another system (delg)"
        )
    return found


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
        stats, strangers, layout = index.stats(), index.strangers(), index.layout
    print(f"{path}")
    print(f"  images          {stats.images}  ({stats.removed} removed, still on disk)")
    if stats.method == ASMK:
        per_image = stats.entries / max(1, stats.images + stats.removed)
        print(f"  entries         {stats.entries}  ({per_image:.0f} visual words an image)")
    else:
        print(f"  {stats.method:15} {stats.entries}")
    if stats.method == ASMK:
        print(f"  geometry        {'kept' if layout.geometry else 'not kept: no --rerank spatial'}")
        regions = f"{layout.regions} levels of R-MAC's grid" if layout.regions else "none"
        print(f"  regions         {regions}")
    for kind in KINDS:
        if (kept := kind.path(path)).exists():
            print(f"  {kind.name:15} kept in {kept}, {kept.stat().st_size} bytes")
    print(f"  segments        {stats.segments}")
    print(f"  bytes on disk   {stats.bytes}")
    if strangers is not None:
        score = strangers.best_of(stats.images)
        print(f"  strangers       score up to about {score:.4f}  (photos of other places; {strangers.images} measured)")


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
    for kind in KINDS:
        if (kept := kind.path(path)).exists():
            KeypointStore.verify(kept, kind)
    print(f"{path}: all well: {found.images} images, {found.entries} entries, {found.segments} segments")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=program("tools/index.py"),
        description="Adds photos to an index (the default), removes them, compacts, counts or verifies the index; "
        "several at once are done in this order, but swapping and removing come first.",
    )
    parser.add_argument(
        "engine",
        metavar="ENGINE",
        nargs="?",
        help="engine.onnx, engine.plan or engine.pt2; where photos are added, or for --index",
    )
    parser.add_argument("photos", metavar="PHOTOS", nargs="*", help="files, or folders that are searched through")
    parser.add_argument("--index", metavar="DIR", help="default: engine.index beside the engine")
    add_engine_options(parser, searches=False)
    parser.add_argument(
        "--import-asmk",
        metavar=("CODEBOOK", "IVF"),
        nargs=2,
        help="make an index of two pickles that the asmk package saved; default for --index: beside IVF",
    )
    parser.add_argument(
        "--root",
        metavar="DIR",
        help="ids are paths as seen from DIR, however they are typed (default: as typed)",
    )
    parser.add_argument(
        "--no-geometry",
        dest="geometry",
        action="store_false",
        help="a new index does not keep where features lie: 18 bytes an entry instead of 22, and no --rerank spatial",
    )
    parser.add_argument(
        "--regions",
        type=positive_int,
        metavar="LEVELS",
        help="a new index aggregates local descriptors region by region, in the squares of R-MAC's grid at so many "
        "levels (3 are usual)",
    )
    parser.add_argument(
        "--existing",
        choices=EXISTING,
        default="skip",
        help="what becomes of photos that are in the index already (%(default)s)",
    )
    parser.add_argument(
        "--sync", action="store_true", help="add what is new in PHOTOS, replace what changed, and say what vanished"
    )
    parser.add_argument(
        "--yes", action="store_true", help="with --sync: remove what vanished; with --remove: the whole index, too"
    )
    parser.add_argument("--remove", metavar="ID", nargs="+", help="photos to remove, or folders with all their photos")
    parser.add_argument(
        "--swap", metavar="NEW", help="put the index NEW in the place of --index, atomically; NEW is then the old one"
    )
    parser.add_argument("--compact", action="store_true", help="free the space of removed photos; speeds searches up")
    parser.add_argument(
        "--strangers",
        action="store_true",
        help="measure again what photos of different places score",
    )
    parser.add_argument(
        "--matcher",
        metavar="FILE",
        help="keep the keypoints of all photos of the index beside it, found by this matcher (howl matcher): --rerank "
        "lightglue then needs no photos but the query",
    )
    parser.add_argument(
        "--keep-features",
        action="store_true",
        help="keep the engine's local features of all photos of the index, or the ellipses in its activation maps, "
        "beside it: --rerank ransac and dsm then need no photos but the query",
    )
    parser.add_argument("--stats", action="store_true", help="say what the index holds")
    parser.add_argument("--verify", action="store_true", help="check every file of the index, and name each damage")
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
    add_ray_arguments(parser, searches=False)
    parser.add_argument("--shards", type=positive_int, metavar="N", help="of a new index, with --ray")
    options = parser.parse_intermixed_args(arguments)
    check_ray_arguments(parser, options, ("shards",))
    if options.engine is None and options.index is None and options.import_asmk is None:
        parser.error("name an engine, or an index with --index")
    if options.import_asmk and options.engine is not None:
        parser.error(f"{options.engine}: --import-asmk makes an index without an engine")
    if options.engine is not None and not is_engine(Path(options.engine)):
        parser.error(f"{options.engine}: an engine is an .onnx, a .plan or a .pt2 file")
    if options.yes and not options.sync and not options.remove:
        parser.error("--yes goes with --sync or --remove")
    if options.sync and not options.photos:
        parser.error("--sync: name the photos or folders that the index is to hold")
    if options.strangers and options.engine is None:
        parser.error("--strangers: name the engine")
    if options.keep_features and options.engine is None:
        parser.error("--keep-features: name the engine")
    flags = (
        *("import_asmk", "strangers", "swap", "remove", "matcher", "keep_features"),
        *("compact", "stats", "verify"),
    )
    if options.ray is not None:
        check_goes_with_ray(parser, options, (*flags, "sync"))
    if not options.photos and not any(vars(options)[flag] for flag in flags):
        named = ", ".join(f"--{flag.replace('_', '-')}" for flag in flags[:-1])
        parser.error(f"nothing to do: name photos, {named} or --{flags[-1]}")
    return options


def check_goes_with_ray(parser: argparse.ArgumentParser, options: argparse.Namespace, flags: Sequence[str]) -> None:
    """Only adding photos is done on a cluster."""
    for flag in flags:
        if vars(options)[flag]:
            parser.error(
                f"--{flag.replace('_', '-')}: not with --ray, which adds photos; the folders of an index's shards "
                "(DIR/shard-0) are indexes of their own"
            )
    if options.engine is None or not options.photos:
        parser.error("--ray: name the engine and the photos")
