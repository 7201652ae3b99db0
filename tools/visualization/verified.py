"""What spatial verification sees in two photos: the features that agree with one view, and where the query lies."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from runtime.asmk.geometry import unpack_geometry
from runtime.asmk.kernel import AsmkKernel
from runtime.encoder import Encoder
from runtime.errors import IncompatibleError
from runtime.io.image import Image, to_original_pixels
from runtime.native import UNIT
from runtime.rerank import Located, Spatial
from tools.visualization.canvas import Photo
from tools.visualization.matches import GAP, draw_pairs, moved

FRAME_COLOUR, FRAME_WIDTH = "#ffd92f", 2.5


def draw_verified(encoder: Encoder, query: Photo, image: Photo, top: int) -> Figure:
    """The inliers with the largest weights, and the frame of the query in the photo.

    Args:
        encoder: the engine, with α and τ.
        query: the photo on the left, which is searched with.
        image: the photo on the right, as an index keeps it.
        top: inliers, at most.

    Raises:
        HowlError: the engine refuses a photo, or has no local features.
    """
    kernel, spatial = encoder.first_stage, Spatial()
    if not isinstance(kernel, AsmkKernel):
        raise IncompatibleError(f"{encoder.path}: compares photos as a whole, there is nothing to verify")
    left, right = encoder.load(query.path), encoder.load(image.path)  # as the engine takes them
    asked = encoder.encode_query(encoder.engine.extract(left))
    stored = kernel.build([encoder.encode_database(encoder.engine.extract(right))])
    found = spatial.verify(asked, [Located(stored, np.zeros(1, np.int64), np.zeros(1, np.int64))], 1)
    score = stored.scores(asked)
    verdict = "verified" if spatial.agreeing(score, found)[0] >= spatial.least else "not verified"
    inliers = found.correspondences[0][: found.counts[0]][found.marks[0][: found.counts[0]]]
    inliers = inliers[np.argsort(-inliers["weight"], kind="stable")[:top]]
    ends = unpack_geometry(asked.geometry[inliers["row"]]), unpack_geometry(inliers["geometry"])
    drawn = f", the heaviest {len(inliers)} drawn" if len(inliers) < found.inliers[0] else ""
    figure = draw_pairs(
        query,
        image,
        in_photo(ends[0], left, query),
        in_photo(ends[1], right, image),
        inliers["weight"] * UNIT,
        f"{verdict}: {found.inliers[0]} inliers of {found.counts[0]} shared visual words{drawn}\n"
        f"score {score[0]:.4f}, re-ranked {spatial.scores(score, found)[0]:.4f}; yellow: the frame of the query",
    )
    if found.inliers[0]:
        frame = in_photo(frame_of(left) @ found.maps[0].T, right, image)
        shift, factor = query.width + GAP * query.height, query.height / image.height
        axes, (first, last, bottom, top_edge) = figure.axes[0], moved(image, shift, factor)
        corners = (frame + 0.5) * factor - 0.5 + [shift, 0]
        (line,) = axes.plot(*corners.T, color=FRAME_COLOUR, linewidth=FRAME_WIDTH)
        # Only within the photo: a wrong map may reach anywhere.
        line.set_clip_path(Rectangle((first, top_edge), last - first, bottom - top_edge, transform=axes.transData))
    return figure


def frame_of(image: Image) -> NDArray[np.float64]:
    """The corners of an image, and the first again: float64 [5, 3], x, y and 1."""
    height, width = image.shape[:2]
    x, y = [0, width - 1, width - 1, 0, 0], [0, 0, height - 1, height - 1, 0]
    return np.stack([x, y, np.ones(5)], axis=1)


def in_photo(positions: NDArray[np.floating], image: Image, photo: Photo) -> NDArray[np.floating]:
    """Positions in the engine's input image, as positions in the photo: x and y, [n, 2]."""
    x = to_original_pixels(positions[:, 0], photo.width, image.shape[1])
    y = to_original_pixels(positions[:, 1], photo.height, image.shape[0])
    return np.stack([x, y], axis=1)
