"""Hard-negative mining: the tuples of an epoch (Radenović et al., TPAMI 2018; HOW §4)."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from runtime.errors import DataError
from train.config import TrainingConfig
from train.data.labelled import LabelledPhotos
from train.descriptors import Describe, agree_on_unreadable, describe_photos
from train.distributed import ProcessGroup


class TrainingTuple(NamedTuple):
    """Photo numbers: a query, a photo of the same place, and look-alikes of other places."""

    query: int
    positive: int
    negatives: tuple[int, ...]


def mine_tuples(
    describe: Describe, photos: LabelledPhotos, config: TrainingConfig, epoch: int, processes: ProcessGroup
) -> list[TrainingTuple]:
    """The tuples of an epoch, under the network as it is now.

    Args:
        describe: gives the global descriptors that photos are ranked by.
        photos: to choose from.
        config: how many tuples, negatives and so on.
        epoch: with the seed it decides what is drawn.
        processes: they share the work, and all get the same tuples.

    Raises:
        HowlError: no tuple can be made: no two scenes with readable photos.
    """
    agree_on_unreadable(photos, processes)
    random = np.random.default_rng([config.seed, epoch])
    everything = photos.queries()
    queries = random.permutation(everything)[: config.tuples]
    pool = random.permutation(np.flatnonzero(photos.usable))[: config.pool]
    candidates = [photos.positives(q) for q in queries]
    needed = np.unique(np.concatenate([queries, pool, *candidates]))
    vectors = describe_photos(describe, photos, needed, processes, f"epoch {epoch + 1}: mining")
    pool = np.array([i for i in pool if i in vectors], np.int64)
    pool_vectors = np.stack([vectors[i] for i in pool.tolist()])
    tuples = []
    for query, positives in zip(queries.tolist(), candidates, strict=True):
        positives = np.array([i for i in positives if i in vectors], np.int64)
        if query not in vectors or len(positives) == 0:
            continue
        positive = draw_positive(vectors, query, positives, config.nearest_positives, random)
        similarity = pool_vectors @ vectors[query]
        negatives = hardest_negatives(pool, similarity, photos.scenes, int(photos.scenes[query]), config.negatives)
        if negatives:
            tuples.append(TrainingTuple(query, positive, negatives))
    if not tuples:
        raise DataError("no tuple can be made: training needs two scenes, and two readable photos in one of them")
    return tuples


def draw_positive(
    vectors: dict[int, NDArray[np.float32]],
    query: int,
    positives: NDArray[np.int64],
    nearest: int,
    random: np.random.Generator,
) -> int:
    """One of the query's nearest positives, at random: not all photos of a building overlap."""
    similarity = np.stack([vectors[i] for i in positives.tolist()]) @ vectors[query]
    return int(random.choice(positives[np.argsort(-similarity, kind="stable")[:nearest]]))


def hardest_negatives(
    pool: NDArray[np.int64],
    similarity: NDArray[np.float32],
    scenes: NDArray[np.int64],
    query_scene: int,
    count: int,
) -> tuple[int, ...]:
    """The most similar photos of other scenes, at most one of each; fewer than ``count`` if there are fewer scenes."""
    chosen: list[int] = []
    seen = {query_scene}
    for i in pool[np.argsort(-similarity, kind="stable")].tolist():
        if len(chosen) == count:
            break
        if int(scenes[i]) not in seen:
            seen.add(int(scenes[i]))
            chosen.append(i)
    return tuple(chosen)
