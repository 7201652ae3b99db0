"""The whole way on synthetic photos: train, export, index, search, measure, and a picture: ``make demo``.

It calls the functions behind the commands, and prints each command as a user would type it.
"""

if __name__ == "__main__":
    import howl

    howl.run_script("tools.demo")  # before the imports: howl.py says why

import argparse
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from export.exporter import export_checkpoint
from export.options import ExportOptions
from runtime.errors import UsageError
from runtime.io.cli import command_line, program
from runtime.io.files import ensure_writable
from runtime.retriever import Retriever
from tools.adding import add
from tools.evaluation import evaluate_engine
from tools.index import print_stats
from tools.visualization.canvas import save
from tools.visualization.gallery import draw_gallery, ranked
from train.config import options_for
from train.data.synthetic import write_scenes
from train.run import best_epoch, command_for, train

SEED = 1000  # of a town that no training sees
BUILDINGS, VIEWS, SIDE = 24, 6, 320
TRAINING: dict[str, Any] = {"epochs": 1, "tuples": 60, "words": 1024}
NETWORKS: dict[str, dict[str, Any]] = {  # the same backbone, training and seed; only what refines the features differs
    "plain": {"smoothing": "average"},
    "howl": {"smoothing": "learned", "refine": "graph"},
}
TITLES = {
    "plain": "plain HOW: average smoothing, no graph",
    "howl": "HOW with both refinements: learned smoothing and graph",
}
MARK = ".howl-demo"  # tells a folder that the demo may empty
SHOWN = 5  # queries in the picture, and answers to each


def main(arguments: Sequence[str] | None = None) -> None:
    demonstrate(parse(arguments).out)


def demonstrate(out: Path) -> None:
    """Fills a folder with photos, checkpoints, engines, an index and a picture.

    Args:
        out: what an earlier demo left there is deleted.

    Raises:
        UsageError: the folder holds other files.
        HowlError: a step fails.
    """
    begin = time.perf_counter()
    photos = out / "photos"
    make_room(out)
    say(f"{BUILDINGS} synthetic buildings, {VIEWS} views each → {photos}")
    write_scenes(photos, scenes=BUILDINGS, views=VIEWS, image_size=SIDE, seed=SEED)

    measurements = {name: measured(name, network, out, photos) for name, network in NETWORKS.items()}
    engine, picture = out / "howl.onnx", out / "results.png"
    say("an index of all photos, and a search")
    index_and_search(engine, photos, photos / "building003" / "view00.jpg")
    draw_results(engine, photos, picture)

    say("mean average precision on synthetic buildings that training never saw, every photo a query against all others")
    for name, (score, epoch) in measurements.items():
        kept = f"after epoch {epoch}" if epoch else "before its first step, for no epoch was better"
        print(f"    {score:.4f}   {TITLES[name]}; {kept}")
    print(
        "One short training and one seed each: enough to see every step work, too little to compare methods. "
        "docs/experiments.md does that."
    )
    print(f"\nopen {picture}    ({time.perf_counter() - begin:.0f} s in all)")


def make_room(out: Path) -> None:
    """An empty folder for the demo; only what an earlier demo left is deleted."""
    mark = out / MARK
    ensure_writable(mark)
    if out.exists() and any(out.iterdir()) and not mark.exists():
        raise UsageError(f"{out}: holds files that are not a demo's; name another folder with --out")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    mark.touch()


def measured(name: str, network: Mapping[str, Any], out: Path, photos: Path) -> tuple[float, int]:
    """Trains and exports one network; its mean average precision on the demo's photos, and the epoch that was kept."""
    checkpoint, engine = out / f"{name}.pt", out / f"{name}.onnx"
    say(f"{TITLES[name]}: train, export, measure")
    plain = options_for()
    options = replace(
        plain,
        network=replace(plain.network, **network),
        training=replace(plain.training, **TRAINING),
        out=checkpoint,
    )
    show(command_for(options))
    trained = train(options)

    export = ExportOptions(checkpoint, out=engine)
    show(export.command())
    export_checkpoint(export)

    show(command_line("tools/evaluate.py", engine, photos))
    evaluation = evaluate_engine(engine, [str(photos)])
    print(evaluation.as_text())
    epoch = 0 if trained is None else best_epoch(trained).epoch
    return float(evaluation.as_dict()["sets"][0]["mAP"]), epoch


def index_and_search(engine: Path, photos: Path, query: Path, top: int = 6) -> None:
    """An index of the photos beside the engine, and the answers to one of them."""
    with Retriever(engine) as retriever:
        show(command_line("tools/index.py", engine, photos, "--stats"))
        add(retriever, [str(photos)])
        print_stats(retriever.index_path)
        show(command_line("tools/search.py", engine, query, "--top", top))
        for rank, hit in enumerate(retriever.search(query, top), 1):
            print(f"{rank:4d}  {hit.score:.6f}  {hit.id}")


def draw_results(engine: Path, photos: Path, picture: Path) -> None:
    """The picture: queries of different buildings and what was found for them."""
    queries = [
        photos / f"building{building:03d}" / "view00.jpg"
        for building in range(0, BUILDINGS, BUILDINGS // SHOWN)[:SHOWN]
    ]
    show(command_line("tools/visualize.py", "gallery", engine, *queries, "--by-folder"))
    with Retriever(engine) as retriever:
        rows = [ranked(retriever, query, SHOWN, by_folder=True) for query in queries]
    save(draw_gallery(rows, f"{TITLES['howl']}: queries among synthetic buildings, and answers"), picture)


def show(command: str) -> None:
    """Prints a command as a user would type it."""
    print(f"$ {command}", flush=True)


def say(what: str) -> None:
    """Prints what comes next."""
    print(f"\n── {what}", flush=True)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=program("tools/demo.py"), description="The whole way, on synthetic photos, in minutes."
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", default="demo", help="folder to fill; what is there goes (%(default)s)"
    )
    return parser.parse_args(arguments)
