"""What runs in a cluster's processes when photos are indexed: engines, and the writers of the shards."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.addition import Item, encode_items, items_of
from runtime.encoder import Encoder
from runtime.errors import HowlError, ImageError, ServiceError
from runtime.index.origin import Origin
from runtime.index.shards import Shards
from runtime.index.strangers import LEAST_SAMPLE
from runtime.sharded.cluster import load_ray, result
from runtime.sharded.shard import Shard

ADDED, SKIPPED, FAILED = "added", "skipped", "failed"  # outcomes

Batch = dict[str, NDArray[Any]]


class ShardWriter(Shard):
    """The one process that writes to a shard, and keeps the queries that strangers are measured with."""

    def __init__(self, path: Path, wait: float) -> None:
        super().__init__(path, wait)
        self._queries: dict[str, Any] = {}

    def add_batch(
        self,
        ids: Sequence[str],
        images: Sequence[Any],
        origins: Sequence[Origin | None],
        existing: str,
        queries: Mapping[str, Any],
    ) -> None:
        """``Index.add``; with ``skip`` or ``replace``, a second time changes nothing."""
        self.add(ids, images, origins, existing, None)
        self._queries |= queries

    def measure(self, settings: Mapping[str, Any]) -> None:
        """Measures what strangers score, if the shard has twice as many images as when it was last done."""
        state = self.refresh()
        if state.strangers is not None and state.images < 2 * state.strangers.images:
            return
        if len(self._queries) >= LEAST_SAMPLE:
            self.measure_strangers(self._queries, settings)


class Extraction:
    """An engine in a process of its own: photos in, outcomes out; what it gives goes to the writers."""

    def __init__(
        self,
        engine: Path,
        settings: Mapping[str, Any],
        regions: int,
        shards: Shards,
        writers: Sequence[Any],
        existing: str,
        log: Path,
    ) -> None:
        """Opens nothing yet, so that what is wrong with the engine is an outcome.

        Args:
            engine: its file.
            settings: of the ``Encoder``.
            regions: levels of the index's grid.
            shards: of the index.
            writers: their actors.
            existing: ``skip`` or ``replace``.
            log: how the paths of the logs begin of what is being decoded.
        """
        self._engine, self._settings, self._regions = engine, settings, regions
        self._shards, self._writers, self._existing, self._log = shards, writers, existing, log
        self._encoder: Encoder | None = None

    def __call__(self, batch: Batch) -> Batch:
        """The outcome of each photo of a batch, all of which are on the disk: ``id``, ``outcome`` and ``line``."""
        ids = [str(id_) for id_ in batch["id"]]
        lines: dict[str, str] = {}
        try:
            self._index(self._items(batch), lines)
        except load_ray().exceptions.RayError as error:
            line = f"{self._shards.path}: a process that writes to a shard is gone: {reason_of(error)}"
            return outcomes(ids, [f"{FAILED} {ServiceError.__name__}"] * len(ids), [line] * len(ids))
        except HowlError as error:
            return outcomes(ids, [f"{FAILED} {type(error).__name__}"] * len(ids), [str(error)] * len(ids))
        return outcomes(ids, [SKIPPED if id_ in lines else ADDED for id_ in ids], [lines.get(id_, "") for id_ in ids])

    def _items(self, batch: Batch) -> list[Item]:
        return [
            replace(item, is_sample=bool(is_sample))
            for item, is_sample in zip(
                items_of([str(path) for path in batch["path"]], [str(id_) for id_ in batch["id"]]),
                batch["is_sample"],
                strict=True,
            )
        ]

    def _index(self, items: Sequence[Item], lines: dict[str, str]) -> None:
        """Encodes photos and waits until they are on the disk; ``lines`` takes why some cannot be read."""
        if self._encoder is None:
            self._encoder = Encoder(self._engine, **self._settings)
        first_stage = self._encoder.first_stage.for_regions(self._regions)
        # Another process that does this batch again finds out what killed the one before.
        name = hashlib.blake2b(items[0].id.encode(), digest_size=8).hexdigest()
        queries: dict[str, Any] = {}
        encoded: dict[str, Any] = {}
        for item, image in encode_items(
            items, self._encoder, first_stage, self._log.with_name(f"{self._log.name}.{name}"), queries
        ):
            if isinstance(image, ImageError):
                lines[item.id] = str(image)
            else:
                encoded[item.id] = image
        files = {item.id: item.origin for item in items}
        orders = {
            shard: (
                own,
                [encoded[id_] for id_ in own],
                [files[id_] for id_ in own],
                self._existing,
                {id_: queries[id_] for id_ in own if id_ in queries},
            )
            for shard, own in self._shards.grouped(encoded).items()
        }
        each(self._writers, "add_batch", orders)


def outcomes(ids: Sequence[str], kinds: Sequence[str], lines: Sequence[str]) -> Batch:
    """What became of photos, as Ray Data passes it on."""
    return {"id": np.array(ids, object), "outcome": np.array(kinds, object), "line": np.array(lines, object)}


def each(writers: Sequence[Any], method: str, arguments: Mapping[int, Sequence[Any]]) -> dict[int, Any]:
    """What some shards' writers answer, by shard. Raises HowlError as they do."""
    calls = {shard: getattr(writers[shard], method).remote(*own) for shard, own in arguments.items()}
    # All are waited for, also if one failed: who ends a writer at work has Ray say at length that it would try again.
    if calls:
        load_ray().wait(list(calls.values()), num_returns=len(calls))
    return {shard: result(call) for shard, call in calls.items()}


def reason_of(error: BaseException) -> str:
    """The first line of what is at the bottom of Ray's errors, which wrap each other."""
    while (cause := getattr(error, "cause", None) or error.__cause__) is not None:
        error = cause
    first, *_ = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {first}"
