"""From a labelled set to its figures: encode the photos, search them for every query, judge the rankings."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.encoder import Encoder
from runtime.errors import HowlError, ImageError
from runtime.features import Features
from runtime.first_stage import FirstStage, Store
from runtime.io.image import Image
from tools.evaluation.datasets import ALL, LabelledSet, Query
from tools.evaluation.metrics import QueryResult, Truth, judge
from tools.evaluation.photos import read_photo

Result = TypeVar("Result")

BUILD_BATCH = 16_384  # photos whose codes lie in memory twice, while they go into a store


class Searchable(Protocol):
    """A store or an index."""

    def __len__(self) -> int: ...

    def scores(self, query: Any) -> NDArray[np.float64]: ...


@dataclass(frozen=True)
class Encoded:
    """A labelled set as the engine's first stage sees it.

    Attributes:
        pieces: the readable photos that are searched, in order.
        readable: bool [n], which photos of the set can be read.
        queries: those that can be read, by number.
    """

    pieces: Sequence[Store]
    readable: NDArray[np.bool_]
    queries: Mapping[int, Any]

    def scores(self, query: Any) -> NDArray[np.float64]:
        """The score of every photo of the set, float64 [n]; 0 for one that cannot be read."""
        scores = np.zeros(len(self.readable))
        scores[self.readable] = np.concatenate([piece.scores(query) for piece in self.pieces] or [np.empty(0)])
        return scores


@dataclass(frozen=True)
class Summary:
    """What a set gave.

    Attributes:
        labelled: the set.
        photos: readable ones that are searched, distractors among them.
        queries: how many have a positive in some setting.
        results: of every query that has a positive, by setting.
    """

    labelled: LabelledSet
    photos: int
    queries: int
    results: Mapping[str, Sequence[QueryResult]]

    @property
    def against(self) -> int:
        """Photos that may be an answer to a query."""
        return self.photos - 1 if self.labelled.queries[0].number is not None else self.photos


def evaluate(
    encoder: Encoder, labelled: LabelledSet, distractors: Sequence[Searchable], skipped: dict[str, str]
) -> Summary:
    """Searches the photos and the distractors for every query.

    Args:
        distractors: photos that are wrong answers to all queries.
        skipped: takes the reason, by path, of photos that cannot be read and are left out.

    Raises:
        HowlError: a photo of a published set cannot be read, or no query has a right answer.
    """
    encoded = encode(encoder, labelled, skipped)
    searched: Sequence[Encoded | Searchable] = (encoded, *distractors)
    results: dict[str, list[QueryResult]] = {setting: [] for setting in labelled.settings}
    queries = 0
    for number, query in enumerate(tqdm(labelled.queries, desc="searching", unit="query", disable=None)):
        truths = with_positives(labelled.truths(number), encoded.readable)
        if not truths or number not in encoded.queries:
            continue
        queries += 1
        scores = np.concatenate([part.scores(encoded.queries[number]) for part in searched])
        ranking = np.argsort(-scores, kind="stable")
        for setting, truth in truths.items():
            results[setting].append(judge(str(query.path), ranking, truth))
    for setting, of_setting in results.items():
        if not of_setting:
            which = "" if setting == ALL else f"{setting} "
            raise HowlError(f"{labelled.data}: nothing to search for: no photo has a readable {which}match")
    photos = int(encoded.readable.sum()) + sum(map(len, distractors))
    return Summary(labelled, photos, queries, results)


def with_positives(truths: Mapping[str, Truth], readable: NDArray[np.bool_]) -> dict[str, Truth]:
    """The truths that have a readable positive; unreadable photos are no positives, and junk."""
    unreadable = np.flatnonzero(~readable)
    return {
        setting: Truth(positives, np.concatenate([truth.junk, unreadable]))
        for setting, truth in truths.items()
        if len(positives := truth.positives[readable[truth.positives]])
    }


def encode(encoder: Encoder, labelled: LabelledSet, skipped: dict[str, str]) -> Encoded:
    """Encodes all photos and queries; a query that is searched too is read once, for both."""
    queries = encode_queries(encoder, labelled, skipped)
    searched = {query.number: number for number, query in enumerate(labelled.queries) if query.number is not None}
    readable = np.ones(len(labelled.photos), bool)

    def both_sides(features: Features) -> tuple[Any, Any]:
        return encoder.encode_database(features), encoder.encode_query(features) if searched else None

    def database() -> Iterator[Any]:
        photos = [Query(path) for path in labelled.photos]
        for number, sides in enumerate(encode_all(encoder, labelled, photos, both_sides, labelled.data, skipped)):
            if sides is None:
                readable[number] = False
                continue
            of_photo, of_query = sides
            if of_query is not None and number in searched:
                queries[searched[number]] = of_query
            yield of_photo

    return Encoded(in_pieces(encoder.first_stage, database()), readable, queries)


def encode_queries(encoder: Encoder, labelled: LabelledSet, skipped: dict[str, str]) -> dict[int, Any]:
    """The readable queries that are not among the searched photos, by number."""
    alone = {number: query for number, query in enumerate(labelled.queries) if query.number is None}
    if not alone:
        return {}
    encoded = encode_all(encoder, labelled, list(alone.values()), encoder.encode_query, "queries", skipped)
    return {number: query for number, query in zip(alone, encoded, strict=True) if query is not None}


def encode_all(
    encoder: Encoder,
    labelled: LabelledSet,
    photos: Sequence[Query],
    encode: Callable[[Features], Result],
    label: str,
    skipped: dict[str, str],
) -> Iterator[Result | None]:
    """What ``encode`` makes of every photo, in order; None for one that cannot be read and may be left out."""

    def load(photo: Query) -> Image:
        return read_photo(photo.path, encoder.manifest.image_size, upright=labelled.upright, box=photo.box)

    encoded = encoder.encode_loaded(photos, load, encode)
    for photo, result in tqdm(encoded, total=len(photos), desc=label, unit="photo", disable=None):
        if not isinstance(result, ImageError):
            yield result
        elif labelled.hint is None:
            skipped[str(photo.path)] = str(result)
            yield None
        else:
            raise HowlError(f"{result}; {labelled.hint}")


def in_pieces(first_stage: FirstStage, images: Iterator[Any]) -> list[Store]:
    """Stores of the images, in order; no more than ``BUILD_BATCH`` of them wait for theirs at a time."""
    pieces = []
    while piece := list(islice(images, BUILD_BATCH)):
        pieces.append(first_stage.build(piece))
    return pieces
