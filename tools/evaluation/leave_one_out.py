"""Sets whose queries are among the searched photos, where each is left out: folders of folders, SfM-120k."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from runtime.io.image import scenes_below
from tools.evaluation.datasets import ALL, LabelledSet, Query, refuse_missing
from tools.evaluation.metrics import Truth
from train.data.sfm120k import FOLDER, LISTS, PHOTOS_URL, VALIDATION_LIST, photo_path, sfm120k_validation


def folder_set(data: str) -> LabelledSet:
    """A user's own photos, one folder a scene: every photo is a query, the others of its scene are right.

    Raises:
        HowlError: the folder is missing, or none of its folders holds a photo.
    """
    scenes = list(scenes_below(Path(data)).values())
    photos = [path for scene in scenes for path in scene]
    ends = np.cumsum([len(scene) for scene in scenes])

    def truths(query: int) -> Mapping[str, Truth]:
        scene = int(np.searchsorted(ends, query, side="right"))
        same = np.arange(ends[scene] - len(scenes[scene]), ends[scene])
        return {ALL: Truth(same[same != query], np.array([query]))}

    return LabelledSet(data, photos, [Query(path, number) for number, path in enumerate(photos)], truths)


def sfm120k_set(data: str, root: Path) -> LabelledSet:
    """The validation photos of retrieval-SfM-120k: HOW's list (val_eccv20) where it is present, else the split ``val``.

    Raises:
        HowlError: the lists or photos are missing or not as they were published; the line says what to put where.
    """
    labelled = sfm120k_validation(root, image_size=0)  # no photo is read by it
    folder = root / FOLDER
    photos = [photo_path(folder, cid) for cid in labelled.names]
    hint = f"unpack {PHOTOS_URL} into {folder / 'ims'}"
    refuse_missing(photos, hint)
    asked = labelled.queries().tolist()

    def truths(query: int) -> Mapping[str, Truth]:
        return {ALL: Truth(labelled.positives(asked[query]), labelled.junk(asked[query]))}

    lists = folder / VALIDATION_LIST
    return LabelledSet(
        data,
        photos,
        [Query(photos[number], number) for number in asked],
        truths,
        labels=lists if lists.exists() else folder / LISTS,
        hint=hint,
    )
