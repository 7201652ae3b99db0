"""A published matcher of keypoints as ONNX, for --rerank lightglue and poses: ``python export/to_matcher.py``."""

if __name__ == "__main__":
    import howl

    howl.run_script("export.to_matcher")  # before the imports: howl.py says why

import argparse
from collections.abc import Sequence
from pathlib import Path

from export.matcher import IMAGE_SIDE, KEPT, MAX_KEYPOINTS, NETWORKS, export_matcher
from runtime.errors import UsageError
from runtime.io.cli import image_side, positive_int, program
from runtime.matching.matcher import DEFAULT


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    export_matcher(options.networks, options.out, image_size=options.image_size, keypoints=options.keypoints)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=program("export/to_matcher.py"),
        description="Writes a detector of keypoints and a matcher of them as ONNX, with the weights that their authors "
        "published, and proves both equal to PyTorch. Searching with them needs no PyTorch.",
    )
    names = ", ".join(f"{name}: {networks.name}" for name, networks in NETWORKS.items())
    parser.add_argument("networks", nargs="?", choices=NETWORKS, default="lighterglue", help=f"{names} (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path(DEFAULT), metavar="FILE", help="(%(default)s)")
    parser.add_argument(
        "--image-size",
        type=image_side,
        default=IMAGE_SIDE,
        metavar="PIXELS",
        help="longest side at which keypoints are looked for (%(default)s)",
    )
    parser.add_argument(
        "--keypoints", type=positive_int, default=KEPT, metavar="N", help="of a photo, at most (%(default)s)"
    )
    options = parser.parse_args(arguments)
    if options.keypoints > MAX_KEYPOINTS:
        raise UsageError(f"--keypoints {options.keypoints}: {MAX_KEYPOINTS} at most")
    return options
