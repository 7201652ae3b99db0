"""Adding photos to an index: they are encoded one after the other, and committed every now and then."""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from runtime.encoder import Encoder
from runtime.errors import ImageError, UsageError, WriterBusyError
from runtime.features import Features
from runtime.first_stage import FirstStage
from runtime.index import AnyIndex
from runtime.index.ids import id_of_path, ids_of
from runtime.index.origin import Origin
from runtime.index.strangers import SAMPLE
from runtime.io.image import Image, PhotoInput, describe, read_photo
from runtime.io.reading_log import ReadingLog, kills_its_decoder, left_behind

# A commit comes after so many photos or seconds, whichever is first: a kill loses at most these.
COMMIT_SIZE, COMMIT_SECONDS = 1000, 30.0
MAX_UNCOMMITTED = 20 * COMMIT_SIZE  # photos that wait in memory, some hundred MB, while another process writes


@dataclass(frozen=True)
class AddReport:
    """What ``add`` did with the photos.

    Attributes:
        added: ids that are now in the index.
        skipped: by id, why a photo cannot be read.
        present: ids that were in the index already, and stayed as they were.
        aliases: by id, the other id that a photo has, because its file is in the index, or named here, twice.
    """

    added: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    present: list[str] = field(default_factory=list)
    aliases: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Item:
    """A photo on its way into the index.

    Attributes:
        photo: a path, encoded bytes or an array.
        id: under which it will be found.
        origin: its file, if it has one, before it is read.
        is_sample: whether to encode it as a query, too, to measure what strangers score.
    """

    photo: PhotoInput
    id: str
    origin: Origin | None
    is_sample: bool = False


def names_of(
    photos: Sequence[PhotoInput], ids: Iterable[str | os.PathLike[str]] | None, root: Path | None
) -> list[str]:
    """The id of every photo: the ones given, or the paths as seen from ``root``.

    Raises:
        UsageError: a photo has no path to be its id, or there are more ids or fewer than photos.
    """
    if ids is None:
        nameless = [photo for photo in photos if not isinstance(photo, str | os.PathLike)]
        if nameless:
            raise UsageError(f"{describe(nameless[0])}: has no path to be its id; name it with ids=[...]")
        return [id_of_path(path, root) for path in ids_of(photos)]
    names = ids_of(ids)
    if len(names) != len(photos):
        raise UsageError(f"{len(names)} ids were given for {len(photos)} photos")
    return names


def items_of(photos: Sequence[PhotoInput], ids: Sequence[str]) -> list[Item]:
    """Photos with their ids and files."""
    return [Item(photo, id_, Origin.of(photo)) for photo, id_ in zip(photos, ids, strict=True)]


def sampled(items: Sequence[Item]) -> list[Item]:
    """The items, of which about 64 are samples."""
    every = max(1, len(items) // SAMPLE)
    return [replace(item, is_sample=True) if i % every == 0 else item for i, item in enumerate(items)]


def aliases(items: Sequence[Item], ids_at: Callable[[Sequence[int]], dict[int, str]] | None) -> dict[str, str]:
    """The items whose files are in an index, or among the items, under another id too: by id, that other id.

    Args:
        items: with different ids.
        ids_at: ``Index.ids_at``; None without an index.
    """
    files = [(item.id, item.origin.place) for item in items if item.origin is not None]
    first = {} if ids_at is None else ids_at([place for _, place in files])
    others = ((id_, first.setdefault(place, id_)) for id_, place in files)
    return {id_: other for id_, other in others if other != id_}


def add_items(
    items: Sequence[Item],
    encoder: Encoder,
    first_stage: FirstStage,
    open_index: Callable[[], AnyIndex],
    log: Path,
    *,
    existing: str,
    report: AddReport,
    queries: dict[str, Any],
) -> None:
    """Encodes and commits photos. While another process writes, the work goes on.

    Args:
        items: with different ids.
        encoder: of the engine.
        first_stage: encodes for the index, which may aggregate by regions.
        open_index: the index, made if need be; called before every commit.
        log: where to note what is being decoded (``ReadingLog``).
        existing: what becomes of ids that are in the index already: ``Index.add``.
        report: is told what was added, and what cannot be read.
        queries: takes the samples, encoded as queries, by id.

    Raises:
        HowlError: the index cannot be written any more; what was reported is in it.
    """
    waiting, since = dict[Item, Any](), time.monotonic()
    # A bar is for who waits for the main thread: not where a server adds in one of its threads.
    is_shown = None if threading.current_thread() is threading.main_thread() else True
    with tqdm(total=len(items), desc="indexing", unit="photo", disable=is_shown) as bar:
        for item, image in encode_items(items, encoder, first_stage, log, queries):
            bar.update()
            if isinstance(image, ImageError):
                report.skipped[item.id] = str(image)
            else:
                waiting[item] = image
            is_due = len(waiting) >= COMMIT_SIZE or time.monotonic() - since >= COMMIT_SECONDS
            insist = len(waiting) >= MAX_UNCOMMITTED
            if waiting and is_due and _commit(waiting, open_index(), existing, report, insist=insist):
                since = time.monotonic()
        if waiting:
            _commit(waiting, open_index(), existing, report, insist=True)


def encode_items(
    items: Sequence[Item], encoder: Encoder, first_stage: FirstStage, log: Path, queries: dict[str, Any]
) -> Iterator[tuple[Item, Any | ImageError]]:
    """Every photo, in order, as the index stores it, or why it cannot be read; arguments as in ``add_items``."""

    def encode(item: Item, features: Features) -> Any:
        if item.is_sample:
            queries[item.id] = encoder.encode_query(features)
        return first_stage.encode_database(features)

    with left_behind(log) as suspects, ReadingLog(log) as reading:
        killers = {item.id for item in items if item.id in suspects and _is_killer(item, encoder.max_pixels)}
        for id_ in killers:
            reading.keep(id_)

        def load(item: Item) -> Image:
            if item.id in killers:
                raise ImageError(f"{describe(item.photo)}: decoding it ends the process; save it in another format")
            with reading.reading(item.id):
                return encoder.load(item.photo)

        yield from encoder.encode_loaded(items, load, encode)


def _is_killer(item: Item, max_pixels: int) -> bool:
    """Whether a photo that was being decoded when a process died was the cause."""
    if isinstance(item.photo, np.ndarray):
        return False
    try:
        data = read_photo(Path(item.photo)) if isinstance(item.photo, str | os.PathLike) else bytes(item.photo)
    except ImageError:
        return False
    return kills_its_decoder(data, max_pixels)


def _commit(waiting: dict[Item, Any], index: AnyIndex, existing: str, report: AddReport, *, insist: bool) -> bool:
    """Adds the photos that wait, and says whether it could.

    Args:
        waiting: encoded photos; emptied.
        index: to which they are added.
        existing: as in ``add_items``.
        report: is told what was added.
        insist: whether to wait for another writer to end, and to give up if it does not.

    Raises:
        HowlError: the index cannot be written, or, where ``insist``, another process is still writing.
    """
    ids, origins = [item.id for item in waiting], [item.origin for item in waiting]
    try:
        added = index.add(ids, waiting.values(), origins=origins, existing=existing, wait=None if insist else 0)
    except WriterBusyError as error:
        if insist:
            raise WriterBusyError(f"{error}; {len(waiting)} photos were not added") from None
        return False
    report.added.extend(added)
    if len(added) < len(ids):  # another process was faster with some
        there = set(added)
        report.present.extend(id_ for id_ in ids if id_ not in there)
    waiting.clear()
    return True
