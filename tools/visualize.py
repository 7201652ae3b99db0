"""The pictures: ``python tools/visualize.py attention|smoothing|graph|matches|gallery ... [--out FILE.png]``."""

if __name__ == "__main__":
    import howl

    howl.run_script("tools.visualize")  # before the imports: howl.py says why

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from runtime.bundle import is_engine
from runtime.encoder import Encoder
from runtime.errors import ImageError
from runtime.io.cli import add_engine_arguments, add_engine_options, image_side, positive_int, program
from runtime.retriever import Retriever
from tools.environment import require_packages

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HINT = "pip install '.[train]'"  # for packages that pictures alone need: the commands that search do without
SCALES = 0.1, 4.0  # of a pyramid, the least and the largest


def main(arguments: Sequence[str] | None = None) -> None:
    options = vars(parse(arguments))
    picture, draw, out = (options.pop(name) for name in ("picture", "draw", "out"))
    out = Path(out or f"{picture}.png")
    require_packages("matplotlib", hint=HINT)
    from tools.visualization.canvas import check_output, save

    values = (*options.values(), *options.get("queries", ()))
    check_output(out, [Path(value) for value in values if isinstance(value, str | Path)])
    save(draw(**options), out)
    print(out)


# A function for each picture; its arguments are named like the command's options. Matplotlib and PyTorch are imported
# inside: that takes a second, and `--help` needs neither.


def attention(
    model: Path,
    photo: Path,
    *,
    against: Path | None,
    image_size: int | None,
    scale: float,
    device: str | None,
    threads: int | None,
) -> "Figure":
    """``draw_attention``; only checkpoints need PyTorch."""
    if not all(is_engine(path) for path in (model, against) if path is not None):
        require_packages("torch", hint=HINT)
    from tools.visualization.attention import draw_attention
    from tools.visualization.canvas import Photo, View

    return draw_attention(model, Photo.load(photo), against, View(image_size, scale), device, threads)


def smoothing(model: Path, photo: Path, *, image_size: int | None, scale: float) -> "Figure":
    """``draw_smoothing``."""
    require_packages("torch", hint=HINT)
    from tools.visualization.canvas import Photo, View
    from tools.visualization.refinements import draw_smoothing

    return draw_smoothing(model, Photo.load(photo), View(image_size, scale))


def graph(
    model: Path,
    photo: Path,
    *,
    image_size: int | None,
    scale: float,
    point: Sequence[tuple[float, float]],
    nodes: int,
) -> "Figure":
    """``draw_graph``."""
    require_packages("torch", hint=HINT)
    from tools.visualization.canvas import Photo, View
    from tools.visualization.refinements import draw_graph

    return draw_graph(model, Photo.load(photo), View(image_size, scale), point, nodes)


def matches(
    engine: str,
    query: Path,
    image: Path,
    *,
    device: str | None,
    threads: int | None,
    threshold: float | None,
    alpha: float | None,
    top: int,
    assignments: int | None,
    verified: bool,
) -> "Figure":
    """``draw_matches``, or ``draw_verified``."""
    from tools.visualization.canvas import Photo
    from tools.visualization.matches import draw_matches
    from tools.visualization.verified import draw_verified

    encoder = Encoder(Path(engine), device=device, threads=threads, threshold=threshold, alpha=alpha)
    if verified:
        return draw_verified(encoder, Photo.load(query), Photo.load(image), top)
    return draw_matches(encoder, Photo.load(query), Photo.load(image), top, assignments)


def gallery(
    engine: str,
    queries: Sequence[Path],
    *,
    index: Path | None,
    root: Path | None,
    device: str | None,
    threads: int | None,
    threshold: float | None,
    alpha: float | None,
    top: int,
    by_folder: bool,
) -> "Figure":
    """``draw_gallery`` of what the queries find in an index."""
    from tools.visualization.gallery import draw_gallery, ranked

    with Retriever(
        engine, index, root=root, device=device, threads=threads, threshold=threshold, alpha=alpha
    ) as retriever:
        rows = []
        for query in queries:
            try:
                rows.append(ranked(retriever, query, top, by_folder=by_folder))
            except ImageError as error:
                print(error, file=sys.stderr)
    if not rows:
        raise ImageError("none of the queries can be read")
    return draw_gallery(rows, "Queries, and the photos found for them")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=program("tools/visualize.py"), description="Draws what a network or a search sees."
    )
    pictures = parser.add_subparsers(dest="picture", metavar="PICTURE", required=True)
    add_attention(pictures)
    add_smoothing(pictures)
    add_graph(pictures)
    add_matches(pictures)
    add_gallery(pictures)
    return parser.parse_args(arguments)


