"""What can be measured on: photos to search among, queries, and what is right, wrong or neither for each query."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

from runtime.errors import HowlError
from tools.evaluation.metrics import Truth

Box: TypeAlias = tuple[float, float, float, float]  # left, top, right, bottom, in pixels

ALL = "all"  # the setting of a set that has one


class Query(NamedTuple):
    """A photo, or a box of one, that is searched for.

    Attributes:
        path: of the photo.
        number: its place among the photos of the set; None for one that is not searched.
        box: what is searched for; None for the whole photo.
    """

    path: Path
    number: int | None = None
    box: Box | None = None


@dataclass(frozen=True)
class LabelledSet:
    """Photos and queries with their right answers.

    Attributes:
        data: the name that the user gave.
        photos: that are searched.
        queries: what they are searched for.
        settings: by which a query may be judged, in the order of the report.
        truths: the truth of a query, given by its number, for every setting; photos go by their place in ``photos``.
        labels: the file that the truths come from; None where folders tell.
        hint: how to get photos that are missing or broken; None where these are left out. Figures of a published set
            can be compared only if all photos were there.
        upright: whether photos are turned as their EXIF says. Published boxes count pixels as files store them.
    """

    data: str
    photos: Sequence[Path]
    queries: Sequence[Query]
    truths: Callable[[int], Mapping[str, Truth]]
    settings: tuple[str, ...] = (ALL,)
    labels: Path | None = None
    hint: str | None = None
    upright: bool = True


def refuse_missing(photos: Sequence[Path], hint: str) -> None:
    """Raises HowlError where files are missing, before any work is done on the others."""
    if missing := [path for path in photos if not path.exists()]:
        others = f", and {len(missing) - 1} more of {len(photos)} photos" if len(missing) > 1 else ""
        raise HowlError(f"{missing[0]}: missing{others}; {hint}")
