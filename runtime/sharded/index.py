"""An index with shards, as retrievers and servers use one: what is asked of it is asked of its shards and merged."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.arguments import one_of, whole_number_above_0
from runtime.errors import DamagedError, IncompatibleError, ServiceError, StorageError
from runtime.index import EXISTING, AnyIndex, Hit, Hits
from runtime.index.ids import duplicate, ids_of, unknown
from runtime.index.origin import Origin
from runtime.index.segment import store_of
from runtime.index.shards import Shards, merged
from runtime.index.strangers import Strangers
from runtime.sharded.cluster import Cluster, Replies
from runtime.sharded.shard import ShardState

ON_MISSING = ("partial", "fail")  # what becomes of a search when shards do not answer


class ShardedIndex(AnyIndex):
    """The shards of an index. Scores are those of one index of all images, to the bit; equal ones are in ``rank``."""

    def __init__(self, cluster: Cluster, *, on_missing: str = "partial") -> None:
        """Opens all shards.

        Args:
            cluster: their actors.
            on_missing: whether a search gives what the other shards have, or fails.

        Raises:
            HowlError: a shard is missing or damaged, or shards are of different engines.
        """
        self._cluster, self._on_missing = cluster, one_of("on_missing", on_missing, ON_MISSING)
        self._lock = RLock()
        self._shards: Shards = cluster.shards
        self.path: Path = cluster.shards.path
        self._states: dict[int, ShardState] = cluster.open()
        kinds = {(state.fingerprint, state.layout) for state in self._states.values()}
        if len(kinds) > 1:
            raise DamagedError(f"{self.path}: its shards are of different engines; index the photos again")
        self.fingerprint, self.layout = next(iter(kinds))

    def close(self) -> None:
        """Ends the shards' processes."""
        self._cluster.close()

    def __len__(self) -> int:
        """As of the last commit that was taken up, also of shards that do not answer."""
        return sum(state.images for state in self._states.values())

    def refresh(self) -> None:
        """Takes up what others have committed since.

        Raises:
            ServiceError: no shard answers, or one does not and searches are to fail then.
            HowlError: a shard cannot take it up; searches go on in what it opened.
        """
        replies = self._cluster.refresh()
        self._take(replies.answers)
        self._check_answered(replies)

    def search(
        self,
        query: Any,
        top: int,
        *,
        only: Iterable[str | os.PathLike[str]] | None = None,
        exclude: Iterable[str | os.PathLike[str]] = (),
    ) -> Hits:
        """The images most similar to a query, best first, and which shards did not answer: ``Index.search``.

        Raises:
            ServiceError: no shard answers, or one does not and searches are to fail then.
            HowlError: as ``Index.search``.
        """
        top = whole_number_above_0("top", top)
        without = self._shards.grouped(ids_of(exclude, "exclude"))
        chosen = None if only is None else self._shards.grouped(ids_of(only, "only"))
        asked = range(self._shards.count) if chosen is None else sorted(chosen)
        replies = self._cluster.ask(
            "search",
            {shard: (query, top, None if chosen is None else chosen[shard], without.get(shard, [])) for shard in asked},
        )
        self._check_answered(replies)
        hits = {shard: list(map(Hit, ids, scores.tolist())) for shard, (ids, scores) in replies.answers.items()}
        return merged(hits, top, [self._shards.name(shard) for shard in sorted(replies.missing)])

    def located(self, ids: Sequence[str]) -> list[tuple["RemoteStore", NDArray[np.int64], NDArray[np.int64]]]:
        """Where images lie: one store for each shard, which asks it when a re-ranker asks the store."""
        positions = self._shards.divided(ids)
        asker = Asker(self._cluster, {shard: [ids[place] for place in own] for shard, own in positions.items()})
        return [
            (RemoteStore(asker, shard, self.layout), np.arange(len(own)), np.array(own, np.int64))
            for shard, own in positions.items()
        ]

    def existing(self, ids: Iterable[str | os.PathLike[str]]) -> list[str]:
        """Those of the ids that are in the index. Raises ServiceError if a shard that may have some does not answer."""
        names = ids_of(ids)
        found = self._cluster.need("existing", {shard: (own,) for shard, own in self._shards.grouped(names).items()})
        known = {id_ for own in found.values() for id_ in own}
        return [name for name in names if name in known]

    def below(self, folder: str) -> list[str]:
        """The ids that lie in a folder, as paths."""
        return self._joined("below", folder)

    def ids(self) -> list[str]:
        """The ids of all images, shard by shard; each has them in the order of addition."""
        return self._joined("ids")

    def page(self, start: int, stop: int) -> list[str]:
        """``ids()[start:stop]``, for which only the shards that hold these are asked."""
        asked, first = {}, 0
        for shard in range(self._shards.count):
            images = self._states[shard].images
            own = max(0, start - first), min(images, stop - first)
            if own[0] < own[1]:
                asked[shard] = own
            first += images
        found = self._cluster.need("page", asked)
        return [id_ for shard in sorted(found) for id_ in found[shard]]

    def origins(self, ids: Sequence[str]) -> dict[str, Origin | None]:
        """The files that images came from: ``Index.origins``."""
        asked = {shard: (own,) for shard, own in self._shards.grouped(ids).items()}
        return {id_: file for own in self._cluster.need("origins", asked).values() for id_, file in own.items()}

    def ids_at(self, places: Sequence[int]) -> dict[int, str]:
        """The ids of the images that came from files: ``Index.ids_at``."""
        found = self._cluster.need("ids_at", self._each(list(places)))
        return {place: id_ for shard in sorted(found) for place, id_ in found[shard].items()}

    def ensure_writable(self) -> None:
        """Raises HowlError if a shard does not answer, or cannot be written."""
        replies = self._cluster.order("ensure_writable", self._each())  # on a full disk, searches go on
        if replies.missing:
            raise self._cluster.unavailable(replies.missing)

    def add(
        self,
        ids: Iterable[str | os.PathLike[str]],
        images: Iterable[Any],
        *,
        origins: Iterable[Origin | None] | None = None,
        existing: str = "error",
        wait: float | None = None,
    ) -> list[str]:
        """Adds images, in one commit a shard. When this returns, all are on the disk, and all replicas find them.

        Raises:
            StorageError: a shard did not answer. Images of other shards are in the index, and its own may be; a second
                addition with ``existing="skip"`` adds what is not.
            HowlError: as ``Index.add``; images of other shards may be in the index all the same.
        """
        names, encoded, files = self._addition(ids, images, origins)
        if one_of("existing", existing, EXISTING) == "error" and (known := self.existing(names)):
            raise duplicate(self.path, known[0])
        orders = {
            shard: (*([part[place] for place in own] for part in (names, encoded, files)), existing, wait)
            for shard, own in self._shards.divided(names).items()
        }
        replies = self._cluster.order("add", orders)
        self._take({shard: state for shard, (_, state) in replies.answers.items()})
        self._check_written(replies, "photos may not have been added; add them again with existing='skip'")
        added = {id_ for own, _ in replies.answers.values() for id_ in own}
        return [name for name in names if name in added]

    def remove(self, ids: Iterable[str | os.PathLike[str]], *, root: Path | None = None) -> None:
        """Removes images, in one commit a shard.

        Args:
            ids: ids, or paths of photos: ``named``.
            root: as in ``named``.

        Raises:
            UnknownIdError: an id is not in the index; none is removed.
            StorageError: a shard did not answer; images of other shards are removed, and its own may be.
        """
        names = self.named(ids, root)
        known = set(self.existing(names))
        if missing := [name for name in names if name not in known]:
            raise unknown(self.path, missing[0])
        replies = self._cluster.order("remove", {shard: (own,) for shard, own in self._shards.grouped(names).items()})
        self._take(replies.answers)
        self._check_written(replies, "photos may not have been removed")

    def compact(self, progress: Callable[[int], object] = lambda images: None) -> None:
        """Compacts all shards, at the same time: ``Index.compact``."""
        replies = self._cluster.order("compact", self._each())
        self._take(replies.answers)
        self._check_written(replies, "it may not have been compacted")
        progress(len(self))

    def strangers(self) -> Strangers | None:
        """What photos of different places score: the mean of what was measured in the shards.

        A hash puts images into shards, so that the scores of strangers are distributed alike in all of them.
        """
        measured = [state.strangers for state in self._states.values() if state.strangers is not None]
        if not measured or any(each.settings != measured[0].settings for each in measured):
            return None
        weights = [each.images for each in measured]
        median, quartile = (
            float(np.average([getattr(each, name) for each in measured], weights=weights))
            for name in ("median", "quartile")
        )
        return Strangers(median, quartile, sum(weights), measured[0].settings)

    def measure_strangers(self, queries: Mapping[str, Any], settings: Mapping[str, Any]) -> Strangers | None:
        """Has each shard measure with its own of the queries; None if none has enough."""
        own = self._shards.grouped(queries)
        asked = {shard: ({id_: queries[id_] for id_ in ids}, settings) for shard, ids in own.items()}
        self._take(self._cluster.order("measure_strangers", asked).answers)
        return self.strangers()

    def _joined(self, method: str, *arguments: Any) -> list[str]:
        found = self._cluster.need(method, self._each(*arguments))
        return [id_ for shard in sorted(found) for id_ in found[shard]]

    def _each(self, *arguments: Any) -> dict[int, tuple[Any, ...]]:
        return dict.fromkeys(range(self._shards.count), arguments)

    def _take(self, states: Mapping[int, ShardState]) -> None:
        with self._lock:
            self._states = {**self._states, **states}

    def _check_answered(self, replies: Replies) -> None:
        if replies.missing and (self._on_missing == "fail" or not replies.answers):
            raise self._cluster.unavailable(replies.missing)

    def _check_written(self, replies: Replies, outcome: str) -> None:
        if replies.missing:
            error = self._cluster.unavailable(replies.missing)
            raise StorageError(f"{str(error).removesuffix('; try again later')}; its {outcome}")