Pictures: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_picture(pictures: Pictures, draw: Callable[..., "Figure"], what: str) -> argparse.ArgumentParser:
    """A sub-command named like the function that draws it."""
    parser = pictures.add_parser(draw.__name__, help=what, description=f"Draws {what}.")
    parser.set_defaults(draw=draw)
    parser.add_argument("--out", metavar="FILE", help=f"the picture, PNG or what its suffix says ({draw.__name__}.png)")
    return parser


def add_attention(pictures: Pictures) -> None:
    parser = add_picture(pictures, attention, "attention, before and after refinement or of two models")
    add_view_arguments(parser, "a checkpoint, or an engine for its strongest features")
    parser.add_argument("--against", type=Path, metavar="MODEL", help="another, to compare with")
    add_engine_options(parser, searches=False)


def add_smoothing(pictures: Pictures) -> None:
    parser = add_picture(pictures, smoothing, "self-confidence and bandwidth of the learned smoothing")
    add_view_arguments(parser, "a checkpoint with learned smoothing")


def add_graph(pictures: Pictures) -> None:
    parser = add_picture(pictures, graph, "edges of the graph")
    add_view_arguments(parser, "a checkpoint with a graph")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--point",
        type=point,
        action="append",
        default=[],
        metavar="X,Y",
        help="the edges of the node nearest to this pixel of the photo; may be repeated",
    )
    where.add_argument("--nodes", type=positive_int, default=3, metavar="N", help="strongest nodes (%(default)s)")


def add_matches(pictures: Pictures) -> None:
    parser = add_picture(pictures, matches, "matched features of two photos")
    add_engine_arguments(parser, searches=True)
    parser.add_argument("query", type=Path, metavar="QUERY", help="a photo, as one searches with it")
    parser.add_argument("image", type=Path, metavar="PHOTO", help="a photo, as an index keeps it")
    parser.add_argument("--top", type=positive_int, default=50, metavar="N", help="pairs at most (%(default)s)")
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--assignments", type=positive_int, metavar="M", help="visual words of a query feature; default: the search's"
    )
    how.add_argument(
        "--verified",
        action="store_true",
        help="only what agrees with one view (--rerank spatial), and the frame of the query in the photo",
    )


def add_gallery(pictures: Pictures) -> None:
    parser = add_picture(pictures, gallery, "queries, and the photos of an index found for them")
    add_engine_arguments(parser, searches=True)
    parser.add_argument(
        "queries", type=Path, metavar="QUERY", nargs="+", help="photos; one that is in the index never finds itself"
    )
    parser.add_argument("--index", type=Path, metavar="DIR", help="default: engine.index beside the engine")
    parser.add_argument("--root", type=Path, metavar="DIR", help="the folder from which the index's ids are seen")
    parser.add_argument("--top", type=positive_int, default=5, metavar="N", help="answers at most (%(default)s)")
    parser.add_argument(
        "--by-folder", action="store_true", help="a folder holds one place: mark answers as right or wrong by theirs"
    )


def add_view_arguments(parser: argparse.ArgumentParser, model: str) -> None:
    """The model, the photo, and how a checkpoint's network looks at it."""
    parser.add_argument("model", type=Path, metavar="MODEL", help=model)
    parser.add_argument("photo", type=Path, metavar="PHOTO", help="any photo")
    parser.add_argument(
        "--image-size", type=image_side, metavar="PIXELS", help="shrink larger photos to; default: the checkpoint's"
    )
    parser.add_argument("--scale", type=scale, default=1.0, metavar="S", help="of the pyramid (%(default)s)")


def scale(text: str) -> float:
    """An argparse type: a scale of a pyramid."""
    value = float(text)
    if not SCALES[0] <= value <= SCALES[1]:
        raise argparse.ArgumentTypeError(f"{text}: must lie between {SCALES[0]:g} and {SCALES[1]:g}")
    return value


def point(text: str) -> tuple[float, float]:
    """An argparse type: pixels such as ``320,240``."""
    try:
        x, y = map(float, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: needs two numbers with a comma between, as 320,240") from None
    return x, y
