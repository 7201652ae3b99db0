"""What spatial verification sees in two photos: the features that agree with one view, and where the query lies."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.asmk.geometry import unpack_geometry
from runtime.asmk.kernel import AsmkKernel
from runtime.encoder import Encoder
from runtime.errors import IncompatibleError
from runtime.io.image import Image, PhotoInput, to_original_pixels
from runtime.native import UNIT
from runtime.rerank.interface import Located
from runtime.rerank.spatial import Spatial


@dataclass(frozen=True)
class Comparison:
    """Two photos, and the features of both that agree with one view; positions are in pixels of the photo as given.

    Attributes:
        query_size, image_size: width and height.
        query_ends, image_ends: float [n, 2], x and y of the inliers, the largest weight first.
        weights: float64 [n], s^α of each.
        inliers: all of them, of which n are at hand.
        shared: visual words that both photos have.
        frame: float [5, 2], the corners of the query in the image, and the first again; None without inliers.
        score: the first stage's.
        reranked: the score with what agrees of it.
        verified: whether it is the same place; None where α is not the one that ``Spatial`` can tell it for.
    """

    query_size: tuple[int, int]
    image_size: tuple[int, int]
    query_ends: NDArray[np.floating]
    image_ends: NDArray[np.floating]
    weights: NDArray[np.float64]
    inliers: int
    shared: int
    frame: NDArray[np.floating] | None
    score: float
    reranked: float
    verified: bool | None


def compare(encoder: Encoder, query: PhotoInput, image: PhotoInput, top: int) -> Comparison:
    """Verifies one photo against another as ``rerank="spatial"`` does, and keeps what agrees.

    Args:
        encoder: the engine, with α and τ.
        query: a photo, as a search takes it.
        image: a photo, as an index keeps it.
        top: inliers that are kept, those of the largest weights.

    Raises:
        IncompatibleError: the engine has no local features.
        HowlError: it refuses a photo.
    """
    kernel, spatial = encoder.first_stage, Spatial()
    if not isinstance(kernel, AsmkKernel):
        raise IncompatibleError(f"{encoder.path}: compares photos as a whole, there is nothing to verify")
    (left, left_size), (right, right_size) = encoder.load_sized(query), encoder.load_sized(image)
    asked = encoder.encode_query(encoder.engine.extract(left))
    stored = kernel.build([encoder.encode_database(encoder.engine.extract(right))])
    found = spatial.verify(asked, [Located(stored, np.zeros(1, np.int64), np.zeros(1, np.int64))], 1)
    scores, count = stored.scores(asked), int(found.counts[0])
    inliers = found.correspondences[0][:count][found.marks[0][:count]]
    inliers = inliers[np.argsort(-inliers["weight"], kind="stable")[:top]]
    agrees = float(spatial.agreeing(scores, found)[0])
    return Comparison(
        query_size=left_size[::-1],
        image_size=right_size[::-1],
        query_ends=in_photo(unpack_geometry(asked.geometry[inliers["row"]]), left, left_size),
        image_ends=in_photo(unpack_geometry(inliers["geometry"]), right, right_size),
        weights=inliers["weight"] * UNIT,
        inliers=int(found.inliers[0]),
        shared=count,
        frame=in_photo(frame_of(left) @ found.maps[0].T, right, right_size) if found.inliers[0] else None,
        score=float(scores[0]),
        reranked=float(spatial.scores(scores, found)[0]),
        verified=agrees >= spatial.least if kernel.parameters.alpha == spatial.alpha else None,
    )


def frame_of(image: Image) -> NDArray[np.float64]:
    """The corners of an image, and the first again: float64 [5, 3], x, y and 1."""
    height, width = image.shape[:2]
    x, y = [0, width - 1, width - 1, 0, 0], [0, 0, height - 1, height - 1, 0]
    return np.stack([x, y, np.ones(5)], axis=1)


def in_photo(positions: NDArray[np.floating], image: Image, size: tuple[int, int]) -> NDArray[np.floating]:
    """Positions in the engine's input image, as positions in the photo, of height and width ``size``: x, y, [n, 2]."""
    x = to_original_pixels(positions[:, 0], size[1], image.shape[1])
    y = to_original_pixels(positions[:, 1], size[0], image.shape[0])
    return np.stack([x, y], axis=1)
