"""The command ``howl``: ``howl train|export|index|search|evaluate|benchmark|visualize|demo``.

howl's packages have common names, so that another project's package may hide one of them. That is found out here, in
the one module whose name is howl's own, before anything of theirs is imported.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

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


def main() -> int:
    """Runs the command that the arguments name, and gives its exit status."""
    if lines := hidden_packages(Path(__file__).resolve().parent):
        for line in lines:
            print(f"error: {line}", file=sys.stderr)
        print("error: install howl into an environment of its own, or from another folder", file=sys.stderr)
        return 1
    from tools.cli import run

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
