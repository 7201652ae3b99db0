"""The retriever: photos in, ranked photos of the same place out."""

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import Any

from tqdm import tqdm

from runtime.bundle import EngineFiles
from runtime.cores import available_cores
from runtime.encoder import Encoder
from runtime.errors import (
    DuplicateIdError,
    ImageError,
    IncompatibleError,
    MissingError,
    UsageError,
    WriterBusyError,
)
from runtime.features import Features
from runtime.index import Hit, Index
from runtime.index.catalogue import PATIENCE
from runtime.index.directory import whole_number_above_0
from runtime.index.ids import check_ids, ids_of, listed
from runtime.io.decoding import MAX_PIXELS
from runtime.io.image import PhotoInput, describe
from runtime.rerank import Query, Reranker

# `add` commits after so many photos or seconds, whichever comes first: a kill loses at most these.
COMMIT_SIZE, COMMIT_SECONDS = 1000, 30.0
MAX_UNCOMMITTED = 20 * COMMIT_SIZE  # photos that wait in memory, some hundred MB, while another process writes


@dataclass(frozen=True)
class AddReport:
    """What ``add`` did with the photos.

    Attributes:
        added: ids that are now in the index.
        skipped: by id, why a photo cannot be read.
    """

    added: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


class Retriever:
    """An engine and an index.

    retriever = Retriever("engine.onnx", index="landmarks.index")
    retriever.add(["a.jpg", "b.jpg"])
    hits = retriever.search("query.jpg", top=10)
    """

    def __init__(
        self,
        engine: str | Path,
        index: str | Path | None = None,
        *,
        device: str | None = None,
        threshold: float | None = None,
        alpha: float | None = None,
        threads: int | None = None,
        wait: float = PATIENCE,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        """Opens an engine and, if there is one already, the index.

        Any thread may use a retriever. Searches run at the same time; additions and removals wait for each other.

        Args:
            engine: ``engine.onnx`` or ``engine.plan``, with the files that export left beside it.
            index: folder of the index, made by the first ``add``; default: ``engine.index`` beside the engine.
            device: ``cpu``, ``cuda``, or None for a GPU if there is one.
            threshold: τ of the search; None for the manifest's.
            alpha: α of the search; None for the manifest's.
            threads: CPU threads that share the work of a photo; None for one per core.
            wait: seconds that ``add``, ``remove`` and ``compact`` wait for another process that is writing.
            max_pixels: of an encoded photo; one with more is refused before it is decoded.

        Raises:
            HowlError: a file is missing or damaged, two of them do not belong together, or the device cannot be used.
        """
        settings: dict[str, Any] = dict(
            device=device, threshold=threshold, alpha=alpha, threads=threads, max_pixels=max_pixels
        )
        self._settings = settings | {"wait": wait}
        self._wait = wait
        self._lock = RLock()
        self.encoder = Encoder(Path(engine), **settings)
        self._threads = threads or available_cores()
        self.index_path = Path(index) if index is not None else EngineFiles.of(self.encoder.path).index
        # Whatever the current folder is later.
        self._engine_place, self._index_place = self.encoder.path.absolute(), self.index_path.absolute()
        self.index: Index | None = self._open_index() if Index.exists(self._index_place) else None
        self._closed = False

    def __enter__(self) -> "Retriever":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Closes the index; nothing can be asked of the retriever any more."""
        with self._lock:
            self._closed = True
            if self.index is not None:
                self.index.close()
                self.index = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens engine and index for itself, by their paths."""
        self._check_open()
        return _open_retriever, (self._engine_place, self._index_place, self._settings)

    def __len__(self) -> int:
        return len(self.index) if self.index is not None else 0

    def __contains__(self, id_: object) -> bool:
        """Whether a photo of this id, a text or a path, is in the index."""
        return self.index is not None and isinstance(id_, str | os.PathLike) and bool(self.index.existing([id_]))

    def ids(self) -> list[str]:
        """The ids of all photos, in the order of their addition."""
        self._check_open()
        return self.index.ids() if self.index is not None else []

    def add(self, photos: Iterable[PhotoInput], ids: Iterable[str | os.PathLike[str]] | None = None) -> AddReport:
        """Adds photos, a commit at least every thousand photos or half a minute. Those reported are on the disk.

        While another process writes, the work goes on and the photos wait in memory, up to 20,000 of them.

        Args:
            photos: paths, encoded bytes, or H×W×3 uint8 BGR arrays.
            ids: one for each photo, texts or paths; may be None if all photos are paths, which are then their own ids.

        Returns:
            what was added, and why the rest was not: unreadable photos are skipped, not fatal.

        Raises:
            HowlError: an id is in the index already, missing or named twice, or there cannot be an index, and nothing
                was added; or the index cannot be written any more, and earlier commits stay.
        """
        photos = listed(photos, "photos")
        names = self._ids(photos, ids)
        check_ids(self.index_path, names)
        with self._lock:
            self._check_open()
            if self.index is None and Index.exists(self._index_place):
                self.index = self._open_index()
            if self.index is None:
                Index.ensure_possible(self._index_place)
            else:
                self.index.ensure_writable()
                if known := self.index.existing(names):
                    raise DuplicateIdError(f"{self.index_path}: {known[0]} is in the index already; remove it first")
        return self._add(photos, names)

    def _add(self, photos: Sequence[PhotoInput], names: Sequence[str]) -> AddReport:
        report, waiting, since = AddReport(), dict[str, Any](), time.monotonic()
        with tqdm(total=len(names), desc="indexing", unit="photo", disable=None) as bar:
            for name, image in self._prepare(photos, names, report):
                bar.update()
                if image is not None:
                    waiting[name] = image
                is_due = len(waiting) >= COMMIT_SIZE or time.monotonic() - since >= COMMIT_SECONDS
                if waiting and is_due and self._commit(waiting, report, insist=len(waiting) >= MAX_UNCOMMITTED):
                    since = time.monotonic()
            if waiting:
                self._commit(waiting, report, insist=True)
        return report

    def _commit(self, waiting: dict[str, Any], report: AddReport, *, insist: bool) -> bool:
        """Adds the photos that wait, and says whether it could.

        Args:
            waiting: encoded photos by id; emptied.
            report: is told what was added.
            insist: whether to wait for another writer to end, and to give up if it does not.

        Raises:
            HowlError: the index cannot be written, or, where ``insist``, another process is still writing.
        """
        with self._lock:
            self._check_open()
            if self.index is None:
                self.index = self._create_index()
            index = self.index
        try:
            index.add(waiting.keys(), waiting.values(), wait=None if insist else 0)
        except WriterBusyError as error:
            if insist:
                raise WriterBusyError(f"{error}; {len(waiting)} photos were not added") from None
            return False
        report.added.extend(waiting)
        waiting.clear()
        return True

    def remove(self, ids: Iterable[str | os.PathLike[str]]) -> None:
        """Removes photos in one commit. Raises HowlError, and removes none, if one is not in the index."""
        self._existing_index().remove(ids)

    def compact(self) -> None:
        """Frees the space of removed photos, and makes searching as fast as it can be: ``Index.compact``."""
        self._existing_index().compact()

    def refresh(self) -> None:
        """Loads what other processes have committed to the index since, or opens the index if they have made it.

        If another index of the same engine was put in its place, that one is opened.

        Raises:
            ReplacedError: the index was moved or deleted, or replaced by one of another engine; searches go on in what
                was opened.
        """
        with self._lock:
            self._check_open()
            if self.index is not None:
                self.index.refresh()
            elif Index.exists(self._index_place):
                self.index = self._open_index()

    def search(
        self, photo: PhotoInput, top: int = 10, *, rerank: Reranker | None = None, candidates: int = 100
    ) -> list[Hit]:
        """The photos of the index most similar to ``photo``, best first; fewer than ``top`` if few share anything.

        Args:
            photo: a path, encoded bytes, or an H×W×3 uint8 BGR array.
            top: the maximum number of hits.
            rerank: puts the first stage's best hits into a better order.
            candidates: how many of them it gets, at least ``top``.

        Raises:
            ImageError: the photo cannot be read.
            MissingError: there is no index.
            UsageError: ``top`` or ``candidates`` is no whole number above 0, or ``rerank`` is no re-ranker.
        """
        index, top = self._existing_index(), whole_number_above_0("top", top)
        candidates = whole_number_above_0("candidates", candidates)
        if rerank is not None and not isinstance(rerank, Reranker):
            raise UsageError(f"rerank={rerank!r}: give an object with the method rerank, or None")
        features = self.encoder.engine.extract(self.encoder.load(photo))
        query = Query(photo, features, self.encoder.encode_query(features, threads=self._threads))
        if rerank is None:
            return index.search(query.encoded, top)
        return rerank.rerank(query, index.search(query.encoded, max(candidates, top)), index)[:top]

    def search_many(
        self, photos: Iterable[PhotoInput], top: int = 10, *, skipped: dict[int, str] | None = None
    ) -> list[list[Hit]]:
        """``search`` for each of the photos, a few at a time, so that all cores are busy.

        Args:
            photos: as ``search`` takes them.
            top: the maximum number of hits of each.
            skipped: takes the reason, by position, of every photo that cannot be read, which then has no hits; without
                it, the first such photo is an error.

        Raises:
            ImageError: a photo cannot be read.
            MissingError: there is no index.
            UsageError: ``top`` is no whole number above 0, or ``photos`` is a single one.
        """
        index, top = self._existing_index(), whole_number_above_0("top", top)

        def hits_of(features: Features) -> list[Hit]:
            return index.search(self.encoder.encode_query(features), top)

        answers: list[list[Hit]] = []
        for _, hits in self.encoder.encode_all(listed(photos, "photos"), hits_of):
            if not isinstance(hits, ImageError):
                answers.append(hits)
            elif skipped is None:
                raise hits
            else:
                skipped[len(answers)] = str(hits)
                answers.append([])
        return answers

    def _existing_index(self) -> Index:
        index = self.index  # another thread may close the retriever meanwhile
        self._check_open()
        if index is None:
            raise MissingError(f"{self.index_path}: no index here; add photos first (howl index)")
        return index

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("this retriever is closed; open another one")

    def _prepare(
        self, photos: Sequence[PhotoInput], names: Sequence[str], report: AddReport
    ) -> Iterator[tuple[str, Any]]:
        """Encodes every photo, in order; one that cannot be read gives None and a line in the report."""
        encoded = self.encoder.encode_all(photos, self.encoder.encode_database)
        for name, (_, image) in zip(names, encoded, strict=True):
            if isinstance(image, ImageError):
                report.skipped[name] = str(image)
                yield name, None
            else:
                yield name, image

    def _ids(self, photos: Sequence[PhotoInput], ids: Iterable[str | os.PathLike[str]] | None) -> list[str]:
        """The id of every photo: the ones given, or the paths."""
        if ids is None:
            nameless = [photo for photo in photos if not isinstance(photo, str | os.PathLike)]
            if nameless:
                raise UsageError(f"{describe(nameless[0])}: has no path to be its id; name it with ids=[...]")
            return [str(Path(name)) for name in ids_of(photos)]  # "./a.jpg" is "a.jpg", in the shell too
        names = ids_of(ids)
        if len(names) != len(photos):
            raise UsageError(f"{len(names)} ids were given for {len(photos)} photos")
        return names

    def _open_index(self) -> Index:
        index = Index(self._index_place, wait=self._wait)
        if index.fingerprint != self.encoder.manifest.fingerprint:
            index.close()
            manifest = EngineFiles.of(self.encoder.path).manifest
            raise IncompatibleError(
                f"{self.index_path} was made with another engine than {manifest} describes: "
                f"use that engine, or index the photos again"
            )
        return index

    def _create_index(self) -> Index:
        return Index.create(
            self._index_place,
            fingerprint=self.encoder.manifest.fingerprint,
            layout=self.encoder.first_stage.layout,
            wait=self._wait,
        )


def _open_retriever(engine: Path, index: Path, settings: dict[str, Any]) -> Retriever:
    return Retriever(engine, index, **settings)
