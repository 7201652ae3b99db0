"""Three sources of training photos behind one interface, ``PhotoSet``: synthetic scenes, a folder, SfM-120k."""

from pathlib import Path

from runtime.errors import HowlError
from runtime.io.image import scenes_below
from train.data.folder import folder_photos
from train.data.labelled import PhotoSet
from train.data.sfm120k import sfm120k, sfm120k_validation
from train.data.synthetic import synthetic_scenes

HELD_OUT = 5  # every fifth scene of a folder is kept for validation
SYNTHETIC_VIEWS = 8
SYNTHETIC_TRAINING_SCENES = 40
SYNTHETIC_VALIDATION_SCENES = 16


def open_data(data: str, *, image_size: int, seed: int, root: Path) -> tuple[PhotoSet, PhotoSet]:
    """Training and validation photos of a source; their scenes do not overlap.

    Args:
        data: ``scenes`` (made), ``sfm120k``, or a folder with one folder a scene.
        image_size: longest side, in pixels, that photos are shrunk to.
        seed: of synthetic scenes.
        root: folder that holds published data sets.

    Raises:
        HowlError: the data is missing, or too little to train on; the line says what to put where.
    """
    if data == "scenes":
        made = {"views": SYNTHETIC_VIEWS, "image_size": image_size}
        return (
            synthetic_scenes(scenes=SYNTHETIC_TRAINING_SCENES, seed=2 * seed, **made),
            synthetic_scenes(scenes=SYNTHETIC_VALIDATION_SCENES, seed=2 * seed + 1, **made),
        )
    if data == "sfm120k":
        return sfm120k(root, "train", image_size), sfm120k_validation(root, image_size)
    return _split_folder(Path(data), image_size)


def _split_folder(root: Path, image_size: int) -> tuple[PhotoSet, PhotoSet]:
    """Every fifth scene with at least two photos validates; where that is no two scenes, all serve as both.

    Among the photos of one scene every answer would be right.
    """
    scenes = scenes_below(root)
    pairable = [name for name, photos in scenes.items() if len(photos) > 1]
    if not pairable or len(scenes) < 2:
        raise HowlError(f"{root}: training needs two scenes at least, and two photos in one of them")
    held_out = set(pairable[HELD_OUT - 1 :: HELD_OUT])
    if len(held_out) < 2:
        everything = folder_photos(root, scenes, image_size)
        return everything, everything
    return (
        folder_photos(root, {name: p for name, p in scenes.items() if name not in held_out}, image_size),
        folder_photos(root, {name: p for name, p in scenes.items() if name in held_out}, image_size),
    )


__all__ = ["PhotoSet", "open_data"]
