"""The small interface behind which every source of training photos stands."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from runtime.errors import ImageError
from runtime.io.image import Image
from runtime.io.prefetch import prefetch_map


class PhotoSet:
    """Photos with the scene that each shows.

    Attributes:
        names: a name for each photo, for messages.
        scenes: int [n], the scene of each photo; negatives come from other scenes.
        usable: bool [n], False once a photo has turned out unreadable.
        unreadable: the reason, by the photo's name.
    """

    def __init__(
        self,
        names: Sequence[str],
        scenes: Sequence[int] | NDArray[np.int64],
        read: Callable[[int], Image],
        positives: Mapping[int, NDArray[np.int64]] | None = None,
        junk: Mapping[int, NDArray[np.int64]] | None = None,
    ) -> None:
        """``read(i)`` gives photo i, RGB uint8 [H, W, 3], or raises ImageError. ``positives`` maps each query to
        the photos known to match it; without, any photo may query and matches the others of its scene. ``junk`` maps
        queries to photos that are no answers, right or wrong."""
        self.names = list(names)
        self.scenes = np.asarray(scenes, np.int64)
        self.usable = np.ones(len(self.names), bool)
        self.unreadable: dict[str, str] = {}
        self._read = read
        self._positives = positives
        self._junk = junk or {}

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> Image | None:
        """Photo ``index``, or None where it is unreadable: it is then left out from here on, its name kept."""
        try:
            return self._read(index)
        except ImageError as error:
            self.drop(index, str(error))
            return None

    def drop(self, index: int, reason: str) -> None:
        """Leaves a photo out from here on."""
        self.usable[index] = False
        self.unreadable[self.names[index]] = reason

    def leave_out(self, unreadable: Mapping[str, str]) -> None:
        """Drops photos by their names, for the reasons given; names that are not in the set are passed over."""
        for index, name in enumerate(self.names):
            if name in unreadable:
                self.drop(index, unreadable[name])

    def read_all(self, indices: Iterable[int]) -> Iterator[tuple[int, Image | None]]:
        """Pairs of index and photo, in order, read ahead."""
        return prefetch_map(self.read, indices)

    def positives(self, query: int) -> NDArray[np.int64]:
        """The usable photos that match a query, itself not among them."""
        if self._positives is not None:
            matches = self._positives.get(query, np.empty(0, np.int64))
        else:
            matches = np.flatnonzero(self.scenes == self.scenes[query])
        return matches[self.usable[matches] & (matches != query)]

    def junk(self, query: int) -> NDArray[np.int64]:
        """The photos that count neither for nor against a query: itself, and those that its data set names."""
        return np.append(self._junk.get(query, np.empty(0, np.int64)), query)

    def queries(self) -> NDArray[np.int64]:
        """The usable photos that have a positive: a scene with one photo has no query."""
        if self._positives is not None:
            candidates = np.array(sorted(self._positives), np.int64)
        else:
            usable_in_scene = np.bincount(self.scenes[self.usable], minlength=self.scenes.max(initial=0) + 1)
            candidates = np.flatnonzero(usable_in_scene[self.scenes] >= 2)
        return np.array([q for q in candidates if self.usable[q] and len(self.positives(q))], np.int64)

    def describe(self) -> str:
        """One line: how many photos, scenes and queries."""
        photos = int(self.usable.sum())
        scenes = len(np.unique(self.scenes[self.usable]))
        return f"{photos} photos of {scenes} scenes, {len(self.queries())} can be queries"
