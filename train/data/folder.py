"""A folder of folders: a user's own photos, one folder a scene."""

from pathlib import Path

from runtime.errors import DataError
from runtime.io.finding import loose_photos, scenes_below
from runtime.io.image import Image, load_rgb
from train.data.labelled import LabelledPhotos

HELD_OUT = 5  # every fifth scene is kept for validation


def open_folder(folder: str, image_size: int | None) -> LabelledPhotos:
    """All photos of a folder of folders, each of which matches the others of its scene.

    Raises:
        HowlError: the folder is missing, or none of its folders holds a photo.
    """
    photos = folder_photos(Path(folder), scenes_below(Path(folder)), image_size, source=folder)
    photos.unreadable |= loose_photos(Path(folder))
    return photos


def split_folder(root: Path, image_size: int) -> tuple[LabelledPhotos, LabelledPhotos]:
    """Training and validation photos: every fifth scene with at least two photos validates.

    If those are fewer than two scenes, all photos serve as both: among the photos of one scene every answer is right.

    Raises:
        HowlError: the folder is missing, or has too little to train on.
    """
    scenes = scenes_below(root)
    pairable = [name for name, photos in scenes.items() if len(photos) > 1]
    if not pairable or len(scenes) < 2:
        raise DataError(f"{root}: training needs two scenes at least, and two photos in one of them")
    held_out = set(pairable[HELD_OUT - 1 :: HELD_OUT])
    if len(held_out) < 2:
        training = validation = folder_photos(root, scenes, image_size)
    else:
        training, validation = (
            folder_photos(root, {name: p for name, p in scenes.items() if (name in held_out) == held}, image_size)
            for held in (False, True)
        )
    training.unreadable |= loose_photos(root)
    return training, validation


def folder_photos(
    root: Path, scenes: dict[str, list[Path]], image_size: int | None, *, source: str | None = None
) -> LabelledPhotos:
    """The given scenes of a folder; ``image_size`` is the longest side, in pixels, that photos are shrunk to."""
    paths = [path for photos in scenes.values() for path in photos]
    labels = [label for label, photos in enumerate(scenes.values()) for _ in photos]

    def read(number: int) -> Image:
        return load_rgb(paths[number], image_size)

    names = [str(path.relative_to(root)) for path in paths]
    return LabelledPhotos(names, labels, read, paths=paths, source=source or str(root))
