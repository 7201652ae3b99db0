"""The camera of a query: named, of a list, from its EXIF data, of the model, or of a focal length that is estimated."""

import math
import os
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.errors import DataError, MissingError, UsageError
from tools.localisation.model import Model, import_pycolmap

GUESS = 1.2  # COLMAP's focal length of an unknown camera, in longest sides


@dataclass(frozen=True)
class QueryCamera:
    """A camera.

    Attributes:
        camera: pycolmap's.
        source: where it is from, for people.
        is_calibrated: whether its focal length is known; else the pose is estimated together with it.
    """

    camera: Any
    source: str
    is_calibrated: bool


@dataclass(frozen=True)
class Intrinsics:
    """What is known of the cameras of queries.

    Attributes:
        named: a camera of all queries, as ``parse_camera`` gives it.
        listed: cameras by the name of a query, as seen from ``images``, or its file name: ``read_cameras``.
        images: the folder from which names are seen.
        model: whose cameras may be those of queries.
    """

    named: Any | None
    listed: Mapping[str, Any]
    images: Path
    model: Model

    def name_in_list(self, query: Path) -> str | None:
        """The name by which the list has a query: its path, that as seen from the images, or its file name."""
        seen = os.path.relpath(os.path.abspath(query), os.path.abspath(self.images)).replace(os.sep, "/")
        return next((name for name in (str(query), seen, query.name) if name in self.listed), None)

    def of(self, query: Path, size: tuple[int, int], name: str | None) -> QueryCamera:
        """The camera of a query.

        Args:
            query: its file.
            size: width and height of its pixels as they are stored.
            name: of the query in the model, if it is one of its images.

        Raises:
            DataError: a camera that was named has another shape than the photo.
        """
        if (listed := self.name_in_list(query)) is not None:
            return QueryCamera(fitted(self.listed[listed], size), "the list", True)
        if self.named is not None:
            return QueryCamera(fitted(self.named, size), "--camera", True)
        if name is not None and (own := self.model.camera_of(name)) is not None:
            return QueryCamera(fitted(own, size), "the model", True)
        guessed = import_pycolmap().infer_camera_from_image(query)
        if guessed.has_prior_focal_length:
            return QueryCamera(fitted(guessed, size), "EXIF", True)
        same = [camera for camera in self.model.cameras.values() if (camera.width, camera.height) == size]
        if len(self.model.cameras) == len(same) == 1:
            return QueryCamera(fitted(same[0], size), "the model's only camera", True)
        return QueryCamera(guessed, "unknown: its focal length is estimated", False)


def fitted(camera: Any, size: tuple[int, int]) -> Any:
    """A copy of a camera for photos of this size. Raises DataError if that is not its shape."""
    copy = deepcopy(camera)
    width, height = size
    if (copy.width, copy.height) != size:
        if abs(copy.width * height - copy.height * width) > 2 * max(width, height):
            raise DataError(f"it has {width}×{height} pixels, and its camera {copy.width}×{copy.height}: another shape")
        copy.rescale(width, height)
    return copy


def parse_camera(text: str) -> Any:
    """A camera from ``MODEL WIDTH HEIGHT PARAMETERS...``, as COLMAP's cameras.txt has it. Raises UsageError."""
    words = text.replace(",", " ").split()
    try:
        model, width, height, *parameters = words
        camera = import_pycolmap().Camera(
            model=model.upper(), width=int(width), height=int(height), params=list(map(float, parameters))
        )
        valid = camera.verify_params() and all(map(math.isfinite, camera.params)) and camera.mean_focal_length() > 0
    except (ValueError, TypeError, RuntimeError, KeyError):
        valid = False
    if not valid:
        raise UsageError(
            f"{text}: a camera is a model of COLMAP's, width, height and its parameters, such as 'PINHOLE 1024 768 880 "
            "880 512 384'"
        )
    return camera


def read_cameras(path: Path) -> dict[str, Any]:
    """The cameras of queries from a list as hloc's: a line ``name MODEL width height parameters...`` each.

    Raises:
        HowlError: it cannot be read; the line names file and line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise MissingError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    cameras = {}
    for number, line in enumerate(lines, 1):
        name, _, rest = line.strip().partition(" ")
        if not name or name.startswith("#"):
            continue
        try:
            cameras[name] = parse_camera(rest)
        except UsageError as error:
            raise DataError(f"{path}, line {number}: {error}") from None
    return cameras
