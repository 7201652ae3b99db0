"""Labelled photos: the one class that every source of photos gives, for training, visual words and evaluation alike."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from runtime.errors import ImageError, MissingError
from runtime.io.image import Image
from runtime.io.prefetch import prefetch_map

ALL = "all"  # the setting of photos that are evaluated in one way only
NONE = np.empty(0, np.int64)


class Truth(NamedTuple):
    """What is known of a query; all other photos are wrong answers.

    Attributes:
        positives: int64 [p], the right answers.
        junk: int64 [j], answers that are neither right nor wrong.
    """

    positives: NDArray[np.int64]
    junk: NDArray[np.int64] = NONE


class LabelledPhotos:
    """Photos, the scene that each shows, and what is right, wrong or neither for each query.

    A photo goes by its number, and so does a query. The first ``database_size`` photos are searched. Those after them
    only query, such as the cropped queries of the revisited sets.

    Attributes:
        names: of the photos, for messages and for the progress of a training run.
        scenes: int64 [n], the scene of each photo; negatives come from other scenes.
        database_size: how many of the photos are searched.
        settings: the ways in which a query may be evaluated, in the order of a report.
        paths: the files of the photos; empty where they are in no files.
        source: what the user named: a folder, or a data set.
        labels: the file that the truths come from, if they come from one.
        load: gives a photo by its number, or raises ImageError.
        hint: how to get photos that are missing or broken. Only a published set has one: its figures can be compared
            only if all photos were there.
        usable: bool [n], False once a photo has turned out unreadable.
        unreadable: the reason, by the photo's name.
    """

    def __init__(
        self,
        names: Sequence[str],
        scenes: Sequence[int] | NDArray[np.int64] | None,
        read: Callable[[int], Image],
        truths: Mapping[str, Mapping[int, Truth]] | None = None,
        *,
        database_size: int | None = None,
        paths: Sequence[Path] = (),
        source: str = "",
        labels: Path | None = None,
        hint: str | None = None,
    ) -> None:
        """Brings the parts together; no photo is read.

        Args:
            names: one for each photo.
            scenes: one for each photo; None if only ``truths`` tells, and every photo is a scene of its own.
            read: gives photo ``i``, RGB uint8 [H, W, 3], at the size at which it is used, or raises ImageError.
            truths: setting → query → its truth. Without it any photo may query and matches the others of its scene.
            database_size: default: all photos are searched.
            paths: see the attributes, as for the arguments after it.
        """
        self.names = list(names)
        self.scenes = np.arange(len(self.names)) if scenes is None else np.asarray(scenes, np.int64)
        self.database_size = len(self.names) if database_size is None else database_size
        self.settings = (ALL,) if truths is None else tuple(truths)
        self.paths = list(paths)
        self.source = source
        self.labels = labels
        self.hint = hint
        self.usable = np.ones(len(self.names), bool)
        self.unreadable: dict[str, str] = {}
        self.load = read
        self._truths = truths

    def __len__(self) -> int:
        return len(self.names)

    def read(self, number: int) -> Image | None:
        """The photo, or None where it is unreadable: it is then left out from here on, its name kept."""
        try:
            return self.load(number)
        except ImageError as error:
            self.drop(number, str(error))
            return None

    def read_all(self, numbers: Iterable[int]) -> Iterator[tuple[int, Image | None]]:
        """Pairs of number and photo, in order, read ahead."""
        return prefetch_map(self.read, numbers)

    def drop(self, number: int, reason: str) -> None:
        """Leaves a photo out from here on."""
        self.usable[number] = False
        self.unreadable[self.names[number]] = reason

    def leave_out(self, unreadable: Mapping[str, str]) -> None:
        """Drops photos by their names, for the reasons given; names that are not in the set are passed over."""
        for number, name in enumerate(self.names):
            if name in unreadable:
                self.drop(number, unreadable[name])

    def positives(self, query: int, setting: str = ALL) -> NDArray[np.int64]:
        """int64 [p]: the usable photos that match a query, itself not among them."""
        if self._truths is None:
            matches = np.flatnonzero(self.scenes == self.scenes[query])
        else:
            truth = self._truths[setting].get(query)
            matches = NONE if truth is None else truth.positives
        return matches[self.usable[matches] & (matches != query)]

    def junk(self, query: int, setting: str = ALL) -> NDArray[np.int64]:
        """int64 [j]: the searched photos that count neither for nor against a query.

        These are itself, unreadable photos, and those that the set names.
        """
        truth = None if self._truths is None else self._truths[setting].get(query)
        ignored = ~self.usable[: self.database_size]
        ignored[query : query + 1] = True  # nothing, where the query is not searched itself
        return np.concatenate([NONE if truth is None else truth.junk, np.flatnonzero(ignored)])

    def truths(self, query: int) -> dict[str, Truth]:
        """By setting, what is known of a query, for the settings in which it has a usable positive."""
        return {
            setting: Truth(positives, self.junk(query, setting))
            for setting in self.settings
            if len(positives := self.positives(query, setting))
        }

    def queries(self) -> NDArray[np.int64]:
        """int64 [q]: the usable photos that have a positive. In a scene of one photo there is no query."""
        if self._truths is None:
            usable_in_scene = np.bincount(self.scenes[self.usable], minlength=self.scenes.max(initial=0) + 1)
            return np.flatnonzero(self.usable & (usable_in_scene[self.scenes] >= 2))
        candidates = sorted({query for truths in self._truths.values() for query in truths})
        return np.array(
            [q for q in candidates if self.usable[q] and any(len(self.positives(q, s)) for s in self.settings)],
            np.int64,
        )

    def describe(self) -> str:
        """One line: how many photos, scenes and queries."""
        photos = int(self.usable.sum())
        scenes = len(np.unique(self.scenes[self.usable]))
        return f"{photos} photos of {scenes} scenes, {len(self.queries())} can be queries"


def refuse_missing(photos: Sequence[Path], hint: str) -> None:
    """Raises HowlError where files are missing, before any work is done on the others."""
    if missing := [path for path in photos if not path.exists()]:
        others = f", and {len(missing) - 1} more of {len(photos)} photos" if len(missing) > 1 else ""
        raise MissingError(f"{missing[0]}: missing{others}; {hint}")
