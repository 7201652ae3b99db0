"""Finding photos in folders, and counting what is passed over."""

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import MissingError

PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif"})
PHOTO_SUFFIXES |= {".heic", ".heif", ".avif", ".jp2", ".pbm", ".pgm", ".pnm", ".ppm"}
NO_PERMISSION = "folder without permission"


@dataclass(frozen=True)
class Found:
    """What there is in some folders.

    Attributes:
        photos: each once, in the order of the paths that were named, sorted within each folder.
        passed_over: how many files there are of every other kind, by suffix, and folders that cannot be opened.
    """

    photos: list[Path]
    passed_over: Counter[str]


def find_photos(paths: Iterable[str | Path]) -> list[Path]:
    """``look_for_photos``, where nobody asks what is passed over."""
    return look_for_photos(paths).photos


def look_for_photos(paths: Iterable[str | Path]) -> Found:
    """The photos among files and, recursively, folders. Files that are named are taken whatever they are called.

    Raises:
        MissingError: a path does not exist, or there is no photo in any of them.
    """
    roots = [Path(path) for path in paths]
    photos: dict[Path, None] = {}
    passed_over: Counter[str] = Counter()
    for path in roots:
        if path.is_dir():
            found = _below(path)
            photos.update(dict.fromkeys(found.photos))
            passed_over += found.passed_over
        elif path.exists():
            photos[path] = None
        else:
            raise MissingError(f"{path}: no such file or folder")
    if not photos:
        raise MissingError(f"{', '.join(map(str, roots))}: no photos ({' '.join(sorted(PHOTO_SUFFIXES))}) found here")
    return Found(list(photos), passed_over)


def scenes_below(root: Path) -> dict[str, list[Path]]:
    """The photos of every scene, by its name: each folder directly below ``root`` is a scene.

    Raises:
        MissingError: the folder is missing, or none of its folders holds a photo.
    """
    if not root.is_dir():
        raise MissingError(f"{root}: no such folder; name one that holds a folder for each scene")
    folders = (entry for entry in sorted(root.iterdir()) if entry.is_dir() and not entry.name.startswith("."))
    scenes = {folder.name: photos for folder in folders if (photos := _below(folder).photos)}
    if not scenes:
        unlabelled = f"; for photos without labels: howl init {root}" if loose_photos(root) else ""
        raise MissingError(
            f"{root}: no photos in its folders; put the photos of each scene into a folder of its own{unlabelled}"
        )
    return scenes


def loose_photos(root: Path) -> dict[str, str]:
    """The photos that lie beside the folders of the scenes: by name, why each belongs to none."""
    loose = [entry for entry in sorted(root.iterdir()) if is_photo(entry) and not entry.is_dir()]
    return {entry.name: f"{entry}: in no scene's folder; move it into one" for entry in loose}


def is_photo(path: Path) -> bool:
    """Whether a file's name says that it is a photo."""
    return path.suffix.lower() in PHOTO_SUFFIXES and not path.name.startswith(".")


def describe_passed_over(passed_over: Counter[str]) -> str:
    """How a command names what it passed over, by kind."""
    return "passed over: " + ", ".join(f"{count} {kind}" for kind, count in passed_over.most_common())


def _below(root: Path) -> Found:
    """What there is in a folder and its subfolders, also behind symbolic links; hidden ones are skipped."""
    photos: list[Path] = []
    passed_over: Counter[str] = Counter()
    visited: set[tuple[int, int]] = set()  # a link may lead back, or to a folder that is reached in another way too

    def refused(error: OSError) -> None:
        passed_over[NO_PERMISSION] += 1

    for name, folders, files in os.walk(root, followlinks=True, onerror=refused):
        status = os.stat(name)
        if (status.st_dev, status.st_ino) in visited:
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
        for file in files:
            path = Path(name, file)
            if is_photo(path):
                photos.append(path)
            elif not file.startswith("."):
                passed_over[path.suffix.lower() or "without a suffix"] += 1
    return Found(sorted(photos), passed_over)
