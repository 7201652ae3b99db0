"""The machine that a command runs on, and what it takes of it."""

import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from runtime import native

MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes


def describe_machine(packages: Sequence[str]) -> dict[str, Any]:
    """What measurements depend on, by name, for people: the processor, Python, and those of the packages' versions."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "RAM": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "8-bit products (AVX-512 VNNI)": "yes" if native.CAN_ASSIGN else "no",
        "python": platform.python_version(),
        **{package: known for package in packages if (known := _version(package))},
    }


def peak_memory() -> int:
    """Bytes that this process has had in RAM at most."""
    import resource  # which Windows has not

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_UNIT


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
