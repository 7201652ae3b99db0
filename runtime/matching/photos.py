"""The keypoints of a search's answers: kept beside the index, or found again in their photos."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from runtime.errors import ImageError, MissingError
from runtime.index.origin import Origin
from runtime.matching.keypoints import Detector, Keypoints
from runtime.matching.store import KeypointStore, Kind


class PhotoKeypoints:
    """The keypoints of an index's photos. The last ones are remembered: queries have many answers in common."""

    def __init__(
        self, detector: Detector, kept: KeypointStore | None, kind: Kind, *, strongest: int, remembered: int
    ) -> None:
        """Remembers nothing yet.

        Args:
            detector: finds those that are not kept.
            kept: those that are; None if none are.
            kind: of what is kept or would be.
            strongest: of a photo, at most.
            remembered: photos.
        """
        self._detector = detector
        self._kept = kept
        self._kind = kind
        self._strongest = strongest
        self._of: Callable[[str, Path, Origin | None], Keypoints] = lru_cache(remembered)(self._read)

    def of_answers(
        self, ids: Sequence[str], photos: Sequence[Path], advance: Callable[[], object]
    ) -> Iterator[tuple[int, Keypoints]]:
        """The place of every answer whose photo can be read or whose keypoints are kept, and these.

        Warns at the end if there are others.

        Args:
            ids: of the answers.
            photos: their files, which need not be there.
            advance: is called before each; what it raises ends the work.

        Raises:
            MissingError: there are others only.
        """
        unreadable: list[str] = []
        for place, (id_, photo) in enumerate(zip(ids, photos, strict=True)):
            advance()
            try:
                found = self._of(id_, photo, Origin.of(photo))
            except ImageError as error:
                unreadable.append(str(error))
            else:
                yield place, found
        if unreadable and len(unreadable) == len(ids):
            raise MissingError(
                f"{unreadable[0]}; nor can any other answer be read, and their {self._kind.name} are not kept: name "
                f"the folder from which the ids are seen (--root), or keep them (howl index {self._kind.option})"
            )
        if unreadable:
            warnings.warn(
                f"{unreadable[0]}; {len(unreadable)} of {len(ids)} answers could not be matched",
                RuntimeWarning,
                stacklevel=3,
            )

    def _read(self, id_: str, photo: Path, origin: Origin | None) -> Keypoints:
        kept = None if self._kept is None else self._kept.find(id_, origin)
        return (self._detector.detect(photo) if kept is None else kept).strongest(self._strongest)
