"""The picture of what spatial verification sees in two photos: ``runtime.rerank.comparison``."""

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from runtime.encoder import Encoder
from runtime.rerank.comparison import compare
from tools.visualization.canvas import Photo
from tools.visualization.matches import GAP, draw_pairs, moved

FRAME_COLOUR, FRAME_WIDTH = "#ffd92f", 2.5
VERDICTS = {True: "verified", False: "not verified", None: "cannot be verified with this α"}


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
    seen = compare(encoder, query.path, image.path, top)
    drawn = f", the heaviest {len(seen.weights)} drawn" if len(seen.weights) < seen.inliers else ""
    figure = draw_pairs(
        query,
        image,
        seen.query_ends,
        seen.image_ends,
        seen.weights,
        f"{VERDICTS[seen.verified]}: {seen.inliers} inliers of {seen.shared} shared visual words{drawn}\n"
        f"score {seen.score:.4f}, re-ranked {seen.reranked:.4f}; yellow: the frame of the query",
    )
    if seen.frame is not None:
        shift, factor = query.width + GAP * query.height, query.height / image.height
        axes, (first, last, bottom, top_edge) = figure.axes[0], moved(image, shift, factor)
        corners = (seen.frame + 0.5) * factor - 0.5 + [shift, 0]
        (line,) = axes.plot(*corners.T, color=FRAME_COLOUR, linewidth=FRAME_WIDTH)
        # Only within the photo: a wrong map may reach anywhere.
        line.set_clip_path(Rectangle((first, top_edge), last - first, bottom - top_edge, transform=axes.transData))
    return figure
