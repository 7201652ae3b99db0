"""From labelled photos to their figures: encode the photos, search them for every query, evaluate the rankings."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.encoder import Encoder
from runtime.errors import DataError, ImageError
from runtime.features import Features
from runtime.first_stage import FirstStage, Store
from runtime.index import Index
from runtime.index.origin import Origin
from runtime.index.reading import divided
from runtime.io.image import PhotoInput
from runtime.lazy import lazy_property
from runtime.rerank import FIRST_STAGE, Candidates, HitOrder, Located, Query
from train.data.labelled import ALL, LabelledPhotos, Truth
from train.metrics import average_precision, positive_ranks, precision_at

Result = TypeVar("Result")

BUILD_BATCH = 16_384  # photos whose codes lie in memory twice, while they go into a store
PRECISION_DEPTHS = (1, 5, 10)


class Searchable(Protocol):
    """Photos that are searched: an index, or labelled photos."""

    def __len__(self) -> int: ...

    def scores(self, query: Any) -> NDArray[np.float64]: ...

    def located_at(self, numbers: NDArray[np.int64]) -> Sequence[tuple[Any, NDArray[np.int64], NDArray[np.int64]]]:
        """Where photos lie: each store that has some, their rows in it, and their places among ``numbers``."""
        ...

    def photos_at(self, numbers: NDArray[np.int64]) -> Sequence[tuple[str, Path]]:
        """The ids and the files of photos."""
        ...


@dataclass(frozen=True)
class Encoded:
    """Labelled photos as the engine's first stage sees them.

    Attributes:
        pieces: the readable photos that are searched, in order.
        readable: bool [n], which of the searched photos can be read.
        paths: of the searched photos.
        queries: those that can be read, by number.
    """

    pieces: Sequence[Store]
    readable: NDArray[np.bool_]
    paths: Sequence[Path]
    queries: Mapping[int, Any]

    def __len__(self) -> int:
        return len(self.readable)

    def located_at(self, numbers: NDArray[np.int64]) -> Sequence[tuple[Any, NDArray[np.int64], NDArray[np.int64]]]:
        """``Searchable.located_at``; photos that cannot be read are nowhere."""
        stored = np.where(self.readable[numbers], np.cumsum(self.readable)[numbers] - 1, -1)
        lengths = [len(piece) for piece in self.pieces]
        return [(self.pieces[part], rows, places) for part, rows, places in divided(stored, lengths)]

    def photos_at(self, numbers: NDArray[np.int64]) -> Sequence[tuple[str, Path]]:
        """``Searchable.photos_at``; their ids are their paths."""
        return [(str(self.paths[number]), self.paths[number]) for number in numbers.tolist()]

    def scores(self, query: Any) -> NDArray[np.float64]:
        """The score of every searched photo, float64 [n]; 0 for one that cannot be read, which is junk."""
        scores = np.zeros(len(self.readable))
        scores[self.readable] = np.concatenate([piece.scores(query) for piece in self.pieces] or [np.empty(0)])
        return scores


@dataclass(frozen=True)
class Indexed:
    """Labelled photos in an index, whose other photos are wrong answers to all queries.

    Attributes:
        index: of the engine that encoded the queries.
        positions: int64 [n], where the searched photos are in the index; −1 for one that is not there.
        paths: of the searched photos.
        queries: those that can be read, by number.
    """

    index: Index
    positions: NDArray[np.int64]
    paths: Sequence[Path]
    queries: Mapping[int, Any]

    def scores(self, query: Any) -> NDArray[np.float64]:
        """The scores of the searched photos, 0 for those that are not in the index, and then of all others."""
        scores = self.index.scores(query)
        is_held = self.positions >= 0
        labelled = np.where(is_held, scores[self.positions], 0)
        return np.concatenate([labelled, np.delete(scores, self.positions[is_held])])

    def __len__(self) -> int:
        return len(self.positions) + self.others

    def located_at(self, numbers: NDArray[np.int64]) -> Sequence[tuple[Any, NDArray[np.int64], NDArray[np.int64]]]:
        """``Searchable.located_at``; photos that are not in the index are nowhere."""
        return self.index.located_at(self._in_index[numbers])

    def photos_at(self, numbers: NDArray[np.int64]) -> Sequence[tuple[str, Path]]:
        """``Searchable.photos_at``; the files of the others are where their ids say."""
        ids = [self._ids[position] if position >= 0 else "" for position in self._in_index[numbers].tolist()]
        return [
            (id_, self.paths[number] if number < len(self.positions) else Path(id_))
            for id_, number in zip(ids, numbers.tolist(), strict=True)
        ]

    @lazy_property
    def _ids(self) -> list[str]:
        return self.index.ids()

    @lazy_property
    def _in_index(self) -> NDArray[np.int64]:
        """Where all of them are in the index, the labelled photos first."""
        others = np.delete(np.arange(len(self.index)), self.positions[self.positions >= 0])
        return np.concatenate([self.positions, others])

    @property
    def others(self) -> int:
        """How many photos of the index have no label."""
        return len(self.index) - int((self.positions >= 0).sum())


@dataclass(frozen=True)
class QueryResult:
    """How one query fared.

    Attributes:
        query: path of the photo.
        average_precision: in [0, 1].
        precisions: mP@k for the k of PRECISION_DEPTHS.
    """

    query: str
    average_precision: float
    precisions: tuple[float, ...]


@dataclass(frozen=True)
class Summary:
    """What one set of labelled photos gave.

    Attributes:
        labelled: the set.
        photos: readable ones that are searched, distractors among them.
        queries: how many have a positive in some setting.
        results: of every query that has a positive, by setting.
    """

    labelled: LabelledPhotos
    photos: int
    queries: int
    results: Mapping[str, Sequence[QueryResult]]

    @property
    def against(self) -> int:
        """Photos that may be an answer to a query."""
        queries_are_searched = self.labelled.database_size == len(self.labelled)
        return self.photos - 1 if queries_are_searched else self.photos


def evaluate_set(
    encoder: Encoder,
    labelled: LabelledPhotos,
    distractors: Sequence[Searchable] = (),
    *,
    index: Index | None = None,
    order: HitOrder = FIRST_STAGE,
    build_batch: int = BUILD_BATCH,
) -> Summary:
    """Searches the photos and the distractors for every query; photos that cannot be read are left out of the set.

    Args:
        encoder: of the engine that is measured.
        labelled: photos in files, read at the engine's image size.
        distractors: photos that are wrong answers to all queries.
        index: holds the photos, so that only queries are encoded, and distractors of its own; None to encode all.
        order: of the answers; a re-ranker does not get the query's own photo, which is no answer.
        build_batch: photos of one store at most.

    Raises:
        HowlError: a photo of a published set cannot be read, or no query has a right answer.
    """
    encoded = encode(encoder, labelled, build_batch) if index is None else find_in_index(encoder, labelled, index)
    searched: Sequence[Searchable] = (encoded, *distractors)
    results: dict[str, list[QueryResult]] = {setting: [] for setting in labelled.settings}
    queries = labelled.queries().tolist()
    for query in tqdm(queries, desc="searching", unit="query", disable=None):
        asked = encoded.queries[query]
        scores = np.concatenate([part.scores(asked) for part in searched])
        photo = labelled.paths[query] if order.reranker is None else as_photo(labelled, query)  # which may decode it
        whole = Query(photo, asked, encoder.first_stage.settings)
        own = query if query < labelled.database_size else None
        ranking = ranked(order, whole, scores, searched, own=own)
        for setting, truth in labelled.truths(query).items():
            results[setting].append(evaluate_query(str(labelled.paths[query]), ranking, truth))
    for setting, of_setting in results.items():
        if not of_setting:
            which = "" if setting == ALL else f"{setting} "
            raise DataError(f"{labelled.source}: nothing to search for: no photo has a readable {which}match")
    beside = sum(map(len, distractors)) if isinstance(encoded, Encoded) else encoded.others
    photos = int(labelled.usable[: labelled.database_size].sum()) + beside
    return Summary(labelled, photos, len(queries), results)


def as_photo(labelled: LabelledPhotos, query: int) -> PhotoInput:
    """A query as a retriever takes it: its file, or what was cut out of it for a query that is not searched itself."""
    if query < labelled.database_size:
        return labelled.paths[query]
    return np.ascontiguousarray(labelled.load(query)[:, :, ::-1])


def ranked(
    order: HitOrder,
    query: Query,
    scores: NDArray[np.float64],
    searched: Sequence[Searchable],
    *,
    own: int | None = None,
) -> NDArray[np.int64]:
    """The numbers of all searched photos, best first, int64 [n]; re-ranked, the query's own comes last.

    Args:
        order: of the best of them.
        query: what is searched for.
        scores: float64 [n], the first stage's, of all parts.
        searched: the parts.
        own: the number of the query's own photo; None if that is not searched.
    """
    ranking = np.argsort(-scores, kind="stable")
    if order.reranker is None:
        return ranking
    answers = ranking if own is None else ranking[ranking != own]
    best = answers[: order.count]
    located: list[Located] = []
    photos: dict[int, tuple[str, Path]] = {}
    for part, numbers, places in divided(best, [len(part) for part in searched]):
        located += [Located(store, rows, places[own]) for store, rows, own in searched[part].located_at(numbers)]
        photos |= zip(places.tolist(), searched[part].photos_at(numbers), strict=True)
    ids = [photos[place][0] for place in range(len(best))]
    files = [photos[place][1] for place in range(len(best))]
    candidates = Candidates(scores[best], located, ids, files)
    found = order.reranker.rerank(query, candidates)
    found.check(len(best))
    rest = answers[order.count :] if own is None else np.append(answers[order.count :], own)
    return np.concatenate([best[found.order()], rest])


def evaluate_query(query: str, ranking: NDArray[np.int64], truth: Truth) -> QueryResult:
    """The figures of a query that has a positive, from the numbers of all searched photos, best first."""
    ranks = positive_ranks(ranking, truth.positives, truth.junk)
    precisions = tuple(precision_at(ranks, k) for k in PRECISION_DEPTHS)
    return QueryResult(query, average_precision(ranks, len(truth.positives)), precisions)


def means(results: Sequence[QueryResult]) -> dict[str, float]:
    """mAP and mP@k of at least one query."""
    precisions = np.mean([result.precisions for result in results], axis=0)
    return {
        "mAP": float(np.mean([result.average_precision for result in results])),
        **{f"mP@{k}": float(value) for k, value in zip(PRECISION_DEPTHS, precisions, strict=True)},
    }


def encode(encoder: Encoder, labelled: LabelledPhotos, build_batch: int) -> Encoded:
    """Encodes all photos and queries; a query that is searched too is read once, for both."""
    asked = labelled.queries().tolist()
    alone = [query for query in asked if query >= labelled.database_size]
    searched = set(asked) - set(alone)
    queries: dict[int, Any] = {}
    for query, encoded in encode_all(encoder, labelled, alone, encoder.encode_query, "queries"):
        if encoded is not None:
            queries[query] = encoded

    def both_sides(features: Features) -> tuple[Any, Any]:
        return encoder.encode_database(features), encoder.encode_query(features) if searched else None

    def database() -> Iterator[Any]:
        photos = range(labelled.database_size)
        for photo, sides in encode_all(encoder, labelled, photos, both_sides, labelled.source):
            if sides is None:
                continue
            of_photo, of_query = sides
            if of_query is not None and photo in searched:
                queries[photo] = of_query
            yield of_photo

    pieces = in_pieces(encoder.first_stage, database(), build_batch)
    size = labelled.database_size
    return Encoded(pieces, labelled.usable[:size].copy(), labelled.paths[:size], queries)


def find_in_index(encoder: Encoder, labelled: LabelledPhotos, index: Index) -> Indexed:
    """Finds the photos in an index, by their files or else by their paths, and encodes the queries."""
    origins = [Origin.of(path) for path in labelled.paths[: labelled.database_size]]
    by_place = index.ids_at([origin.place for origin in origins if origin is not None])
    position_of = {id_: position for position, id_ in enumerate(index.ids())}
    positions = np.full(labelled.database_size, -1, np.int64)
    for photo, origin in enumerate(origins):
        path = str(labelled.paths[photo])
        id_ = by_place.get(origin.place, path) if origin is not None else path
        if id_ in position_of:
            positions[photo] = position_of[id_]
        else:
            labelled.drop(photo, f"{path}: not in {index.path}")
    asked = labelled.queries().tolist()
    encoded = encode_all(encoder, labelled, asked, encoder.encode_query, labelled.source)
    queries = {query: sides for query, sides in encoded if sides is not None}
    return Indexed(index, positions, labelled.paths[: labelled.database_size], queries)


def encode_all(
    encoder: Encoder,
    labelled: LabelledPhotos,
    photos: Sequence[int],
    encode: Callable[[Features], Result],
    label: str,
) -> Iterator[tuple[int, Result | None]]:
    """Every photo, in order, with what ``encode`` makes of it; None for one that cannot be read and is left out."""
    encoded = encoder.encode_loaded(photos, labelled.load, lambda photo, features: encode(features))
    for photo, result in tqdm(encoded, total=len(photos), desc=label, unit="photo", disable=None):
        if not isinstance(result, ImageError):
            yield photo, result
        elif labelled.hint is None:
            labelled.drop(photo, str(result))
            yield photo, None
        else:
            raise ImageError(f"{result}; {labelled.hint}")


def in_pieces(first_stage: FirstStage, images: Iterator[Any], build_batch: int) -> list[Store]:
    """Stores of the images, in order; no more than ``build_batch`` of them wait for theirs at a time."""
    pieces = []
    while piece := list(islice(images, build_batch)):
        pieces.append(first_stage.build(piece))
    return pieces
