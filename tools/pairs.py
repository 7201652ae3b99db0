"""The pairs of photos worth matching, for COLMAP and hloc: ``python tools/pairs.py engine.onnx PHOTOS``.

A line for each pair, ``name name``: what hloc calls pairs, and COLMAP imported pairs. Names are paths as seen from
``--root``, which is the folder that the other program is given as its images.
"""

if __name__ == "__main__":
    import howl

    howl.run_script("tools.pairs")  # before the imports: howl.py says why

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tqdm import tqdm

from runtime.encoder import Encoder
from runtime.errors import IdError, ImageError, MissingError, UsageError
from runtime.features import Features
from runtime.index import Hit, Index
from runtime.index.ids import check_ids, id_of_path
from runtime.io.cli import add_engine_arguments, add_rerank_arguments, positive_int, program
from runtime.io.files import atomic_write, ensure_writable
from runtime.io.finding import find_photos
from runtime.rerank import Query, Reranker, reranker_of

TOP, CANDIDATES = 20, 100
BATCH = 1000  # photos that go into the index together


@dataclass(frozen=True)
class Selection:
    """Which answers of a query become pairs.

    Attributes:
        top: of each query, at most.
        reranker: that puts them into a better order; None for the first stage's.
        candidates: how many it looks at.
        min_inliers: that an answer needs; only a re-ranker counts them.
    """

    top: int = TOP
    reranker: Reranker | None = None
    candidates: int = CANDIDATES
    min_inliers: int = 0

    def __post_init__(self) -> None:
        if self.min_inliers and self.reranker is None:
            raise UsageError("--min-inliers: only a re-ranking counts inliers; add --rerank spatial")

    def select(self, query: Any, name: str, index: Index) -> list[Hit]:
        """The answers to an encoded query that has this name, best first; it never is an answer to itself."""
        depth = self.top if self.reranker is None else max(self.top, self.candidates)
        hits = [hit for hit in index.search(query, depth + 1) if hit.id != name][:depth]
        if self.reranker is not None:
            hits = self.reranker.rerank(Query(name, Features(), query), hits, index)
        return [hit for hit in hits if not self.min_inliers or (hit.inliers or 0) >= self.min_inliers][: self.top]


