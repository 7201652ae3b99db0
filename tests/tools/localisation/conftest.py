"""A scene with known cameras, its model, and an index of its photos."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from runtime import Retriever

DATABASE, QUERIES = range(8), range(20, 23)


@dataclass(frozen=True)
class Scene:
    """Where the parts of a scene are.

    Attributes:
        images: the folder of all photos: ``db`` and ``queries``.
        model: COLMAP's.
        index: of the photos in ``db``; ids are paths as seen from ``images``.
        cameras: a list of the queries' cameras.
    """

    images: Path
    model: Path
    index: Path
    cameras: Path


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory, exported: Path) -> Scene:
    """Eight photos of a place with a model of them, and three more that are to be placed. Not to be changed."""
    from .scene import colmap_camera, make_model, write_view  # late: skipped where there is no pycolmap

    folder = tmp_path_factory.mktemp("scene")
    images = folder / "images"
    names = {f"db/view{view:02d}.png": view for view in DATABASE}
    for name, view in names.items():
        write_view(images / name, view)
    for view in QUERIES:
        write_view(images / "queries" / f"view{view:02d}.png", view)
    make_model(images, names, folder / "sfm")
    with Retriever(exported / "engine.onnx", folder / "index", root=images, device="cpu") as retriever:
        retriever.add(sorted((images / "db").iterdir()))
    lines = []
    for view in QUERIES:
        camera = colmap_camera(view)
        parameters = " ".join(map(str, camera.params))
        lines.append(f"view{view:02d}.png {camera.model_name} {camera.width} {camera.height} {parameters}\n")
    cameras = folder / "cameras.txt"
    cameras.write_text("# the queries\n\n" + "".join(lines))
    return Scene(images, folder / "sfm", folder / "index", cameras)
