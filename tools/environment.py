"""The machine that a command runs on, what the command takes of it, and the packages that are installed there."""

import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from runtime import native
from runtime.cores import available_cores
from runtime.errors import DependencyError
from runtime.gpu import find_gpus

MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes


def require_packages(*modules: str, hint: str | None = None) -> None:
    """Makes sure that packages are installed before the work begins: no measurement is lost because one is missing.

    Args:
        modules: as they are imported, such as ``matplotlib`` or ``asmk.hamming``.
        hint: how to get them; default: pip, by the module's name.

    Raises:
        DependencyError: one is not installed; the line says how to get it.
    """
    for module in modules:
        if not is_installed(module):
            raise DependencyError(f"{module} is not installed, and this needs it: {hint or f'pip install {module}'}")


def load_pyplot() -> Any:
    """matplotlib's pyplot, drawing to files; imported late, because that takes half a second.

    Raises:
        DependencyError: matplotlib is not installed.
    """
    require_packages("matplotlib")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def describe_machine(packages: Sequence[str]) -> dict[str, Any]:
    """What measurements depend on, by name, for people: the processor, Python, the packages' versions, the GPUs."""
    return {
        "processor": _processor(),
        "cores": available_cores(),
        "RAM": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "8-bit products (AVX-512 VNNI)": "yes" if native.CAN_ASSIGN else "no",
        "python": platform.python_version(),
        **{package: known for package in packages if (known := _version(package))},
        "GPU": ", ".join(map(str, find_gpus())) or "none",
    }


def peak_memory() -> int:
    """Bytes that this process has had in RAM at most."""
    import resource  # does not exist on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_UNIT


def is_installed(module: str) -> bool:
    """Whether a module can be imported; only the packages that it is in are."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package that the module is in
        return False


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
