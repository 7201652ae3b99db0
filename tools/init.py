"""From a folder of photos to a search: ``python tools/init.py PHOTOS [--out DIR]`` learns, exports, indexes.

No labels and no training: ``export.learning``.
"""

if __name__ == "__main__":
    import howl

    howl.run_script("tools.init")  # before the imports: howl.py says why

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from export.exporter import export_checkpoint
from export.options import ExportOptions
from runtime.io.cli import add_engine_options, command_line, program
from runtime.io.finding import find_photos
from runtime.retriever import Retriever
from tools.adding import add
from train.backbones import BUILDERS

BACKBONE = "efficientnet_lite0"
ENGINE = "engine.onnx"


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    engine = Path(options.out) / ENGINE
    init(Path(options.photos), engine, options.backbone, device=options.device, threads=options.threads)
    photo = find_photos([options.photos])[0]
    print("what you can do next:")
    print(f"  {command_line('tools/search.py', engine, photo)}")
    print(f"  {command_line('tools/serve.py', engine, '--photos', options.photos)}")
    print(f"  {command_line('tools/index.py', engine, options.photos, '--root', options.photos, '--sync')}")
    print(f"  {command_line('tools/visualize.py', 'gallery', engine, photo, '--root', options.photos)}")


def init(photos: Path, engine: Path, backbone: str, *, device: str | None = None, threads: int | None = None) -> None:
    """Learns whitening and visual words of a folder of photos, exports an engine, and indexes the photos.

    Args:
        photos: the folder, flat or nested.
        engine: engine.onnx; the index lies beside it, and its ids are paths as seen from the folder.
        backbone: with ImageNet weights, a name in ``train.backbones.BUILDERS``.
        device: of the engine: ``cpu``, ``cuda``, or None for a GPU if there is one.
        threads: of the CPU; None for one per core.

    Raises:
        HowlError: as ``export_checkpoint`` and ``Retriever.add``.
    """
    begin = time.perf_counter()
    export_checkpoint(ExportOptions(Path(backbone), learn=photos, out=engine, threads=threads))
    exported = time.perf_counter()
    with Retriever(engine, root=photos, device=device, threads=threads) as retriever:
        add(retriever, [str(photos)])
    indexed = time.perf_counter()
    print(f"learned and exported in {exported - begin:.0f} s, indexed in {indexed - exported:.0f} s")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=program("tools/init.py"),
        description="Learns from a folder of photos, without labels or training, exports an engine and indexes them.",
    )
    parser.add_argument("photos", metavar="PHOTOS", help="a folder, flat or nested")
    parser.add_argument("--out", metavar="DIR", default="howl", help="where engine and index go (%(default)s)")
    parser.add_argument("--backbone", choices=BUILDERS, default=BACKBONE, help="(%(default)s)")
    add_engine_options(parser, searches=False)
    return parser.parse_args(arguments)
