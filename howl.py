"""The command ``howl`` (``howl init|train|export|index|search|evaluate|...``), and the start of scripts.

howl's packages have common names, so that another project's package may hide one of them. That is found out here, in
the one module whose name is howl's own, before anything of theirs is imported.
"""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

PACKAGES = ("runtime", "train", "export", "tools")


def hidden_packages(home: Path) -> list[str]:
    """A line for every package of howl's that Python would take from elsewhere than ``home``."""
    lines = []
    for name in PACKAGES:
        spec = find_spec(name)
        found = [] if spec is None else [spec.origin, *(spec.submodule_search_locations or [])]
        if not any(place and Path(place).resolve().is_relative_to(home / name) for place in found):
            where = found[-1] if found else "nowhere"
            lines.append(f"the package '{name}' is taken from {where}, not from {home}")
    return lines


def main(module: str = "tools.cli") -> int:
    """Runs the ``main`` of a command's module, by default that of ``howl`` itself, and gives its exit status."""
    try:
        if lines := hidden_packages(Path(__file__).resolve().parent):
            for line in lines:
                print(f"error: {line}", file=sys.stderr)
            print("error: install howl into an environment of its own, or from another folder", file=sys.stderr)
            return 1
        from runtime.io.cli import run_module

        return run_module(module)
    except KeyboardInterrupt:  # during the import above; run_module sees to all others
        print("interrupted", file=sys.stderr)
        return 130


def run_script(module: str) -> NoReturn:
    """Runs the command whose file Python was given as a script, and exits.

    A script calls this before its imports, which take seconds and may lack a package. It is imported once more as a
    module, within ``main``, so that an interrupt or a missing package is a line, and no traceback.
    """
    sys.exit(main(module))


if __name__ == "__main__":
    sys.exit(main())
