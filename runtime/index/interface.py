"""What retrievers and servers ask of an index, whether it is one folder here or has shards on many machines."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from runtime.first_stage import Layout
from runtime.index.hits import Hits
from runtime.index.ids import check_ids, id_of_path, ids_of
from runtime.index.origin import Origin
from runtime.index.strangers import Strangers


class AnyIndex(ABC):
    """An open index. Any thread may use it.

    Attributes:
        path: of the index, as it was named.
        fingerprint: of the engines whose features it holds.
        layout: of its segments.
    """

    path: Path
    fingerprint: str
    layout: Layout

    @abstractmethod
    def close(self) -> None:
        """Lets go of what is open."""

    @abstractmethod
    def __len__(self) -> int:
        """How many images a search can find."""

    @abstractmethod
    def refresh(self) -> None:
        """Takes up what others have committed since."""

    @abstractmethod
    def existing(self, ids: Iterable[str | os.PathLike[str]]) -> list[str]:
        """Those of the ids that are in the index."""

    @abstractmethod
    def below(self, folder: str) -> list[str]:
        """The ids that lie in a folder, as paths; ``.`` has all that are relative."""

    @abstractmethod
    def ids(self) -> list[str]:
        """The ids of all images."""

    @abstractmethod
    def page(self, start: int, stop: int) -> list[str]:
        """``ids()[start:stop]``; both are at least 0."""

    @abstractmethod
    def origins(self, ids: Sequence[str]) -> dict[str, Origin | None]:
        """The files that images came from, by id, as they were then; None for those that came from none."""

    @abstractmethod
    def ids_at(self, places: Sequence[int]) -> dict[int, str]:
        """The id of an image that came from the file at each of these places (``Origin.place``), if there is one."""

    @abstractmethod
    def search(
        self,
        query: Any,
        top: int,
        *,
        only: Iterable[str | os.PathLike[str]] | None = None,
        exclude: Iterable[str | os.PathLike[str]] = (),
    ) -> Hits:
        """The images most similar to a query, best first: ``Index.search``."""

    @abstractmethod
    def located(self, ids: Sequence[str]) -> Sequence[tuple[Any, Any, Any]]:
        """Where images lie: stores, as far as a re-ranker uses one, rows in them, and places among ``ids``."""

    @abstractmethod
    def ensure_writable(self) -> None:
        """Raises HowlError if nothing can be written, before the work that is to be added."""

    @abstractmethod
    def add(
        self,
        ids: Iterable[str | os.PathLike[str]],
        images: Iterable[Any],
        *,
        origins: Iterable[Origin | None] | None = None,
        existing: str = "error",
        wait: float | None = None,
    ) -> list[str]:
        """Adds images; they are on the disk when this returns: ``Index.add``."""

    @abstractmethod
    def remove(self, ids: Iterable[str | os.PathLike[str]], *, root: Path | None = None) -> None:
        """Removes images: ``Index.remove``."""

    @abstractmethod
    def compact(self, progress: Callable[[int], object] = lambda images: None) -> None:
        """Frees the space of removed images: ``Index.compact``."""

    @abstractmethod
    def strangers(self) -> Strangers | None:
        """What photos of different places score here, if it was measured."""

    @abstractmethod
    def measure_strangers(self, queries: Mapping[str, Any], settings: Mapping[str, Any]) -> Strangers | None:
        """Measures what photos of different places score, and keeps it.

        Args:
            queries: images of the index, encoded as queries, by id; 64 are enough.
            settings: of the search.

        Returns:
            None if there are too few images: ``Strangers.measure``.
        """

    def _addition(
        self,
        ids: Iterable[str | os.PathLike[str]],
        images: Iterable[Any],
        origins: Iterable[Origin | None] | None,
    ) -> tuple[list[str], list[Any], list[Origin | None]]:
        """The arguments of ``add`` as lists. Raises HowlError for ids that are no ids, or named twice."""
        names, encoded = ids_of(ids), list(images)
        files: list[Origin | None] = [None] * len(names) if origins is None else list(origins)
        if not len(names) == len(encoded) == len(files):
            raise ValueError(f"{len(names)} ids for {len(encoded)} images from {len(files)} files")
        check_ids(self.path, names)
        return names, encoded, files

    def named(self, ids: Iterable[str | os.PathLike[str]], root: Path | None = None) -> list[str]:
        """The ids that ids or paths of photos stand for, each once: one that is in the index stands for itself.

        Args:
            ids: "./a.jpg" stands for "a.jpg".
            root: the folder from which the ids of paths are seen, as when they were added.

        Raises:
            IdError: a path lies outside ``root``.
        """
        texts = list(dict.fromkeys(ids_of(ids)))
        known = set(self.existing(texts))
        return list(dict.fromkeys(text if text in known else id_of_path(text, root) for text in texts))

    def selected(self, names: Iterable[str | os.PathLike[str]], root: Path | None = None) -> list[str]:
        """``named``, where a folder stands for all ids that lie in it, named by its id or as a path."""
        return list(dict.fromkeys(id_ for name in ids_of(names) for id_ in self._selected(name, root)))

    def _selected(self, name: str, root: Path | None) -> list[str]:
        if self.existing([name]):
            return [name]
        if name and (below := self.below(str(Path(name)))):
            return below
        id_ = id_of_path(name, root)
        return [id_] if self.existing([id_]) else self.below(id_) or [id_]
