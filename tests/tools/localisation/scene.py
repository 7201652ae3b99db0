"""Rendered photos of one place whose cameras are known, and COLMAP's model of them."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from train.data.synthetic.camera import Camera, photographer
from train.data.synthetic.place import place_of
from train.data.synthetic.view import SUPERSAMPLING, render_view

pycolmap = pytest.importorskip("pycolmap", reason="needs pycolmap: pip install '.[localise]'")
pycolmap.logging.minloglevel = 2

SEED, SCENE = 3, 1
WIDTH, HEIGHT = 640, 480


def true_camera(view: int, seed: int = SEED, scene: int = SCENE) -> Camera:
    """The camera of a rendered view, in the pixels that it was drawn at."""
    place = place_of(seed, scene)
    rng = np.random.default_rng([1, seed, scene, view])  # what render_view begins with
    return photographer(rng, place.width, place.height, WIDTH * SUPERSAMPLING, HEIGHT * SUPERSAMPLING)


def colmap_camera(view: int) -> Any:
    focal = true_camera(view).focal / SUPERSAMPLING
    return pycolmap.Camera(
        model="SIMPLE_PINHOLE", width=WIDTH, height=HEIGHT, params=[focal, WIDTH / 2, HEIGHT / 2], camera_id=view + 1
    )


def true_pose(view: int) -> Any:
    camera = true_camera(view)
    return pycolmap.Rigid3d(pycolmap.Rotation3d(camera.axes), -camera.axes @ camera.eye)


def write_view(path: Path, view: int, scene: int = SCENE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), render_view(SEED, scene, view, width=WIDTH, height=HEIGHT)[:, :, ::-1])


def make_model(images: Path, names: dict[str, int], model: Path) -> None:
    """COLMAP's own features and matches of these views, triangulated from their true cameras."""
    database = model.parent / "database.db"
    options = pycolmap.ImageReaderOptions(camera_model="SIMPLE_PINHOLE")
    pycolmap.extract_features(
        database, images, image_names=sorted(names), camera_mode=pycolmap.CameraMode.PER_IMAGE, reader_options=options
    )
    pycolmap.match_exhaustive(database)
    known = pycolmap.Reconstruction()
    with pycolmap.Database.open(database) as stored:
        frames = {frame.frame_id: frame for frame in stored.read_all_frames()}
        pictures = stored.read_all_images()
        for image in pictures:
            camera = colmap_camera(names[image.name])
            camera.camera_id = image.camera_id
            known.add_camera(camera)
        for rig in stored.read_all_rigs():
            known.add_rig(rig)
        for image in pictures:
            frame = frames[image.frame_id]
            frame.rig_from_world = true_pose(names[image.name])
            known.add_frame(frame)
            known.add_image(image)
            known.register_frame(frame.frame_id)
    model.mkdir(parents=True, exist_ok=True)
    made = pycolmap.triangulate_points(known, database, images, model)
    made.write(model)