class Asker:
    """Asks the shards of some candidates together, when the first of their stores is asked."""

    def __init__(self, cluster: Cluster, ids: Mapping[int, Sequence[str]]) -> None:
        """``ids`` are the candidates of each shard."""
        self._cluster, self._ids = cluster, ids
        self._found: dict[str, dict[int, Any]] = {}

    def corresponding(self, shard: int, query: Any) -> tuple[NDArray[np.int32], NDArray[np.void]]:
        """``Shard.corresponding`` of a shard's candidates. A re-ranker asks for one query only."""
        return self._ask("corresponding", lambda ids: (query, ids))[shard]

    def images_of(self, shard: int) -> list[Any]:
        """``Shard.images_of`` of a shard's candidates. Raises ServiceError if one was removed meanwhile."""
        images = self._ask("images_of", lambda ids: (ids,))[shard]
        if any(image is None for image in images):
            raise ServiceError(f"{self._cluster.shards.path}: an answer was removed while it was looked at; ask again")
        return images

    def _ask(self, method: str, arguments: Callable[[Sequence[str]], tuple[Any, ...]]) -> dict[int, Any]:
        if method not in self._found:
            self._found[method] = self._cluster.need(
                method, {shard: arguments(ids) for shard, ids in self._ids.items()}
            )
        return self._found[method]


class RemoteStore:
    """The candidates of one shard as a store, as far as re-rankers use one; its rows are their numbers.

    A shard that does not answer is an error here: a re-ranking cannot be partial.
    """

    def __init__(self, asker: Asker, shard: int, layout: Any) -> None:
        self._corresponding = partial(asker.corresponding, shard)
        self._images_of = partial(asker.images_of, shard)
        self._layout = layout

    def correspond(
        self, query: Any, candidates: NDArray[np.int32], counts: NDArray[np.int32], found: NDArray[np.void]
    ) -> None:
        """``InvertedFile.correspond``."""
        if not self._layout.geometry:
            raise IncompatibleError("the index does not keep where its features lie; index the photos again")
        own_counts, own = self._corresponding(query)
        places = candidates[: len(own_counts)]
        counts[places] = own_counts
        found[places, : own.shape[1]] = own

    def images_at(self, rows: NDArray[np.int64]) -> list[Any]:
        """``Store.images_at``."""
        images = self._images_of()
        return [images[row] for row in rows.tolist()]

    def similarities(self, images: Sequence[Any], query: Any) -> NDArray[np.float64]:
        """``Store.similarities``."""
        return store_of(self._layout).similarities(images, query)
