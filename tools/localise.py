"""Poses of photos in a reconstruction: ``python tools/localise.py --model SFM --images ROOT --engine E query.jpg``.

Finds the photos of the index that show the same place, matches the query with them, lifts the matches to the points of
COLMAP's model, and estimates the pose. Nothing is built before: photos that are added to the index and to the model are
found by the next query. Writes hloc's format: ``name qw qx qy qz tx ty tz``, from the world to the camera.
"""

if __name__ == "__main__":
    import howl

    howl.run_script("tools.localise")  # before the imports: howl.py says why

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

from runtime.bundle import EngineFiles
from runtime.errors import DataError, IdError, ImageError, MissingError
from runtime.index.origin import Origin, ids_by_place
from runtime.io.cli import (
    add_engine_options,
    add_rerank_arguments,
    check_rerank_arguments,
    positive_int,
    program,
)
from runtime.io.files import atomic_write, ensure_writable
from runtime.io.finding import find_photos
from runtime.lazy import lazy_property
from runtime.matching import KeypointStore, Matcher
from runtime.matching.matcher import DEFAULT
from runtime.retriever import Retriever
from tools.localisation.cameras import Intrinsics, parse_camera, read_cameras
from tools.localisation.model import Model, check_images, names_in_model
from tools.localisation.pose import Placement, Stored, locate

TOP = 10


@dataclass(frozen=True)
class Localiser:
    """Finds where photos were taken.

    Attributes:
        retriever: searches the index.
        matcher: of keypoints.
        kept: keypoints that are kept beside the index; None to find all again in the photos.
        model: of COLMAP.
        images: the folder from which the model's names are seen.
        names: of the index's photos in the model, by their ids.
        intrinsics: of the queries' cameras.
        top: photos of the index that a query is matched with, at most.
        rerank, candidates: of the search: ``Retriever.search``.
    """

    retriever: Retriever
    matcher: Matcher
    kept: KeypointStore | None
    model: Model
    images: Path
    names: Mapping[str, str]
    intrinsics: Intrinsics
    top: int = TOP
    rerank: str | None = None
    candidates: int | None = None

    def place(self, query: Path) -> Placement:
        """Where a query was taken, or why that is not known. An unreadable query is no error.

        Raises:
            HowlError: the search fails, or no photo that it finds can be read.
        """
        origin = Origin.of(query)
        own = None if origin is None else self._places.get(origin.place)  # a query may be in the model itself
        try:
            asked = Stored.of(self.matcher.detect(query))
            hits = self.retriever.search(
                query,
                self.top,
                only=list(self.names),
                exclude=[] if own is None else [own],
                rerank=self.rerank,
                candidates=self.candidates,
            )
            camera = self.intrinsics.of(query, asked.size, None if own is None else self.names[own])
        except (ImageError, DataError) as error:
            return Placement(str(query), reason=str(error))
        if not hits:
            return Placement(str(query), reason="no photo of the index resembles it")
        photos, unreadable = [], []
        for hit in hits:
            try:
                photos.append((self.names[hit.id], self._photo(hit.id)))
            except ImageError as error:
                unreadable.append(str(error))
        if unreadable and not photos:
            raise MissingError(f"{unreadable[0]}; nor can any other photo that resembles {query} be read")
        if unreadable:
            print(f"{unreadable[0]}; {len(unreadable)} of {len(hits)} photos could not be matched", file=sys.stderr)
        return locate(str(query), asked, camera, photos, self.model, self.matcher)

    @lazy_property
    def _places(self) -> dict[int, str]:
        return ids_by_place({id_: self.images / name for id_, name in self.names.items()})

    def _photo(self, id_: str) -> Stored:
        """The keypoints of a photo of the index, kept or found again."""
        file = self.images / self.names[id_]
        kept = None if self.kept is None else self.kept.find(id_, Origin.of(file))
        return Stored.of(self.matcher.detect(file) if kept is None else kept)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    ensure_writable(options.out)
    model, queries = Model(options.model), find_photos(options.queries)
    names_of_queries = result_names(queries)
    intrinsics = Intrinsics(
        None if options.camera is None else parse_camera(options.camera),
        {} if options.cameras is None else read_cameras(options.cameras),
        options.images,
        model,
    )
    if unused := set(intrinsics.listed) - {intrinsics.name_in_list(query) for query in queries}:
        print(f"{options.cameras}: {len(unused)} lines are of no query, such as {min(unused)}", file=sys.stderr)
    engine = Path(options.engine)
    index_path = EngineFiles.of(engine).index if options.index is None else Path(options.index)
    matcher_path = ensure_matcher(engine) if options.matcher is None else Path(options.matcher)
    matcher = Matcher(matcher_path, device=options.device, threads=options.threads)
    store = KeypointStore.beside(index_path, matcher.fingerprint)
    if store is None:
        check_images(model, options.images)
    with Retriever(
        engine,
        index_path,
        root=options.root or options.images,
        matcher=matcher_path,
        device=options.device,
        threads=options.threads,
        threshold=options.threshold,
        alpha=options.alpha,
    ) as retriever:
        if retriever.index is None:
            raise MissingError(f"{index_path}: no index here; add the model's photos first (howl index)")
        names = names_in_model(model, retriever.ids(), options.root, options.images)
        localiser = Localiser(
            retriever,
            matcher,
            store,
            model,
            options.images,
            names,
            intrinsics,
            options.top,
            options.rerank,
            options.candidates,
        )
        found = []
        for query in tqdm(queries, desc="placing", unit="photo", disable=None):
            found.append(localiser.place(query))
            say(found[-1], as_json=options.json)
        if store is not None:
            store.close()
    placed = {names_of_queries[query]: each for query, each in zip(queries, found, strict=True) if not each.reason}
    save_poses(placed, options.out)
    print(f"{options.out}: {len(placed)} of {len(found)} queries placed", file=sys.stderr)
    if not placed:
        raise DataError("no query could be placed; the reasons are above")


