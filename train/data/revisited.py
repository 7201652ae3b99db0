"""The revisited Oxford and Paris sets (Radenović et al., CVPR 2018) in their published layout.

ROOT/test/roxford5k/gnd_roxford5k.pkl     imlist, qimlist, gnd (bbx, easy, hard, junk of every query)
ROOT/test/roxford5k/jpg/NAME.jpg          the photos of both lists
ROOT/test/rparis6k/                       likewise
ROOT/test/revisitop1m/revisitop1m.txt     the names of a million distractors, which lie in jpg/ beside it

``ROOT/datasets`` does as well as ``ROOT/test``: HOW's code has the one, the authors' the other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import HowlError
from runtime.io.unpickle import load_plain_pickle
from tools.evaluation.datasets import Box, LabelledSet, Query, refuse_missing
from tools.evaluation.metrics import Truth

FOLDERS = ("test", "datasets")
LABELS_URL = "http://cmp.felk.cvut.cz/revisitop/data/datasets"
OXFORD_URL = "https://www.robots.ox.ac.uk/~vgg/data/oxbuildings"
PARIS_URL = "https://www.robots.ox.ac.uk/~vgg/data/parisbuildings"
ARCHIVES = {
    "roxford5k": (f"{OXFORD_URL}/oxbuild_images-v1.tgz",),
    "rparis6k": (f"{PARIS_URL}/paris_1-v1.tgz", f"{PARIS_URL}/paris_2-v1.tgz"),
}
MILLION_URL = "http://ptak.felk.cvut.cz/revisitop/revisitop1m"
SETTINGS = ("easy", "medium", "hard")


@dataclass(frozen=True)
class Labels:
    """What is known of one query: int64 numbers of photos, and the box that it is cropped to."""

    box: Box
    easy: NDArray[np.int64]
    hard: NDArray[np.int64]
    junk: NDArray[np.int64]

    def truths(self) -> dict[str, Truth]:
        """Easy and hard ones are right in medium; elsewhere the others of the two are junk."""
        return {
            "easy": Truth(self.easy, np.concatenate([self.junk, self.hard])),
            "medium": Truth(np.concatenate([self.easy, self.hard]), self.junk),
            "hard": Truth(self.hard, np.concatenate([self.junk, self.easy])),
        }


def revisited_set(name: str, root: Path) -> LabelledSet:
    """``roxford5k`` or ``rparis6k``.

    Raises:
        HowlError: labels or photos are missing or not as they were published; the line says what to put where.
    """
    folder = published_folder(root, name)
    path, jpg = folder / f"gnd_{name}.pkl", folder / "jpg"
    hint = f"put the photos of {' and '.join(ARCHIVES[name])} right into {jpg}, without folders"
    if not (path.exists() and jpg.is_dir()):
        raise HowlError(
            f"{folder}: {name} is not here, or not whole: put {LABELS_URL}/{name}/{path.name} into it; {hint}; or name "
            f"the folder that holds {FOLDERS[0]}/ with --root"
        )
    photo_names, query_names, labels = read_labels(path)
    photos = [jpg / f"{photo}.jpg" for photo in photo_names]
    queries = [Query(jpg / f"{query}.jpg", box=of.box) for query, of in zip(query_names, labels, strict=True)]
    refuse_missing([*photos, *(query.path for query in queries)], hint)

    def truths(query: int) -> Mapping[str, Truth]:
        return labels[query].truths()

    return LabelledSet(name, photos, queries, truths, SETTINGS, labels=path, hint=hint, upright=False)


def million(root: Path) -> tuple[dict[str, Path], str]:
    """The distractors of both sets: their photos, by the names on the list, and how to get them.

    Raises:
        HowlError: the list is missing or not readable; the line says what to put where.
    """
    folder = published_folder(root, "revisitop1m")
    path, jpg = folder / "revisitop1m.txt", folder / "jpg"
    hint = f"unpack {MILLION_URL}/jpg/revisitop1m.1.tar.gz to revisitop1m.100.tar.gz into {jpg}"
    if not path.exists():
        raise HowlError(
            f"{folder}: the distractors are not here: put {MILLION_URL}/{path.name} into it; {hint}; or name the "
            f"folder that holds {FOLDERS[0]}/ with --root"
        )
    try:
        photos = {name: jpg / name for name in path.read_text(encoding="utf-8").split()}
    except (OSError, UnicodeDecodeError):
        photos = {}
    if not photos:
        raise HowlError(f"{path}: no list of names; fetch it anew from {MILLION_URL}/{path.name}")
    return photos, hint


def published_folder(root: Path, name: str) -> Path:
    """Where a set lies below the root, or where it should."""
    folders = [root / parent / name for parent in FOLDERS]
    return next((folder for folder in folders if folder.is_dir()), folders[0])


def read_labels(path: Path) -> tuple[list[str], list[str], list[Labels]]:
    """The names of the photos, those of the queries, and what is known of every query."""
    content = load_plain_pickle(path)
    try:
        photos, queries = _names(content["imlist"]), _names(content["qimlist"])
        labels = [_labels(truth, len(photos)) for truth in content["gnd"]]
        if len(labels) != len(queries):
            raise ValueError(f"{len(queries)} queries, but labels of {len(labels)}")
    except (KeyError, IndexError, TypeError, ValueError) as error:
        url = f"{LABELS_URL}/{path.parent.name}/{path.name}"
        raise HowlError(f"{path}: not in the published layout: {error}; fetch it anew from {url}") from None
    return photos, queries, labels


def _names(names: Any) -> list[str]:
    if not all(isinstance(name, str) for name in names):
        raise ValueError("imlist and qimlist must be names")
    return [str(name) for name in names]


def _labels(truth: Any, photos: int) -> Labels:
    return Labels(_box(truth["bbx"]), *(_numbers(truth[kind], photos) for kind in ("easy", "hard", "junk")))


def _box(sides: Sequence[float]) -> Box:
    left, top, right, bottom = (float(side) for side in np.ravel(sides))
    if not (left < right and top < bottom and np.isfinite([left, top, right, bottom]).all()):
        raise ValueError(f"bbx {[left, top, right, bottom]} is no box")
    return left, top, right, bottom


def _numbers(numbers: Any, photos: int) -> NDArray[np.int64]:
    found = np.ravel(numbers)
    if found.size == 0:
        return np.empty(0, np.int64)
    if found.dtype.kind not in "iu":
        raise ValueError(f"{found[0]!r} is no number of a photo")
    if found.min() < 0 or found.max() >= photos:
        raise ValueError(f"there are {photos} photos, but labels number {found.min()} to {found.max()}")
    return found.astype(np.int64)
