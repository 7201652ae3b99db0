"""The pairs of photos worth matching, for COLMAP and hloc: ``python tools/pairs.py engine.onnx PHOTOS``.

A line for each pair, ``name name``: what hloc calls pairs, and COLMAP imported pairs. Names are paths as seen from
``--root``, which is the folder that the other program is given as its images. ``--format h5`` writes what hloc makes
pairs of itself: the global descriptors of an engine that has them.
"""

if __name__ == "__main__":
    import howl

    howl.run_script("tools.pairs")  # before the imports: howl.py says why

import argparse
import os
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tqdm import tqdm

from runtime.encoder import Encoder
from runtime.errors import DataError, IdError, ImageError, IncompatibleError, MissingError, UsageError
from runtime.features import Features
from runtime.first_stage import ASMK
from runtime.index import Hit, Hits, Index
from runtime.index.ids import check_ids, id_of_path
from runtime.index.origin import Origin, ids_by_place
from runtime.io.cli import (
    add_engine_arguments,
    add_rerank_arguments,
    check_rerank_arguments,
    positive_int,
    program,
)
from runtime.io.files import atomic_write, ensure_writable
from runtime.io.finding import find_photos
from runtime.rerank import FIRST_STAGE, HitOrder, Query, Rerankers
from tools.descriptors import save_descriptors

TOP = 20
TXT, H5 = "txt", "h5"
BATCH = 1000  # photos that go into the index together


@dataclass(frozen=True)
class Selection:
    """Which answers of a query become pairs.

    Attributes:
        top: of each query, at most.
        order: in which they are.
        root: the folder from which names and ids are seen; None for paths as they are given.
        min_inliers: that an answer needs; only a re-ranker counts them, and not each of them.
    """

    top: int = TOP
    order: HitOrder = FIRST_STAGE
    root: Path | None = None
    min_inliers: int = 0

    def __post_init__(self) -> None:
        if self.min_inliers and self.order.reranker is None:
            raise UsageError("--min-inliers: only a re-ranking counts inliers; add --rerank spatial")

    def select(self, photo: Path, encoded: Any, own: Collection[str], index: Index) -> list[Hit]:
        """The answers to a photo, of which the query is given too, best first, but for those that are itself."""
        depth = max(self.top, self.order.count)
        found = index.search(encoded, depth + len(own))
        hits = Hits(hit for hit in found if hit.id not in own).best(depth)
        hits = self.order.apply(Query(photo, encoded, {}), hits, index, self.root)
        if self.min_inliers and hits and all(hit.inliers is None for hit in hits):
            raise UsageError("--min-inliers: this re-ranking counts no inliers; take --rerank spatial")
        return [hit for hit in hits if not self.min_inliers or (hit.inliers or 0) >= self.min_inliers][: self.top]


