"""The sources of labelled photos by the names that users give them: for training, and for evaluation."""

from pathlib import Path

from runtime.errors import MissingError
from train.data.folder import open_folder, split_folder
from train.data.labelled import LabelledPhotos, refuse_missing
from train.data.revisited import REVISITED, open_revisited
from train.data.sfm120k import SFM120K, open_sfm120k, open_sfm120k_validation
from train.data.synthetic import split_scenes

SYNTHETIC = "scenes"
PUBLISHED = (*REVISITED, SFM120K)  # what can be evaluated on by name


def open_data(data: str, *, image_size: int, seed: int, root: Path) -> tuple[LabelledPhotos, LabelledPhotos]:
    """Training and validation photos of a source; their scenes do not overlap, but in a folder of very few scenes.

    Args:
        data: ``scenes`` (synthetic), ``sfm120k``, or a folder with one folder a scene.
        image_size: longest side, in pixels, that photos are shrunk to.
        seed: of synthetic scenes.
        root: folder that holds published data sets.

    Raises:
        HowlError: the data is missing, or too little to train on; the line says what to put where.
    """
    if data == SYNTHETIC:
        return split_scenes(image_size=image_size, seed=seed)
    if data == SFM120K:
        return open_sfm120k(root, "train", image_size), open_sfm120k_validation(root, image_size)
    return split_folder(Path(data), image_size)


def open_set(data: str, *, root: Path, image_size: int | None = None) -> LabelledPhotos:
    """The photos to evaluate on: a published set with all of its photos, or a folder of folders.

    Args:
        data: ``roxford5k``, ``rparis6k``, ``sfm120k`` (its validation photos), or a folder with one folder a scene.
        root: folder that holds published data sets.
        image_size: longest side, in pixels, that photos are shrunk to; None leaves them as they are.

    Raises:
        HowlError: labels or photos are missing or not as they were published; the line says what to put where.
    """
    if data in REVISITED:
        photos = open_revisited(data, root, image_size)
    elif data == SFM120K:
        photos = open_sfm120k_validation(root, image_size)
    elif Path(data).exists():
        photos = open_folder(data, image_size)
    else:
        raise MissingError(f"{data}: no such folder, nor a published set ({', '.join(PUBLISHED)})")
    if photos.hint:
        refuse_missing(photos.paths, photos.hint)
    return photos
