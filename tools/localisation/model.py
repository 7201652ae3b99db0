"""A COLMAP model to localise photos in: which photo of an index is which of its images, and how deep its pixels lie."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import DamagedError, DependencyError, IncompatibleError, MissingError
from runtime.lazy import lazy_property

NEIGHBOURS = 8  # observed points that tell the depth of a pixel
REACH = 0.05  # of the longest side: how far away they may lie
LEAST_NEIGHBOURS = 4
FLAT = 0.1  # of the depth: how far the neighbours may lie from one plane
STIFFNESS = 0.02  # of the slopes of that plane, against the weights of the neighbours: few of them give none


def import_pycolmap() -> Any:
    """COLMAP's Python package. Raises DependencyError if it is not installed."""
    try:
        import pycolmap
    except ImportError:
        raise DependencyError("localisation needs pycolmap: in howl's folder, pip install '.[localise]'") from None
    pycolmap.logging.minloglevel = 3  # what goes wrong is said by exceptions
    return pycolmap


@dataclass(frozen=True)
class View:
    """An image of a model, with the points that it observes; n of them.

    Attributes:
        name: as in the model.
        camera: pycolmap's.
        rotation, translation: float64 [3, 3] and [3], from the world to the camera.
        observed: float64 [n, 2], where it sees points, in COLMAP's pixels: the first pixel's centre is (0.5, 0.5).
        inverse_depths: float64 [n], of these points.
    """

    name: str
    camera: Any
    rotation: NDArray[np.float64]
    translation: NDArray[np.float64]
    observed: NDArray[np.float64]
    inverse_depths: NDArray[np.float64]

    def lift(self, pixels: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """The points of the world that pixels show, whatever features the model was made of.

        The inverse depth of a plane is linear in the pixels that show it: it is fitted to the nearest observed points,
        where these agree with one plane.

        Args:
            pixels: float64 [m, 2], in COLMAP's pixels.

        Returns:
            the points, float64 [m, 3], and for which pixels the depth is known, bool [m].
        """
        reach = REACH * max(self.camera.width, self.camera.height)
        points, known = np.zeros((len(pixels), 3)), np.zeros(len(pixels), bool)
        if len(self.observed) < LEAST_NEIGHBOURS:
            return points, known
        inverse = np.zeros(len(pixels))
        for row, pixel in enumerate(pixels):
            offsets = self.observed - pixel
            squared = np.square(offsets).sum(axis=1)
            nearest = np.argpartition(squared, min(NEIGHBOURS, len(squared) - 1))[:NEIGHBOURS]
            nearest = nearest[squared[nearest] <= reach**2]
            if len(nearest) < LEAST_NEIGHBOURS:
                continue
            depth, misfit = plane_at_origin(offsets[nearest] / reach, self.inverse_depths[nearest])
            inverse[row], known[row] = depth, depth > 0 and misfit <= FLAT * depth
        with np.errstate(all="ignore"):
            rays = np.asarray(self.camera.cam_from_img(np.ascontiguousarray(pixels)))
        known &= np.isfinite(rays).all(axis=1)
        seen = np.column_stack([rays, np.ones(len(rays))])[known] / inverse[known, None]
        points[known] = (seen - self.translation) @ self.rotation
        return points, known


def plane_at_origin(offsets: NDArray[np.float64], values: NDArray[np.float64]) -> tuple[float, float]:
    """The value at the origin of the plane that fits best, and the root mean square of what it leaves.

    Args:
        offsets: float64 [k, 2], from the origin; those at 1 count little.
        values: float64 [k], there.
    """
    weights = np.exp(-2 * np.square(offsets).sum(axis=1))
    weights /= weights.sum()
    system = np.column_stack([np.ones(len(offsets)), offsets])
    normal = system.T @ (weights[:, None] * system) + np.diag([0, STIFFNESS, STIFFNESS])
    plane = np.linalg.solve(normal, system.T @ (weights * values))
    misfit = float(np.sqrt(weights @ np.square(values - system @ plane)))
    return float(plane[0]), misfit


def is_model(path: Path) -> bool:
    """Whether a folder has the three files of a COLMAP model."""
    return any(
        all((path / f"{name}.{kind}").exists() for name in ("cameras", "images", "points3D")) for kind in ("bin", "txt")
    )


class Model:
    """A COLMAP model, read once; views are prepared when they are first asked for."""

    def __init__(self, path: Path) -> None:
        """Reads a folder with cameras, images and points3D, as .bin or .txt.

        Raises:
            HowlError: there is no model, it is damaged, or it has no points.
        """
        pycolmap = import_pycolmap()
        if not is_model(path):
            below = next((folder for folder in sorted(path.glob("*")) if is_model(folder)), None)
            hint = "" if below is None else f"; there is one in {below}"
            raise MissingError(f"{path}: no model of COLMAP's here, which has cameras, images and points3D{hint}")
        try:
            self._model = pycolmap.Reconstruction(path)
        except Exception as error:  # its exceptions share no base class
            raise DamagedError(f"{path}: COLMAP cannot read it: {str(error).strip().splitlines()[-1]}") from None
        self.path = path
        self._images = {image.name: image for image in self._model.images.values() if image.has_pose}
        self._views: dict[str, View] = {}
        if not self._model.points3D or not self._images:
            what = "no points" if self._images else "no image with a pose"
            raise IncompatibleError(f"{path}: has {what}; triangulate them first (pycolmap.triangulate_points)")

    @property
    def names(self) -> list[str]:
        """Of the images that have a pose."""
        return list(self._images)

    @lazy_property
    def cameras(self) -> Mapping[int, Any]:
        """Its cameras, by number."""
        return dict(self._model.cameras)

    def camera_of(self, name: str) -> Any | None:
        """The camera of an image; None if there is no such image."""
        image = self._images.get(name)
        return None if image is None else self._model.cameras[image.camera_id]

    def view(self, name: str) -> View:
        """An image, and the points that it observes."""
        if name not in self._views:
            image = self._images[name]
            pose = image.cam_from_world()
            rotation, translation = pose.rotation.matrix(), np.asarray(pose.translation)
            seen = image.get_observation_points2D()
            observed = np.array([point.xy for point in seen], np.float64).reshape(-1, 2)
            world = np.array([self._model.points3D[point.point3D_id].xyz for point in seen], np.float64).reshape(-1, 3)
            depths = world @ rotation[2] + translation[2]
            ahead = depths > 0
            camera = self._model.cameras[image.camera_id]
            self._views[name] = View(name, camera, rotation, translation, observed[ahead], 1 / depths[ahead])
        return self._views[name]


def names_in_model(model: Model, ids: Sequence[str], root: Path | None, images: Path) -> dict[str, str]:
    """The names in a model of the photos of an index, by id; those that are not in the model are left out.

    Args:
        model: whose images they are.
        ids: of the photos.
        root: the folder from which ids are seen; None for that of the model's names.
        images: the folder from which the model's names are seen.

    Raises:
        IncompatibleError: none is in the model.
    """
    names, known = set(model.names), {}
    folder = images if root is None else root
    for id_ in ids:
        name = os.path.relpath(os.path.abspath(folder / id_), os.path.abspath(images)).replace(os.sep, "/")
        if name in names:
            known[id_] = name
    if not known:
        in_model = sorted(names)
        files = {Path(name).name for name in in_model}
        alike = [id_ for id_ in ids if Path(id_).name in files] or list(ids)
        hint = root_that_matches(alike, in_model, images)
        raise IncompatibleError(
            f"{model.path}: none of its images is a photo of the index: there are {', '.join(in_model[:3])} in the "
            f"model, seen from {images}, and {', '.join(alike[:3])} in the index, seen from {folder}"
            + (f"; --root {hint} would match" if hint else "; --root is the folder from which the ids are seen")
        )
    return known


def root_that_matches(ids: Sequence[str], names: Sequence[str], images: Path) -> Path | None:
    """A folder from which one of the ids is the file of one of the names; None if there is none."""
    by_file: dict[str, list[str]] = {}
    for name in names:
        by_file.setdefault(Path(name).name, []).append(name)
    for id_ in ids:
        parts = Path(id_).parts
        for name in by_file.get(parts[-1], ()):
            there = Path(os.path.abspath(images), name).parts
            if there[-len(parts) :] == parts:
                return Path(*there[: -len(parts)])
    return None


def check_images(model: Model, images: Path) -> None:
    """Makes sure that some image of a model is a file, as seen from a folder.

    Raises:
        MissingError: none is; the line names three, and the folder that would match if it is near.
    """
    names = sorted(model.names)
    if not images.is_dir():
        raise MissingError(f"{images}: no such folder; --images is the one from which the model's names are seen")
    if any((images / name).is_file() for name in names):
        return
    whole = images.absolute()
    near = [*whole.parents, *sorted(place for place in whole.iterdir() if place.is_dir())]
    hint = next((place for place in near if (place / names[0]).is_file()), None)
    raise MissingError(
        f"{images}: no image of the model is here: {', '.join(names[:3])}"
        + (f"; --images {hint} would match" if hint else "; --images is the folder from which its names are seen")
    )