@dataclass
class Pairs:
    """Pairs of names, and what was left out.

    Attributes:
        pairs: the query first; each unordered pair once.
        alone: photos that are in no pair.
        left_out: why a photo was left out, by its path.
    """

    pairs: list[tuple[str, str]] = field(default_factory=list)
    alone: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Writes a line for each pair, whole or not at all."""
        with atomic_write(path) as file:
            file.write("".join(f"{first} {second}\n" for first, second in self.pairs).encode())

    def print_left_out(self) -> None:
        """A line on standard error for every photo that was left out."""
        for reason in self.left_out.values():
            print(f"left out: {reason}", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    ensure_writable(options.out)
    if options.format == H5:
        return write_descriptors(options)
    engine, index = Path(options.engine), None if options.index is None else Path(options.index)
    encoder = Encoder(
        engine,
        device=options.device,
        threads=options.threads,
        threshold=options.threshold,
        alpha=options.alpha,
    )
    rerankers = Rerankers.beside(
        engine, options.matcher, index, encoder=encoder, device=options.device, threads=options.threads
    )
    order = HitOrder(rerankers.of(options.rerank), options.candidates)
    queries = find_photos(options.queries) if options.queries else None
    root = root_of(options, queries)
    selection = Selection(options.top, order, root, options.min_inliers)
    if index is None:
        found = pairs_of_photos(encoder, find_photos(options.photos), queries, selection)
    else:
        found = pairs_of_index(encoder, index, queries, selection)
    found.print_left_out()
    if not found.pairs:
        raise DataError(f"{options.out}: not written, as no photo has a partner")
    found.save(options.out)
    if found.alone:
        print(f"without a partner: {len(found.alone)}, {found.alone[0]} for example", file=sys.stderr)
    print(f"{options.out}: {len(found.pairs)} pairs; names are seen from {root or 'where howl runs'}")


def write_descriptors(options: argparse.Namespace) -> None:
    """Global descriptors of PHOTOS, by the names that pairs would have."""
    encoder = Encoder(Path(options.engine), device=options.device, threads=options.threads)
    if encoder.first_stage.layout.method == ASMK:
        raise IncompatibleError(f"{encoder.path}: gives local features only, and --format h5 is for global descriptors")
    root = root_of(options, None)
    result = Pairs()
    names = names_of(find_photos(options.photos), root, result)
    result.left_out |= save_descriptors(encoder, names, options.out)
    result.print_left_out()
    written = len(names) - sum(str(photo) in result.left_out for photo in names)
    print(f"{options.out}: {written} descriptors; names are seen from {root or 'where howl runs'}")


def pairs_of_photos(
    encoder: Encoder, photos: Sequence[Path], queries: Sequence[Path] | None, selection: Selection
) -> Pairs:
    """The pairs among photos, or of queries with photos, by an index that is made for this.

    Without queries those of all photos wait in memory, some 50 kB each; an index of its own (``pairs_of_index``) needs
    no such memory, and encodes the photos once more.

    Args:
        encoder: of the engine.
        photos: of the database.
        queries: photos; None for those of the database.
        selection: which answers become pairs.

    Raises:
        HowlError: a name cannot be written, or no photo can be read.
    """
    layout, fingerprint, root = encoder.first_stage.layout, encoder.manifest.fingerprint, selection.root
    selection.order.check(encoder.path, layout)
    result = Pairs()
    names = names_of(photos, root, result)
    places = ids_by_place({name: path for path, name in names.items()})
    asked_names = names_of(queries, root, result) if queries is not None else {}

    def encode(features: Features) -> tuple[Any, Any]:
        return encoder.encode_database(features), encoder.encode_query(features) if queries is None else None

    with TemporaryDirectory(prefix="howl-pairs-") as folder:
        made = Index.create(Path(folder, "index"), fingerprint=fingerprint, layout=layout)
        with closing(made) as index:
            asked: dict[str, Any] = {}
            waiting: dict[str, Any] = {}
            for path, sides in tqdm(
                encoder.encode_all(list(names), encode), total=len(names), desc="reading", unit="photo", disable=None
            ):
                if isinstance(sides, ImageError):
                    result.left_out[str(path)] = str(sides)
                    continue
                waiting[names[path]], asked[names[path]] = sides
                if len(waiting) == BATCH:
                    index.add(list(waiting), list(waiting.values()))
                    waiting.clear()
            if waiting:
                index.add(list(waiting), list(waiting.values()))
            if not len(index):
                raise ImageError(f"{next(iter(result.left_out.values()))}; no photo is left")
            if queries is None:
                return among(asked.items(), index, {name: name for name in asked}, selection, result)
            with_others(read(encoder, asked_names, result), asked_names, index, places, {}, selection, result)
            return result


def pairs_of_index(encoder: Encoder, path: Path, queries: Sequence[Path] | None, selection: Selection) -> Pairs:
    """The pairs among the photos of an index, or of queries with them: ``pairs_of_photos``."""
    layout, fingerprint, root = encoder.first_stage.layout, encoder.manifest.fingerprint, selection.root
    with closing(Index.of_engine(path, encoder.path, fingerprint, layout)) as index:
        selection.order.check(path, index.layout)
        result, ids = Pairs(), index.ids()
        files = {id_: Path(root or "", id_) for id_ in ids}
        names = {id_: name_of(file, root) for id_, file in files.items()}
        of_file = {file: id_ for id_, file in files.items() if file.is_file()}
        if files and not of_file and (queries is None or root is None):
            raise MissingError(
                f"{next(iter(files.values()))}: not there, nor any other photo of {path}; name the folder from which "
                "the ids are seen with --root"
            )
        if queries is not None:
            asked = names_of(queries, root, result)
            with_others(read(encoder, asked, result), asked, index, ids_by_place(files), names, selection, result)
            return result
        for file in files.values():
            if file not in of_file:
                result.left_out[str(file)] = f"{file}: not there any more; take it out of the index (howl index --sync)"
        queries_by_id = ((of_file[file], query) for file, query in read(encoder, of_file, result))
        return among(queries_by_id, index, names, selection, result)


def read(encoder: Encoder, photos: Collection[Path], result: Pairs) -> Iterator[tuple[Path, Any]]:
    """Every readable photo, and its query."""
    for path, query in tqdm(
        encoder.encode_all(list(photos), encoder.encode_query),
        total=len(photos),
        desc="asking",
        unit="photo",
        disable=None,
    ):
        if isinstance(query, ImageError):
            result.left_out[str(path)] = str(query)
        else:
            yield path, query


def among(
    queries: Iterable[tuple[str, Any]], index: Index, names: Mapping[str, str], selection: Selection, result: Pairs
) -> Pairs:
    """Fills ``result`` with the pairs of a database with itself, each unordered pair once.

    Args:
        queries: the ids of its photos, and their queries.
        index: the database.
        names: of its photos, by id.
        selection: which answers become pairs.
        result: filled, and returned.
    """
    known: set[frozenset[str]] = set()
    asked = []
    for id_, query in queries:
        asked.append(id_)
        for hit in selection.select(Path(selection.root or "", id_), query, {id_}, index):
            if frozenset((id_, hit.id)) not in known:
                known.add(frozenset((id_, hit.id)))
                result.pairs.append((names[id_], names[hit.id]))
    paired = {id_ for pair in known for id_ in pair}
    result.alone += [names[id_] for id_ in asked if id_ not in paired]
    return result


def with_others(
    queries: Iterable[tuple[Path, Any]],
    asked: Mapping[Path, str],
    index: Index,
    places: Mapping[int, str],
    names: Mapping[str, str],
    selection: Selection,
    result: Pairs,
) -> None:
    """Adds the pairs of photos with those of an index.

    Args:
        queries: photos and their queries.
        asked: the names of these photos.
        index: the database.
        places: the ids of its photos, by the places of their files: a query that is in it is no answer to itself.
        names: of its photos, by id; those that are missing are their own names.
        selection: which answers become pairs.
        result: filled.
    """
    known: set[frozenset[str]] = set()  # of two queries that are in the database, each finds the other
    for path, query in queries:
        origin = Origin.of(path)
        own = {places[origin.place]} if origin is not None and origin.place in places else set()
        name = asked[path]
        hits = selection.select(path, query, own, index)
        for other in (names.get(hit.id, hit.id) for hit in hits):
            if frozenset((name, other)) not in known:
                known.add(frozenset((name, other)))
                result.pairs.append((name, other))
        result.alone += [] if hits else [name]


def names_of(photos: Sequence[Path], root: Path | None, result: Pairs) -> dict[Path, str]:
    """The names of the photos; those whose file was named before are left out.

    Raises IdError as ``name_of``, or if two have one name.
    """
    names: dict[Path, str] = {}
    known: dict[int, Path] = {}
    for photo in photos:
        origin = Origin.of(photo)
        first = photo if origin is None else known.setdefault(origin.place, photo)
        if first != photo:
            result.left_out[str(photo)] = f"{photo}: the file of {first} under another name"
        else:
            names[photo] = name_of(photo, root)
    check_ids(Path(root or "."), list(names.values()))
    return names


def name_of(photo: Path, root: Path | None) -> str:
    """The name of a photo. Raises IdError if it lies outside the root, or a blank would split the name in two."""
    name = id_of_path(photo, root)
    if name.startswith("../"):
        raise IdError(f"{photo}: lies outside of the folder where howl runs; name the folder of all photos with --root")
    if name.split() != [name]:
        raise IdError(f"{photo}: the name has a blank, and a pair is two names with a blank between; rename it")
    return name


def root_of(options: argparse.Namespace, queries: Sequence[Path] | None) -> Path | None:
    """The folder from which names are seen: --root, or the only folder that was named, if all lies in it."""
    if options.root is not None:
        return Path(options.root)
    if len(options.photos) != 1 or not Path(options.photos[0]).is_dir():
        return None
    root = Path(options.photos[0])
    inside = all(Path(os.path.abspath(query)).is_relative_to(os.path.abspath(root)) for query in queries or ())
    return root if inside else None


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=program("tools/pairs.py"),
        description="Writes the pairs of photos that are worth matching, a line each, as hloc and COLMAP read them.",
    )
    add_engine_arguments(parser, searches=True)
    parser.add_argument("photos", metavar="PHOTOS", nargs="*", help="the database: files and folders")
    parser.add_argument("--index", metavar="DIR", help="the database, instead of PHOTOS")
    parser.add_argument("--queries", metavar="Q", nargs="+", help="photos and folders; default: those of the database")
    parser.add_argument("--top", type=positive_int, default=TOP, metavar="N", help="of each query (%(default)s)")
    add_rerank_arguments(parser)
    parser.add_argument(
        "--min-inliers", type=positive_int, default=0, metavar="N", help="that a pair needs, with --rerank"
    )
    parser.add_argument(
        "--root",
        metavar="DIR",
        help="from which names are seen, and where the ids of --index lead to; default: PHOTOS if it is one folder",
    )
    parser.add_argument(
        "--format",
        choices=(TXT, H5),
        default=TXT,
        help="h5: no pairs, but the global descriptors of PHOTOS, for hloc (%(default)s)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: pairs.txt, or descriptors.h5")
    options = parser.parse_intermixed_args(arguments)
    check_rerank_arguments(parser, options)
    if bool(options.photos) == (options.index is not None):
        parser.error("name the database: either PHOTOS or --index DIR")
    if options.format == H5 and (options.index is not None or options.queries or options.rerank or options.min_inliers):
        parser.error("--format h5: is for PHOTOS alone, without --index, --queries, --rerank and --min-inliers")
    options.out = options.out or Path("descriptors.h5" if options.format == H5 else "pairs.txt")
    return options
