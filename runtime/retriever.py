"""The retriever: photos in, ranked photos of the same place out."""

import math
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import Any

from runtime.addition import AddReport, add_items, aliases, items_of, names_of, sampled
from runtime.arguments import finite_number, listed, one_of, place, whole_number_above_0
from runtime.bundle import EngineFiles
from runtime.cores import available_cores
from runtime.encoder import Encoder
from runtime.errors import (
    DataError,
    HowlError,
    ImageError,
    MissingError,
    UsageError,
)
from runtime.features import Features
from runtime.first_stage import Searcher
from runtime.forking import renew_after_fork
from runtime.index import EXISTING, AnyIndex, Hits, Index
from runtime.index.catalogue import PATIENCE
from runtime.index.ids import check_ids, duplicate, ids_of
from runtime.index.strangers import LEAST_IMAGES, LEAST_SAMPLE, SAMPLE, Strangers
from runtime.index_place import IndexPlace
from runtime.io.decoding import MAX_PIXELS
from runtime.io.image import PhotoInput
from runtime.rerank import HitOrder, Query, Reranker, Rerankers


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
        root: str | Path | None = None,
        geometry: bool = True,
        regions: int | None = None,
        matcher: str | Path | None = None,
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
            engine: ``engine.onnx``, ``engine.plan`` or ``engine.pt2``, with the files that export left beside it.
            index: folder of the index, made by the first ``add``; default: ``engine.index`` beside the engine.
            root: a folder, from which the ids of photos are seen, however their paths are typed; None for ids that are
                the paths as they are given.
            geometry: whether an index that is made keeps where its features lie, which ``rerank="spatial"`` needs: 4
                bytes in 22 of an entry.
            regions: levels of R-MAC's grid by which an index that is made aggregates its photos (R-ASMK, docs/asmk.md);
                None for what the index has, or for none. An index has one way for all of its photos.
            matcher: of ``rerank="lightglue"``, made by ``howl matcher``; default: ``matcher.onnx`` beside the engine.
            device: ``cpu``; ``cuda`` for all that a GPU can do: run the engine, quantise, search a copy of the index;
                or None to run the engine on a GPU if there is one.
            threshold: τ of the search; None for the manifest's.
            alpha: α of the search; None for the manifest's.
            threads: CPU threads that share the work of a photo; None for one per core.
            wait: seconds that ``add``, ``remove`` and ``compact`` wait for another process that is writing.
            max_pixels: of an encoded photo; one with more is refused before it is decoded.

        Raises:
            HowlError: a file is missing or damaged, two of them do not belong together, or the device cannot be used.
        """
        settings: dict[str, Any] = dict(
            device=device,
            threshold=None if threshold is None else finite_number("threshold", threshold),
            alpha=None if alpha is None else finite_number("alpha", alpha),
            threads=threads,
            max_pixels=whole_number_above_0("max_pixels", max_pixels),
        )
        if finite_number("wait", wait) < 0:
            raise UsageError(f"wait={wait}: must be a number of seconds, at least 0")
        self.root = None if root is None else Path(os.path.abspath(place("root", root)))
        if self.root is not None and not self.root.is_dir():
            raise MissingError(f"{root}: no such folder; name the one from which ids are to be seen")
        self._settings = settings | {"wait": wait, "root": self.root, "geometry": geometry, "regions": regions}
        self._lock = RLock()
        self.encoder = Encoder(place("engine", engine), **settings)
        self._threads = threads or available_cores()
        self.index_path = place("index", index) if index is not None else EngineFiles.of(self.encoder.path).index
        if regions:
            self.encoder.first_stage.for_regions(whole_number_above_0("regions", regions))
        self._engine = self.encoder.path.absolute()  # whatever the current folder is later
        self._place = self._place_of(
            IndexPlace(self.index_path.absolute(), self.index_path, self.encoder, geometry, regions, wait)
        )
        self.index: AnyIndex | None = self._place.opened()
        self._rerankers = Rerankers.beside(
            self.encoder.path,
            matcher,
            self._place.folder,
            encoder=self.encoder,
            device=device,
            threads=threads,
            max_pixels=max_pixels,
        )
        self._settings["matcher"] = self._rerankers.matcher
        self._searcher: Searcher | None = None  # of the index, made at the first search
        self._searched: AnyIndex | None = None
        self._closed = False
        renew_after_fork(self)

    def _place_of(self, place: IndexPlace) -> IndexPlace:
        """Where the index lies: as a folder, unless a kind of retriever has others."""
        return place

    def renew_after_fork(self) -> None:
        """Lets go of what other threads held."""
        self._lock = RLock()

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
                self.index = self._searcher = self._searched = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens engine and index for itself, by their paths."""
        self._check_open()
        return _open_retriever, (self._engine, self._place.folder, self._settings)

    def __len__(self) -> int:
        self._check_open()
        return len(self.index) if self.index is not None else 0

    def __contains__(self, id_: object) -> bool:
        """Whether a photo of this id, or at this path, is in the index."""
        self._check_open()
        if self.index is None or not isinstance(id_, str | os.PathLike):
            return False
        return bool(self.index.existing(self.index.named([id_], self.root)))

    def rerankers(self) -> list[str]:
        """The names that ``search(..., rerank=)`` takes here: what engine, index and matcher suffice for."""
        self._check_open()
        layout = self._place.layout if self.index is None else self.index.layout
        return self._rerankers.usable(self.index_path, layout)

    def ids(self) -> list[str]:
        """The ids of all photos, in the order of their addition."""
        self._check_open()
        return self.index.ids() if self.index is not None else []

    def add(
        self,
        photos: Iterable[PhotoInput],
        ids: Iterable[str | os.PathLike[str]] | None = None,
        *,
        existing: str = "error",
    ) -> AddReport:
        """Adds photos, a commit at least every thousand photos or half a minute. Those reported are on the disk.

        While another process writes, the work goes on and the photos wait in memory, up to 20,000 of them.

        Args:
            photos: paths, encoded bytes, or H×W×3 uint8 BGR arrays.
            ids: one for each photo, texts or paths; may be None if all photos are paths, which are then their own ids.
            existing: what becomes of ids that are in the index already: ``error``, ``skip`` (the photo of before
                stays, and is not encoded) or ``replace`` (it goes when the new one comes).

        Returns:
            what was added, and why the rest was not: unreadable photos are skipped, not fatal.

        Raises:
            HowlError: an id is missing, named twice or in the index already, or there cannot be an index, and nothing
                was added; or the index cannot be written any more, and earlier commits stay.
        """
        one_of("existing", existing, EXISTING)
        photos = listed(photos, "photos")
        names = names_of(photos, ids, self.root)
        check_ids(self.index_path, names)
        with self._lock:
            self._check_open()
            if self.index is None:
                self.index = self._place.opened()
            if self.index is None:
                Index.ensure_possible(self._place.folder)
            else:
                self.index.ensure_writable()
            known = set(self.index.existing(names)) if self.index is not None and existing != "replace" else set()
        if known and existing == "error":
            raise duplicate(self.index_path, next(name for name in names if name in known))
        items = [item for item in items_of(photos, names) if item.id not in known]
        report = AddReport(present=[name for name in names if name in known], aliases=aliases(items, self._ids_at))
        items, queries = sampled(items) if self._must_measure(len(items)) else items, dict[str, Any]()
        log = self._place.folder.with_name(f"{self._place.folder.name}.reading")
        layout = self._place.layout if self.index is None else self.index.layout
        first_stage = self.encoder.first_stage.for_regions(layout.regions)
        add_items(
            *(items, self.encoder, first_stage, partial(self._index_to_fill, layout.regions), log),
            existing=existing,
            report=report,
            queries=queries,
        )
        if queries:
            try:
                self._keep_strangers(queries)
            except HowlError as error:  # the photos are in the index all the same
                warnings.warn(str(error), RuntimeWarning, stacklevel=2)
        return report

    def aliases(
        self, photos: Iterable[PhotoInput], ids: Iterable[str | os.PathLike[str]] | None = None
    ) -> dict[str, str]:
        """The photos whose files are in the index, or named here, under another id too: by id, that other id.

        Args:
            photos: as ``add`` takes them; only paths have files.
            ids: as ``add`` takes them.
        """
        self._check_open()
        photos = listed(photos, "photos")
        return aliases(items_of(photos, names_of(photos, ids, self.root)), self._ids_at)

    @property
    def _ids_at(self) -> Callable[[Sequence[int]], dict[int, str]] | None:
        return None if self.index is None else self.index.ids_at

    def remove(self, ids: Iterable[str | os.PathLike[str]]) -> None:
        """Removes photos, by id or path, in one commit. Raises HowlError, and removes none, if one is not there."""
        self._existing_index().remove(ids, root=self.root)

    # What photos of different places score. It is measured when an index gets its first photos, and again when it has
    # twice as many.

    @property
    def stranger_score(self) -> float | None:
        """What the best of the photos that show another place typically scores; None if it was not measured.

        An answer below it says little: ``runtime.index.strangers``.
        """
        self._check_open()
        index = self.index
        strangers = None if index is None else index.strangers()
        if index is None or strangers is None or strangers.settings != self.encoder.first_stage.settings:
            return None  # with another τ or α the scores are others
        return strangers.best_of(len(index))

    def measure_strangers(self) -> Strangers:
        """Measures what photos of different places score, with up to 64 photos of the index that can still be read.

        Raises:
            DataError: there are too few of them, or too few in the index.
            HowlError: the index cannot be written.
        """
        index = self._existing_index()
        ids = index.ids()
        sample = ids[:: max(1, len(ids) // SAMPLE)]
        paths = [Path(self.root or "", id_) for id_ in sample]
        encoded = zip(sample, self.encoder.encode_all(paths, self.encoder.encode_query), strict=True)
        queries = {id_: query for id_, (_, query) in encoded if not isinstance(query, ImageError)}
        if (strangers := self._keep_strangers(queries)) is None:
            raise DataError(
                f"{self.index_path}: too few photos to measure the scores of strangers: {len(queries)} of {len(ids)} "
                f"could be read at the paths that are their ids; {LEAST_SAMPLE} of {LEAST_IMAGES} are the least"
            )
        return strangers

    def _must_measure(self, new: int) -> bool:
        strangers = self.index.strangers() if self.index is not None else None
        return strangers is None or len(self) + new >= 2 * strangers.images

    def _keep_strangers(self, queries: Mapping[str, Any]) -> Strangers | None:
        return self._existing_index().measure_strangers(queries, self.encoder.first_stage.settings)

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
            else:
                self.index = self._place.opened()

    def search(
        self,
        photo: PhotoInput,
        top: int = 10,
        *,
        min_score: float | None = None,
        only: Iterable[str | os.PathLike[str]] | None = None,
        exclude: Iterable[str | os.PathLike[str]] = (),
        rerank: str | Reranker | None = None,
        candidates: int | None = None,
        progress: Callable[[str], object] = lambda stage: None,
    ) -> Hits:
        """The photos of the index most similar to ``photo``, best first; fewer than ``top`` if few share anything.

        Args:
            photo: a path, encoded bytes, or an H×W×3 uint8 BGR array.
            top: the maximum number of hits.
            min_score: the least score of a hit, before any re-ranking; ``stranger_score`` is a scale for it.
            only: ids of the photos to search; None for all.
            exclude: ids of photos that are to be no hits.
            rerank: puts the first stage's best hits into a better order: ``spatial`` by geometry, ``similarity`` by
                what they have in common, ``ransac`` by matching the engine's own features, ``lightglue`` by matching
                the photos, ``spatial+similarity`` and ``similarity+ransac`` by one after the other, or a re-ranker with
                other settings (``runtime.rerank``).
            candidates: how many of them it looks at; None for its own number. The others follow as they are.
            progress: is called at the end of each stage, with its name: ``decode``, ``extract``, ``encode``,
                ``search`` and, where there is one, ``rerank``, which re-rankers that match photos also end for each.
                What it raises ends the search.

        Raises:
            ImageError: the photo cannot be read.
            MissingError: there is no index.
            UnknownIdError: one of ``only`` is not in the index.
            IncompatibleError: the engine or the index lacks what the re-ranker needs.
            HowlError: what the re-ranker says, such as that a matcher or a photo of the index is not there.
            UsageError: ``top`` or ``candidates`` is no whole number above 0, ``min_score`` no finite number, ``only``
                or ``exclude`` no list, or ``rerank`` is no re-ranker.
        """
        index, top = self._existing_index(), whole_number_above_0("top", top)
        least = _least(min_score)
        order = HitOrder(self._rerankers.of(rerank), candidates)
        image = self.encoder.load(photo)
        progress("decode")
        features = self.encoder.extract_loaded(image)
        progress("extract")
        encoded = self.encoder.encode_query(features, threads=self._threads)
        progress("encode")
        hits = self._searcher_of(index).search(encoded, max(top, order.count), only=only, exclude=exclude)
        hits = hits.above(least)
        progress("search")
        if order.reranker is not None:
            advance = partial(progress, "rerank")
            query = Query(photo, encoded, self.encoder.first_stage.settings, features, advance)
            hits = order.apply(query, hits, index, self.root)
            progress("rerank")
        return hits.best(top)

    def search_many(
        self,
        photos: Iterable[PhotoInput],
        top: int = 10,
        *,
        min_score: float | None = None,
        only: Iterable[str | os.PathLike[str]] | None = None,
        exclude: Iterable[str | os.PathLike[str]] = (),
        rerank: str | Reranker | None = None,
        candidates: int | None = None,
        skipped: dict[int, str] | None = None,
    ) -> list[Hits]:
        """``search`` for each of the photos, a few at a time, so that all cores are busy.

        Args:
            photos: as ``search`` takes them.
            top: the maximum number of hits of each.
            min_score: as in ``search``.
            only: as in ``search``.
            exclude: as in ``search``.
            rerank: as in ``search``.
            candidates: as in ``search``.
            skipped: takes the reason, by position, of every photo that cannot be read, which then has no hits; without
                it, the first such photo is an error.

        Raises:
            ImageError: a photo cannot be read.
            HowlError: as from ``search``; also if ``photos`` is a single one.
        """
        index, top = self._existing_index(), whole_number_above_0("top", top)
        least = _least(min_score)
        if skipped is not None and not isinstance(skipped, dict):
            raise UsageError(f"skipped: a dict is needed, not {type(skipped).__name__}")
        only, exclude = None if only is None else ids_of(only, "only"), ids_of(exclude, "exclude")
        order = HitOrder(self._rerankers.of(rerank), candidates)
        searcher, settings = self._searcher_of(index), self.encoder.first_stage.settings

        def hits_of(features: Features) -> tuple[Features, Any, Hits]:
            encoded = self.encoder.encode_query(features)
            hits = searcher.search(encoded, max(top, order.count), only=only, exclude=exclude)
            return features, encoded, hits.above(least)

        answers: list[Hits] = []
        for photo, found in self.encoder.encode_all(listed(photos, "photos"), hits_of):
            if not isinstance(found, ImageError):
                features, encoded, hits = found
                query = Query(photo, encoded, settings, features)
                answers.append(order.apply(query, hits, index, self.root).best(top))
            elif skipped is None:
                raise found
            else:
                skipped[len(answers)] = str(found)
                answers.append(Hits())
        return answers

    def _searcher_of(self, index: AnyIndex) -> Searcher:
        """What searches the index: itself, or a GPU, to which it is copied when it is first searched."""
        with self._lock:
            self._check_open()
            if self._searcher is None or self._searched is not index:
                self._searcher = None  # frees the memory of another index first
                self._searcher = self.encoder.first_stage.searcher(index)
                self._searched = index
            return self._searcher

    def _existing_index(self) -> AnyIndex:
        index = self.index  # another thread may close the retriever meanwhile
        self._check_open()
        if index is None:
            raise MissingError(f"{self.index_path}: no index here; add photos first (howl index)")
        return index

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("this retriever is closed; open another one")

    def _index_to_fill(self, regions: int) -> AnyIndex:
        """The index, made if there is none.

        Raises IncompatibleError if another process has made one meanwhile that aggregates by other regions.
        """
        with self._lock:
            self._check_open()
            if self.index is None:
                self.index = self._place.made()
            self._place.check_regions(self.index, regions)
            return self.index


def _least(min_score: float | None) -> float:
    """The least score of a hit. Raises UsageError if it is no finite number."""
    return -math.inf if min_score is None else finite_number("min_score", min_score)


def _open_retriever(engine: Path, index: Path, settings: dict[str, Any]) -> Retriever:
    return Retriever(engine, index, **settings)
