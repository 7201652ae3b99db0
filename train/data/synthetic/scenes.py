"""Synthetic scenes as labelled photos: views of invented buildings, so that training works with no data at all."""

from pathlib import Path

import cv2
import numpy as np

from runtime.io.image import Image
from train.data.labelled import LabelledPhotos
from train.data.synthetic.view import render_view

VIEWS = 8  # of a scene
TRAINING_SCENES = 40
VALIDATION_SCENES = 16


def split_scenes(*, image_size: int, seed: int) -> tuple[LabelledPhotos, LabelledPhotos]:
    """Training and validation photos, of different towns for every seed."""
    return (
        synthetic_scenes(scenes=TRAINING_SCENES, views=VIEWS, image_size=image_size, seed=2 * seed),
        synthetic_scenes(scenes=VALIDATION_SCENES, views=VIEWS, image_size=image_size, seed=2 * seed + 1),
    )


def synthetic_scenes(*, scenes: int, views: int, image_size: int, seed: int) -> LabelledPhotos:
    """Views of synthetic buildings, rendered when they are read.

    Args:
        scenes: number of buildings.
        views: photos of each.
        image_size: longest side, in pixels.
        seed: of the town: the same seed gives the same pixels.
    """

    def read(number: int) -> Image:
        return scene_view(seed, number // views, number % views, image_size)

    names = [view_name(scene, number) for scene in range(scenes) for number in range(views)]
    return LabelledPhotos(names, np.repeat(np.arange(scenes), views), read, source="synthetic scenes")


def write_scenes(folder: Path, *, scenes: int, views: int, image_size: int, seed: int) -> None:
    """The same views as JPEG files: a folder of folders, one a scene."""
    for scene in range(scenes):
        for number in range(views):
            path = folder / view_name(scene, number)
            path.parent.mkdir(parents=True, exist_ok=True)
            bgr = scene_view(seed, scene, number, image_size)[:, :, ::-1]
            cv2.imwrite(str(path), bgr, [cv2.IMWRITE_JPEG_QUALITY, 92])


def view_name(scene: int, number: int) -> str:
    """The file of a view, below the folder that it is written to."""
    return f"building{scene:03d}/view{number:02d}.jpg"


def scene_view(seed: int, scene: int, number: int, image_size: int) -> Image:
    """One view, RGB uint8; every fourth photo is taken upright."""
    long, short = image_size, image_size * 3 // 4
    width, height = (short, long) if number % 4 == 3 else (long, short)
    return render_view(seed, scene, number, width=width, height=height)
