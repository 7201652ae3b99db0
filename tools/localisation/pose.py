"""The pose of a query: its matches with photos of a model, the points that these show, and COLMAP's estimator."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.io.decoding import to_stored_pixels
from runtime.matching import Keypoints, Matcher, agreement
from tools.localisation.cameras import QueryCamera
from tools.localisation.model import Model, import_pycolmap

KEYPOINTS = 1024  # of a photo, that are matched
TOLERANCE = 0.004  # of a match's distance to its epipolar line, as a part of a photo's longest side
CHANCE = 20  # matches of photos of different places that may agree: of 260 pairs, with up to 20 (docs/localisation.md)
ERROR = 0.012  # of a reprojection, as a part of the longest side: COLMAP's 12 pixels of 1,000
LEAST_INLIERS = 30
LEAST_SHARE = 0.5
NARROWEST, WIDEST = 10, 120  # degrees of the longest side, of a focal length that is estimated


@dataclass(frozen=True)
class Placement:
    """Where a query was taken, or why that is not known.

    Attributes:
        query: its path.
        reason: why it could not be placed; None if it could.
        quaternion: w, x, y, z of the rotation from the world to the camera; None without a pose.
        translation: of the same; None likewise.
        centre: of the camera, in the world; None likewise.
        inliers: matches that agree with the pose.
        matches: that have a point of the model.
        error: median reprojection error of the inliers, in pixels; None without a pose.
        camera: model, width, height and params as in COLMAP, and source: where it is from; None if it is not known.
        photos: matches with points, by the name of the photo.
    """

    query: str
    reason: str | None = None
    quaternion: tuple[float, ...] | None = None
    translation: tuple[float, ...] | None = None
    centre: tuple[float, ...] | None = None
    inliers: int = 0
    matches: int = 0
    error: float | None = None
    camera: Mapping[str, Any] | None = None
    photos: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Stored:
    """A photo's keypoints in the pixels that its file stores, as COLMAP sees them.

    Attributes:
        keypoints: of the upright photo.
        pixels: float64 [n, 2], the same positions in the stored pixels; the first one's centre is (0.5, 0.5).
        size: width and height of the stored photo.
    """

    keypoints: Keypoints
    pixels: NDArray[np.float64]
    size: tuple[int, int]

    @classmethod
    def of(cls, keypoints: Keypoints) -> "Stored":
        """The strongest of a photo's keypoints."""
        kept = keypoints.strongest(KEYPOINTS)
        pixels, size = to_stored_pixels(kept.positions.astype(np.float64) + 0.5, kept.size, kept.orientation)
        return cls(kept, pixels, size)


def locate(
    query: str, asked: Stored, camera: QueryCamera, photos: Sequence[tuple[str, Stored]], model: Model, matcher: Matcher
) -> Placement:
    """Where a query was taken.

    Args:
        query: its path.
        asked: its keypoints.
        camera: its own.
        photos: the names in the model, and the keypoints, of photos that may show the same place.
        model: with their poses and points.
        matcher: of the keypoints.
    """
    pixels, points, counts = [np.empty((0, 2))], [np.empty((0, 3))], {}
    for name, photo in photos:
        matches = matcher.match(asked.keypoints, photo.keypoints)
        agreed = agreement(asked.keypoints, photo.keypoints, matches, TOLERANCE)
        if agreed.count <= CHANCE:
            continue
        here, there = matches[agreed.inliers].T
        view = model.view(name)
        scale = np.array([view.camera.width, view.camera.height]) / photo.size
        lifted, has_depth = view.lift(photo.pixels[there] * scale)
        pixels.append(asked.pixels[here[has_depth]])
        points.append(lifted[has_depth])
        counts[name] = int(has_depth.sum())
    known = describe(camera) if camera.is_calibrated else None
    found = Placement(query, camera=known, matches=sum(counts.values()), photos=counts)
    return estimate(found, np.concatenate(pixels), np.concatenate(points), camera, max(asked.size))


def estimate(
    found: Placement,
    pixels: NDArray[np.float64],
    points: NDArray[np.float64],
    camera: QueryCamera,
    longest_side: int,
) -> Placement:
    """Completes what was found of a query by its pose, or by the reason why it has none.

    Args:
        found: what was found.
        pixels: float64 [m, 2], of the query, in COLMAP's pixels.
        points: float64 [m, 3], which they show.
        camera: of the query; a focal length that is estimated is written into it.
        longest_side: of the query, in pixels.
    """
    pycolmap = import_pycolmap()
    if len(points) < LEAST_INLIERS:
        looked = f"{len(found.photos)} photos of the model agree with it"
        return replace(found, reason=f"{looked}, in {len(points)} points; {LEAST_INLIERS} are the least")
    result = pycolmap.estimate_and_refine_absolute_pose(
        pixels,
        points,
        camera.camera,
        estimation_options={
            "estimate_focal_length": not camera.is_calibrated,
            "ransac": {"max_error": ERROR * longest_side, "random_seed": 0},
        },
        refinement_options={"refine_focal_length": not camera.is_calibrated},
    )
    inliers = 0 if result is None else int(result["num_inliers"])
    if inliers < max(LEAST_INLIERS, LEAST_SHARE * len(points)):
        return replace(found, inliers=inliers, reason=f"{inliers} of {len(points)} matches agree with a pose")
    width = np.degrees(2 * np.arctan(longest_side / 2 / camera.camera.mean_focal_length()))
    if not camera.is_calibrated and not NARROWEST <= width <= WIDEST:
        return replace(found, inliers=inliers, reason=f"only a view {width:.3g}° wide would fit the matches")
    pose, mask = result["cam_from_world"], np.asarray(result["inlier_mask"], bool)
    seen = points[mask] @ pose.rotation.matrix().T + pose.translation
    projected = np.asarray(camera.camera.img_from_cam(seen))
    x, y, z, w = pose.rotation.quat
    return replace(
        found,
        quaternion=(float(w), float(x), float(y), float(z)),
        translation=tuple(map(float, pose.translation)),
        centre=tuple(map(float, -pose.rotation.matrix().T @ pose.translation)),
        inliers=inliers,
        error=float(np.median(np.linalg.norm(projected - pixels[mask], axis=1))),
        camera=describe(camera),
    )


def describe(camera: QueryCamera) -> dict[str, Any]:
    """A camera's model, width, height and parameters as in COLMAP, and where it is from."""
    own = camera.camera
    parameters = list(map(float, own.params))
    return {
        "model": own.model_name,
        "width": own.width,
        "height": own.height,
        "params": parameters,
        "source": camera.source,
    }
