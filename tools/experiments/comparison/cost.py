"""What a system costs: bytes of an image in the index, and milliseconds of a query, on one thread."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import numpy as np

from runtime.encoder import Encoder
from runtime.first_stage import Store
from runtime.index import Index
from runtime.matching.store import OF_ACTIVATIONS, OF_ENGINE, Kind
from runtime.rerank import Candidates, Located, Query, Reranker, Rerankers
from tools.experiments.timing import resized, timed

IMAGES = 50_000  # that are searched: the same few photos again and again
DISTINCT = 200  # of them
QUERIES = 12  # that are timed, after the first, which warms up
QUERY_SIZE = 1024  # pixels, longest side
TOP = 100  # answers
KEPT = {"ransac": OF_ENGINE, "dsm": OF_ACTIVATIONS}


class OpenSystem:
    """An engine and what it searches, on one thread, to be timed.

    Attributes:
        photos: that are searched, over and over.
        bytes: of an image in the index.
        kept: of what each re-ranker keeps of one beside it, by its name.
    """

    def __init__(self, engine: Path, index: Path, photos: Sequence[Path], rerank: Sequence[str]) -> None:
        """Describes some of the photos, and fills a store with as many images as are searched.

        Args:
            engine: of the system.
            index: which holds the photos; what a re-ranker keeps of them lies beside it.
            photos: some files of it.
            rerank: names of re-rankers.
        """
        self._encoder = Encoder(engine, device="cpu", threads=1)
        rerankers = Rerankers.beside(engine, None, index, encoder=self._encoder, device="cpu", threads=1)
        self._reranking = {name: cast(Reranker, rerankers.of(name)) for name in rerank}
        self.photos = list(photos[:: max(1, len(photos) // DISTINCT)][:DISTINCT])
        encoder = self._encoder
        distinct = [encoder.encode_database(encoder.extract_loaded(encoder.load(photo))) for photo in self.photos]
        self._store: Store = encoder.first_stage.build([distinct[i % len(distinct)] for i in range(IMAGES)])
        self._live = np.ones(len(self._store), bool)
        self.bytes = sum(array.nbytes for array in self._store.arrays().values()) / len(self._store)
        self.kept = {name: kept_bytes(index, KEPT[name]) for name in rerank if name in KEPT}

    def times(self, photo: Path) -> dict[str, float]:
        """Milliseconds of the processor of a query: ``extraction``, from an image in memory to its encoded query;
        ``search``, for the best 100 of 50,000 images; and each re-ranker's, by its name.
        """
        encoder = self._encoder
        image = np.ascontiguousarray(resized(encoder.load(photo), QUERY_SIZE)[:, :, ::-1])
        features, first = timed(lambda image: encoder.extract_loaded(encoder.load(image)), image)
        encoded, second = timed(encoder.encode_query, features)
        _, third = timed(self._store.best, encoded, self._live, TOP)
        taken = {"extraction": first + second, "search": third}
        query = Query(image, encoded, encoder.first_stage.settings, features)
        for name, reranker in self._reranking.items():
            candidates = best_of(self._store, encoded, self.photos, reranker.candidates)
            taken[name] = timed(reranker.rerank, query, candidates)[1]
        return taken


def costs_of(systems: Mapping[str, OpenSystem]) -> dict[str, dict[str, Any]]:
    """What systems cost, by their names.

    They are timed in turn, query by query: what disturbs the machine for a while disturbs all of them alike.

    Returns:
        ``bytes`` and ``kept``, as ``OpenSystem`` has them, and the milliseconds of every query by the names that
        ``OpenSystem.times`` gives.
    """
    times: dict[str, list[dict[str, float]]] = {name: [] for name in systems}
    for number in range(QUERIES + 1):
        for name, system in systems.items():
            photos = system.photos
            times[name].append(system.times(photos[number * len(photos) // (QUERIES + 1)]))
    return {
        name: {
            "bytes": system.bytes,
            "kept": system.kept,
            **{part: [taken[part] for taken in times[name][1:]] for part in times[name][0]},
        }
        for name, system in systems.items()
    }


def kept_bytes(index: Path, kind: Kind) -> float:
    """Of a photo, in the file beside the index that has what a re-ranking needs."""
    path = kind.path(index)
    with closing(Index(index)) as held:
        return path.stat().st_size / len(held)


def best_of(store: Store, query: Any, photos: Sequence[Path], count: int) -> Candidates:
    """The best of the distinct images as candidates: equal ones would be re-ranked faster, or slower, than others."""
    scores = store.scores(query)[: len(photos)]
    best = np.argsort(-scores, kind="stable")[:count]
    files = [photos[i] for i in best.tolist()]
    return Candidates(scores[best], [Located(store, best, np.arange(len(best)))], list(map(str, files)), files)
