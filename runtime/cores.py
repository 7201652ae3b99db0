"""How many CPU cores this process may use."""

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
MAX_THREADS = 1024  # of a call: more than any machine has cores


def available_cores(cgroup: Path = CGROUP) -> int:
    """The cores that the process is bound to, or what its container is allowed if that is less; at least 1.

    Args:
        cgroup: where Linux says what a container may use.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(bound, _quota(cgroup))))


def _quota(cgroup: Path) -> float:
    """The processor time that a container gets in a second, in seconds, by version 2 or 1 of Linux's cgroups."""
    try:
        if (file := cgroup / "cpu.max").exists():
            quota, period = file.read_text().split()
        else:
            quota, period = (
                (cgroup / "cpu" / name).read_text().strip() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            )
        return int(quota) / int(period) if int(quota) > 0 else math.inf
    except (OSError, ValueError, ZeroDivisionError):  # "max", or no such file: no limit
        return math.inf
