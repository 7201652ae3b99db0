"""An index survives the kill of its writer at any moment, and a disk that becomes full at any step."""

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

KILLS = 96
SEED = int(os.environ.get("HOWL_KILL_SEED", secrets.randbelow(1 << 32)))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork") or not hasattr(signal, "SIGKILL"), reason="needs fork and kill"),
]


@pytest.fixture
def fast_folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where there is such a place: what is tested there does not depend on the disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as folder:
        yield Path(folder)


def run_kills(mode: str, *arguments: object) -> dict[str, Any]:
    """What `index_kills.py` counted; it fails where an index is not as it should be."""
    program = Path(__file__).parent / "index_kills.py"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, program, mode, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{mode} {arguments}:\n{done.stderr}"
    return json.loads(done.stdout)


def test_whatever_the_moment_of_a_kill_the_index_holds_what_was_acknowledged(
    fast_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And no half image, and the next writer goes on. HOWL_KILL_SEED=… repeats a run, as far as moments can be."""
    counted = run_kills("random", fast_folder / "landmarks.index", SEED, KILLS)
    with capsys.disabled():
        print(f"\nHOWL_KILL_SEED={SEED}: {KILLS} kills, in {counted['moments']}")
    assert sum(counted["moments"].values()) == KILLS
    assert all(
        counted["moments"][moment] >= KILLS // 20 for moment in ("add", "merge", "remove", "compact", "replace", "swap")
    )


def test_a_kill_before_any_step_leaves_one_commit_or_the_other(fast_folder: Path) -> None:
    kills = run_kills("steps", fast_folder)["kills"]
    assert kills["remove"] >= 5
    assert all(kills[name] >= 20 for name in ("add", "merge", "compact"))


def test_a_kill_while_the_index_is_made_does_not_block_its_folder(fast_folder: Path) -> None:
    assert run_kills("creation", fast_folder)["kills"] >= 8


def test_a_disk_that_becomes_full_at_any_step_leaves_the_index_as_it_was(fast_folder: Path) -> None:
    """The writer is told, in one line; with room again, the same operation goes through."""
    refusals = run_kills("full", fast_folder)["refusals"]
    assert all(refusals[name] >= 10 for name in ("add", "merge", "compact"))
