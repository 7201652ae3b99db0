"""The revisited Oxford and Paris sets (Radenović et al., CVPR 2018) in their published layout.

ROOT/test/roxford5k/gnd_roxford5k.pkl     imlist, qimlist, gnd (bbx, easy, hard, junk of every query)
ROOT/test/roxford5k/jpg/NAME.jpg          the photos of both lists
ROOT/test/rparis6k/                       likewise
ROOT/test/revisitop1m/revisitop1m.txt     the names of a million distractors, which lie in jpg/ beside it

``ROOT/datasets`` does as well as ``ROOT/test``: HOW's code has the one, the authors' the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from runtime.errors import DamagedError, ImageError, MissingError
from runtime.io.image import MIN_SIDE, Image, decode, shrink_to_rgb
from runtime.io.unpickle import load_plain_pickle
from train.data.labelled import LabelledPhotos, Truth

Box: TypeAlias = tuple[float, float, float, float]  # left, top, right, bottom, in pixels

FOLDERS = ("test", "datasets")
LABELS_URL = "http://cmp.felk.cvut.cz/revisitop/data/datasets"
OXFORD_URL = "https://www.robots.ox.ac.uk/~vgg/data/oxbuildings"
PARIS_URL = "https://www.robots.ox.ac.uk/~vgg/data/parisbuildings"
ARCHIVES = {
    "roxford5k": (f"{OXFORD_URL}/oxbuild_images-v1.tgz",),
    "rparis6k": (f"{PARIS_URL}/paris_1-v1.tgz", f"{PARIS_URL}/paris_2-v1.tgz"),
}
REVISITED = tuple(ARCHIVES)
MILLION_URL = "http://ptak.felk.cvut.cz/revisitop/revisitop1m"
SETTINGS = ("easy", "medium", "hard")


@dataclass(frozen=True)
class Labels:
    """What is known of one query.

    Attributes:
        box: that the query's photo is cropped to.
        easy: int64 [e], numbers of photos.
        hard: int64 [h], likewise.
        junk: int64 [j], likewise.
    """

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


def open_revisited(name: str, root: Path, image_size: int | None) -> LabelledPhotos:
    """``roxford5k`` or ``rparis6k``: the photos that are searched, and after them the queries, cut out of theirs.

    Args:
        name: of the set.
        root: folder that holds published data sets.
        image_size: longest side, in pixels, that photos are shrunk to; None leaves them as they are.

    Raises:
        HowlError: labels or photos are missing or not as they were published; the line says what to put where.
    """
    folder = published_folder(root, name)
    path, jpg = folder / f"gnd_{name}.pkl", folder / "jpg"
    hint = f"put the photos of {' and '.join(ARCHIVES[name])} right into {jpg}, without folders"
    if not (path.exists() and jpg.is_dir()):
        raise MissingError(
            f"{folder}: {name} is not here, or not whole: put {LABELS_URL}/{name}/{path.name} into it; {hint}; or name "
            f"the folder that holds {FOLDERS[0]}/ with --root"
        )
    photo_names, query_names, labels = read_labels(path)
    names = [*photo_names, *query_names]
    paths = [jpg / f"{photo}.jpg" for photo in names]
    queries = dict(enumerate(labels, start=len(photo_names)))

    def read(number: int) -> Image:
        box = queries[number].box if number in queries else None
        return read_photo(paths[number], image_size, upright=False, box=box)

    truths = {setting: {query: of.truths()[setting] for query, of in queries.items()} for setting in SETTINGS}
    return LabelledPhotos(
        names,
        None,
        read,
        truths,
        database_size=len(photo_names),
        paths=paths,
        source=name,
        labels=path,
        hint=hint,
    )


def read_photo(path: Path, image_size: int | None, *, upright: bool = True, box: Box | None = None) -> Image:
    """A photo or what lies in a box of it, as the published code shrinks it; nothing is enlarged.

    A box is cut out before the photo is shrunk, and then has the size that it would have after: its longest side is
    image_size · max(box) / max(photo), rounded down.

    Args:
        path: of the photo.
        image_size: longest side of the whole photo, in pixels; None leaves it as it is.
        upright: whether the photo is turned as its EXIF says. Published boxes count pixels as files store them.
        box: what is cut out, its sides at the nearest pixels' edges; None for the whole photo.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        ImageError: the photo cannot be read, or too little of it lies in the box.
    """
    bgr = decode(path, upright=upright)
    if box is None:
        return shrink_to_rgb(bgr, image_size)
    left, top, right, bottom = np.maximum(np.rint(box), 0).astype(int)
    part = bgr[top:bottom, left:right]
    height, width = part.shape[:2]
    if min(height, width) < MIN_SIDE:
        raise ImageError(f"{path}: {width}×{height} pixels in its box are too few: a side needs {MIN_SIDE}")
    longest_side = None if image_size is None else int(image_size * max(height, width) / max(bgr.shape[:2]))
    return shrink_to_rgb(part, longest_side)


def million(root: Path) -> tuple[dict[str, Path], str]:
    """The distractors of both sets: their photos, by the names on the list, and how to get them.

    Raises:
        HowlError: the list is missing or not readable; the line says what to put where.
    """
    folder = published_folder(root, "revisitop1m")
    path, jpg = folder / "revisitop1m.txt", folder / "jpg"
    hint = f"unpack {MILLION_URL}/jpg/revisitop1m.1.tar.gz to revisitop1m.100.tar.gz into {jpg}"
    if not path.exists():
        raise MissingError(
            f"{folder}: the distractors are not here: put {MILLION_URL}/{path.name} into it; {hint}; or name the "
            f"folder that holds {FOLDERS[0]}/ with --root"
        )
    try:
        photos = {name: jpg / name for name in path.read_text(encoding="utf-8").split()}
    except (OSError, UnicodeDecodeError):
        photos = {}
    if not photos:
        raise DamagedError(f"{path}: no list of names; fetch it again from {MILLION_URL}/{path.name}")
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
        raise DamagedError(f"{path}: not in the published layout: {error}; fetch it again from {url}") from None
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
