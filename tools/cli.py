"""One command for all: ``howl COMMAND ...`` does what ``python FOLDER/COMMAND.py ...`` does."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple


class Command(NamedTuple):
    """A command of howl.

    Attributes:
        module: whose ``main`` it is.
        what: it does, for people.
    """

    module: str
    what: str


COMMANDS = {
    "init": Command("tools.init", "make an engine and an index of a folder of photos, without labels or training"),
    "train": Command("train.run", "train a network on photos"),
    "export": Command("export.to_trt", "make an engine of a checkpoint, and prove it"),
    "join": Command("export.to_joined", "make one engine of several, which has the features of all"),
    "matcher": Command("export.to_matcher", "make a matcher of keypoints, for --rerank lightglue and poses"),
    "index": Command("tools.index", "make and keep an index of photos"),
    "search": Command("tools.search", "search an index with a photo"),
    "serve": Command("tools.serve", "answer over HTTP, with a page to drop photos onto"),
    "pairs": Command("tools.pairs", "write the pairs of photos that are worth matching, for COLMAP and hloc"),
    "localise": Command("tools.localise", "find where photos were taken, in a reconstruction of COLMAP's"),
    "evaluate": Command("tools.evaluate", "measure an engine on labelled photos"),
    "benchmark": Command("tools.benchmark", "time whole queries, stage by stage"),
    "visualize": Command("tools.visualize", "draw what a network or a search sees"),
    "demo": Command("tools.demo", "the whole way on synthetic photos"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command that the arguments name."""
    words = sys.argv[1:] if arguments is None else arguments
    name = parse(words)
    sys.argv = [f"howl {name}", *words[1:]]
    import_module(COMMANDS[name].module).main()


def parse(arguments: Sequence[str]) -> str:
    """The command's name; its own arguments are left to it."""
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:{width}}  {command.what}" for name, command in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="howl",
        usage="howl COMMAND ...",
        description=f"Finds the photos of the same place.\n\ncommands:\n{lines}",
        epilog="howl COMMAND --help says what a command takes.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"howl {_version()}")
    parser.add_argument("command", metavar="COMMAND", choices=COMMANDS, help="one of the above")
    return parser.parse_args(arguments[:1]).command


def _version() -> str:
    try:
        return version("howl")
    except PackageNotFoundError:
        return "of a folder that is not installed"