def ensure_matcher(engine: Path) -> Path:
    """matcher.onnx beside an engine, made if it is not there. Raises HowlError as ``export_matcher``."""
    path = engine.with_name(DEFAULT)
    if not path.exists():
        from export.matcher import NETWORKS, export_matcher  # late: it imports PyTorch

        print(f"{path}: not there, so it is made, once", file=sys.stderr)
        export_matcher(next(iter(NETWORKS)), path, say=lambda line: print(line, file=sys.stderr))
    return path


def say(found: Placement, *, as_json: bool) -> None:
    """Prints where a query was taken, in a line for people or of JSON."""
    if as_json:
        print(json.dumps(asdict(found)), flush=True)
    elif found.centre is None or found.camera is None:
        print(f"{found.query}: not placed: {found.reason}", flush=True)
    else:
        centre = " ".join(f"{value:.4g}" for value in found.centre)
        parameters = " ".join(f"{value:g}" for value in found.camera["params"])
        print(
            f"{found.query}: at {centre}; {found.inliers} inliers of {found.matches} matches with "
            f"{len(found.photos)} photos, {found.error:.1f} pixels off, camera {found.camera['model']} {parameters} "
            f"({found.camera['source']})",
            flush=True,
        )


def result_names(queries: Sequence[Path]) -> dict[Path, str]:
    """The names of queries in hloc's results: of their files, or their paths below a common folder if two share one.

    Raises:
        IdError: a name has a blank, which would split it in two, or two paths lead to one file.
    """
    names = {query: query.name for query in queries}
    if len(set(names.values())) < len(queries):
        whole = [os.path.abspath(query) for query in queries]
        folder = os.path.commonpath([os.path.dirname(path) for path in whole])
        names = {query: os.path.relpath(path, folder) for query, path in zip(queries, whole, strict=True)}
    known: dict[str, Path] = {}
    for query, name in names.items():
        if name.split() != [name]:
            raise IdError(f"{query}: the name has a blank, and a pose is a line of words; rename it")
        if (first := known.setdefault(name, query)) != query:
            raise IdError(f"{query}: the file of {first} under another name; name it once")
    return names


def save_poses(placed: Mapping[str, Placement], out: Path) -> None:
    """Writes poses by name, as hloc does, whole or not at all."""
    lines = []
    for name, each in placed.items():
        values = [*(each.quaternion or ()), *(each.translation or ())]
        lines.append(" ".join([name, *map(repr, values)]))
    with atomic_write(out) as file:
        file.write("".join(f"{line}\n" for line in lines).encode())


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=program("tools/localise.py"),
        description="Places photos in a reconstruction of COLMAP's: a pose for each, or the reason why there is none.",
    )
    parser.add_argument("queries", metavar="QUERY", nargs="+", help="photos, or folders of photos")
    parser.add_argument(
        "--model", type=Path, required=True, metavar="DIR", help="with cameras, images and points3D, .bin or .txt"
    )
    parser.add_argument(
        "--images", type=Path, required=True, metavar="DIR", help="from which the model's names are seen"
    )
    parser.add_argument("--engine", required=True, metavar="ENGINE", help="engine.onnx, engine.plan or engine.pt2")
    parser.add_argument("--index", metavar="DIR", help="of the model's photos; default: engine.index beside the engine")
    parser.add_argument("--root", type=Path, metavar="DIR", help="from which the ids of the index are seen (--images)")
    add_engine_options(parser, searches=True)
    parser.add_argument(
        "--top", type=positive_int, default=TOP, metavar="N", help="photos that a query is matched with (%(default)s)"
    )
    add_rerank_arguments(parser)
    parser.add_argument(
        "--camera",
        metavar="TEXT",
        help="of all queries, as COLMAP writes it: 'PINHOLE 1024 768 880 880 512 384'; default: from EXIF, the model, "
        "or an estimated focal length",
    )
    parser.add_argument(
        "--cameras", type=Path, metavar="FILE", help="a line 'name MODEL width height parameters' a query, as hloc has"
    )
    parser.add_argument("--out", type=Path, default=Path("poses.txt"), metavar="FILE", help="(%(default)s)")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each query, instead of text")
    options = parser.parse_intermixed_args(arguments)
    check_rerank_arguments(parser, options, matches=True)
    return options
