"""The whole way on made photos: train, export, index, search, measure, and a picture: ``make demo``.

It runs the commands that a user would type, and prints each.
"""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from runtime.errors import HowlError
from runtime.io.cli import program, run_command
from runtime.retriever import Retriever
from tools.running import run_script
from tools.visualization.canvas import save
from tools.visualization.gallery import Answer, Row, draw_gallery
from train.data.synthetic import write_scenes

SEED = 1000  # of a town that no training sees
BUILDINGS, VIEWS, SIDE = 24, 6, 320
BUDGET = ["--epochs", "1", "--tuples", "60", "--words", "1024"]
NETWORKS = {
    "HOW": ["--smoothing", "average"],
    "howl": ["--smoothing", "learned", "--graph"],
}
MARK = ".howl-demo"  # tells a folder that the demo may empty
SHOWN = 5  # queries in the picture, and answers to each


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    begin = time.perf_counter()
    out = Path(options.out)
    photos = out / "photos"
    make_room(out)
    say(f"{BUILDINGS} synthetic buildings, {VIEWS} views each → {photos}")
    write_scenes(photos, scenes=BUILDINGS, views=VIEWS, image_size=SIDE, seed=SEED)

    scores = {name: measured(name, flags, out, photos) for name, flags in NETWORKS.items()}
    engine = out / "howl.onnx"
    say("an index of all photos, and a search")
    run("tools/index.py", engine, photos, "--stats")
    run("tools/search.py", engine, photos / "building003" / "view00.jpg", "--top", "6")

    picture = out / "results.png"
    draw_results(engine, photos, picture)
    say("mean average precision on buildings that training never saw, every photo a query against all others")
    for name, score in scores.items():
        print(f"    {name:<6} {score:.4f}   {' '.join(NETWORKS[name])}")
    print(f"\nopen {picture}    ({time.perf_counter() - begin:.0f} s in all)")


def make_room(out: Path) -> None:
    """An empty folder for the demo; only what an earlier demo left is deleted."""
    mark = out / MARK
    if out.exists() and any(out.iterdir()) and not mark.exists():
        raise HowlError(f"{out}: holds files that are not a demo's; name another folder with --out")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    mark.touch()


def measured(name: str, flags: Sequence[str], out: Path, photos: Path) -> float:
    """Trains and exports one network, and gives its mean average precision on the demo's photos."""
    checkpoint, engine = out / f"{name.lower()}.pt", out / f"{name.lower()}.onnx"
    say(f"{name}: train, export, measure")
    run("train/run.py", *flags, *BUDGET, "--out", checkpoint)
    run("export/to_trt.py", checkpoint, "--out", engine.with_suffix(".plan"))
    return json.loads(run("tools/evaluate.py", engine, photos, "--json", quiet=True))["sets"][0]["mAP"]


def draw_results(engine: Path, photos: Path, picture: Path) -> None:
    """The picture: queries of different buildings and what was found for them."""
    rows = []
    with Retriever(engine) as retriever:
        for building in range(0, BUILDINGS, BUILDINGS // SHOWN)[:SHOWN]:
            query = photos / f"building{building:03d}" / "view00.jpg"
            hits = [hit for hit in retriever.search(query, SHOWN + 1) if hit.id != str(query)][:SHOWN]
            answers = [Answer(Path(hit.id), hit.score, Path(hit.id).parent == query.parent) for hit in hits]
            rows.append(Row(query, answers))
    save(draw_gallery(rows, "howl: queries, and the photos found for them"), picture)


def run(script: str, *arguments: str | Path, quiet: bool = False) -> str:
    """Runs one of the project's commands, printing it, and gives what it prints when ``quiet``."""
    words = [script, *map(str, arguments)]
    print("$ python " + shlex.join(words), flush=True)
    return run_script(*words, stdout=subprocess.PIPE if quiet else None)


def say(what: str) -> None:
    print(f"\n── {what}", flush=True)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=program("tools/demo.py"), description="The whole way, on made photos, in minutes."
    )
    parser.add_argument("--out", metavar="DIR", default="demo", help="folder to fill; what is there goes (%(default)s)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(run_command(main))