@dataclass
class Pairs:
    """Pairs of names, and what was left out.

    Attributes:
        pairs: the query first; of queries that are the database themselves, each unordered pair once.
        alone: queries without a partner.
        unreadable: why a photo was left out, by its path.
    """

    pairs: list[tuple[str, str]] = field(default_factory=list)
    alone: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Writes a line for each pair, whole or not at all."""
        with atomic_write(path) as file:
            file.write("".join(f"{first} {second}\n" for first, second in self.pairs).encode())


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    ensure_writable(options.out)
    selection = Selection(options.top, reranker_of(options.rerank), options.candidates, options.min_inliers)
    encoder = Encoder(
        Path(options.engine),
        device=options.device,
        threads=options.threads,
        threshold=options.threshold,
        alpha=options.alpha,
    )
    queries = find_photos(options.queries) if options.queries else None
    root = Path(options.root) if options.root is not None else common_root(options.photos)
    if options.index is None:
        found = pairs_of_photos(encoder, find_photos(options.photos), queries, root, selection)
    else:
        found = pairs_of_index(encoder, Path(options.index), queries, root, selection)
    found.save(options.out)
    for reason in found.unreadable.values():
        print(f"left out: {reason}", file=sys.stderr)
    if found.alone:
        print(f"{len(found.alone)} photos have no partner, {found.alone[0]} for example", file=sys.stderr)
    print(f"{options.out}: {len(found.pairs)} pairs; names are seen from {root or 'where howl runs'}")


def pairs_of_photos(
    encoder: Encoder, photos: Sequence[Path], queries: Sequence[Path] | None, root: Path | None, selection: Selection
) -> Pairs:
    """The pairs among photos, or of queries with photos, by an index that is made for this.

    Args:
        encoder: of the engine.
        photos: of the database.
        queries: photos; None for those of the database.
        root: the folder from which names are seen; None for paths as they are given.
        selection: which answers become pairs.

    Raises:
        HowlError: a name cannot be written, or no photo can be read.
    """
    names = names_of(photos, root)
    result = Pairs()

    def encode(features: Features) -> tuple[Any, Any]:
        return encoder.encode_database(features), encoder.encode_query(features) if queries is None else None

    with TemporaryDirectory(prefix="howl-pairs-") as folder, ExitStack() as stack:
        layout, fingerprint = encoder.first_stage.layout, encoder.manifest.fingerprint
        index = stack.enter_context(
            closing(Index.create(Path(folder, "index"), fingerprint=fingerprint, layout=layout))
        )
        asked: dict[str, Any] = {}
        waiting: dict[str, Any] = {}
        with tqdm(total=len(photos), desc="reading", unit="photo", disable=None) as bar:
            for path, sides in encoder.encode_all(photos, encode):
                bar.update()
                if isinstance(sides, ImageError):
                    result.unreadable[str(path)] = str(sides)
                    continue
                name = names[path]
                waiting[name], asked[name] = sides
                if len(waiting) == BATCH:
                    index.add(list(waiting), list(waiting.values()))
                    waiting.clear()
        if waiting:
            index.add(list(waiting), list(waiting.values()))
        if not len(index):
            raise ImageError(f"{next(iter(result.unreadable.values()))}; no photo is left")
        if queries is None:
            return collect(iter(asked.items()), index, selection, result, is_database=True)
        return collect(read(encoder, queries, root, result), index, selection, result)


def pairs_of_index(
    encoder: Encoder, path: Path, queries: Sequence[Path] | None, root: Path | None, selection: Selection
) -> Pairs:
    """The pairs among the photos of an index, or of queries with them: ``pairs_of_photos``."""
    layout, fingerprint = encoder.first_stage.layout, encoder.manifest.fingerprint
    with closing(Index.of_engine(path, encoder.path, fingerprint, layout)) as index:
        result = Pairs()
        if queries is not None:
            return collect(read(encoder, queries, root, result), index, selection, result)
        photos = [Path(root or "", id_) for id_ in index.ids()]
        missing = [photo for photo in photos if not photo.is_file()]
        if missing:
            raise MissingError(
                f"{missing[0]}: not there, and {len(missing) - 1} more of {path}: its photos are the queries; name the "
                "folder from which the ids are seen with --root"
            )
        return collect(read(encoder, photos, root, result), index, selection, result, is_database=True)


def read(encoder: Encoder, photos: Sequence[Path], root: Path | None, result: Pairs) -> Iterator[tuple[str, Any]]:
    """Every readable photo's name and query."""
    names = names_of(photos, root)
    for path, query in tqdm(
        encoder.encode_all(photos, encoder.encode_query), total=len(photos), desc="asking", unit="photo", disable=None
    ):
        if isinstance(query, ImageError):
            result.unreadable[str(path)] = str(query)
        else:
            yield names[path], query


def collect(
    queries: Iterator[tuple[str, Any]], index: Index, selection: Selection, result: Pairs, *, is_database: bool = False
) -> Pairs:
    """Fills ``result`` with the pairs of queries; of a database with itself, each unordered pair once."""
    known: set[frozenset[str]] = set()
    for name, query in queries:
        hits = selection.select(query, name, index)
        if not hits:
            result.alone.append(name)
        for hit in hits:
            both = frozenset((name, hit.id))
            if is_database and both in known:
                continue
            known.add(both)
            result.pairs.append((name, hit.id))
    return result


def names_of(photos: Sequence[Path], root: Path | None) -> Mapping[Path, str]:
    """The name of every photo. Raises IdError if one lies outside the root, or a blank would split it in two."""
    names = {photo: id_of_path(photo, root) for photo in photos}
    for photo, name in names.items():
        if name.split() != [name]:
            raise IdError(f"{photo}: the name has a blank, and a pair is two names with a blank between; rename it")
    check_ids(Path(root or "."), list(names.values()))
    return names


def common_root(photos: Sequence[str]) -> Path | None:
    """The folder from which names are seen if nothing else is said: the only one that was named."""
    return Path(photos[0]) if len(photos) == 1 and Path(photos[0]).is_dir() else None


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
    parser.add_argument("--root", metavar="DIR", help="from which names are seen; default: PHOTOS if it is one folder")
    parser.add_argument("--out", type=Path, default=Path("pairs.txt"), metavar="FILE", help="default: %(default)s")
    options = parser.parse_args(arguments)
    if bool(options.photos) == (options.index is not None):
        parser.error("name the database: PHOTOS, or --index DIR")
    return options
