"""Several engines with local features → one engine: ``python export/to_joined.py a.onnx b.onnx --out joined.onnx``."""

if __name__ == "__main__":
    import howl

    howl.run_script("export.to_joined")  # before the imports: howl.py says why

import argparse
from collections.abc import Sequence
from pathlib import Path

from export.joining import join_engines
from runtime.errors import UsageError
from runtime.io.cli import program


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    join_engines(options.engines, options.out, photos=options.photos)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=program("export/to_joined.py"),
        description="Makes one engine of several: a photo gets the local features of all of them, and a search counts "
        "what any of them finds again. It takes the sum of their times, and of their sizes in an index.",
    )
    parser.add_argument("engines", nargs="+", type=Path, metavar="ENGINE.onnx", help="as howl export writes them")
    parser.add_argument("--out", type=Path, default=Path("joined.onnx"), metavar="ENGINE.onnx", help="(%(default)s)")
    parser.add_argument("--photos", type=Path, metavar="DIR", help="a folder to prove the engine on (textures)")
    options = parser.parse_args(arguments)
    if options.out.suffix != ".onnx":
        raise UsageError(f"--out {options.out}: joined engines are graphs; name an engine.onnx")
    return options
