"""What a system costs: bytes of an image in the index, and milliseconds of a query, on one thread."""

from collections.abc import Sequence
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


def cost_of(engine: Path, index: Path, photos: Sequence[Path], rerank: Sequence[str]) -> dict[str, Any]:
    """Measures an engine on its own, on one thread.

    Args:
        engine: of the system.
        index: which holds the photos; what a re-ranker keeps of them lies beside it.
        photos: some files of it.
        rerank: names of re-rankers.

    Returns:
        ``bytes``: of an image in the index, and ``kept``, of what re-rankers keep of it, by their names;
        ``extraction``, ``search`` and each re-ranker's name: milliseconds of the processor, of every query. Extraction
        is from an image in memory to its encoded query; search finds the best 100 of 50,000 images.
    """
    encoder = Encoder(engine, device="cpu", threads=1)
    rerankers = Rerankers.beside(engine, None, index, encoder=encoder, device="cpu", threads=1)
    reranking = {name: cast(Reranker, rerankers.of(name)) for name in rerank}
    chosen = list(photos[:: max(1, len(photos) // DISTINCT)][:DISTINCT])
    distinct = [encoder.encode_database(encoder.extract_loaded(encoder.load(photo))) for photo in chosen]
    store: Store = encoder.first_stage.build([distinct[i % len(distinct)] for i in range(IMAGES)])
    live = np.ones(len(store), bool)
    times: dict[str, list[float]] = {"extraction": [], "search": [], **{name: [] for name in reranking}}
    for number, photo in enumerate(chosen[:: max(1, len(chosen) // (QUERIES + 1))][: QUERIES + 1]):
        image = np.ascontiguousarray(resized(encoder.load(photo), QUERY_SIZE)[:, :, ::-1])
        features, first = timed(lambda image: encoder.extract_loaded(encoder.load(image)), image)
        encoded, second = timed(encoder.encode_query, features)
        _, third = timed(store.best, encoded, live, TOP)
        taken = {"extraction": first + second, "search": third}
        query = Query(image, encoded, encoder.first_stage.settings, features)
        for name, reranker in reranking.items():
            candidates = best_of(store, encoded, chosen, reranker.candidates)
            taken[name] = timed(reranker.rerank, query, candidates)[1]
        if number > 0:
            for name, milliseconds in taken.items():
                times[name].append(milliseconds)
    size = sum(array.nbytes for array in store.arrays().values()) / len(store)
    return {"bytes": size, "kept": {name: kept_bytes(index, KEPT[name]) for name in rerank if name in KEPT}, **times}


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
