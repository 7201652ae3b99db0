"""find_gpus against drivers that answer, refuse, or are no drivers: stand-ins compiled for the test."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.gpu import Gpu, find_gpus

ASK = """
import json
from runtime.gpu import find_gpus
print(json.dumps([[gpu.name, *gpu.compute_capability, str(gpu)] for gpu in find_gpus()]))
"""

TWO_GPUS = """
#include <string.h>
int cuInit(unsigned flags) { return 0; }
int cuDeviceGetCount(int *count) { *count = 2; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = 40 + ordinal; return 0; }
int cuDeviceGetName(char *name, int size, int device) {
    strncpy(name, device == 40 ? "Test H100" : "Test L4", size);
    return 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    int major = device == 40 ? 9 : 8, minor = device == 40 ? 0 : 9;
    *value = attribute == 75 ? major : attribute == 76 ? minor : -1;
    return 0;
}
"""
NO_DEVICE = TWO_GPUS.replace("cuInit(unsigned flags) { return 0; }", "cuInit(unsigned flags) { return 100; }")
SECOND_IS_LOST = TWO_GPUS.replace(
    "*device = 40 + ordinal; return 0;", "*device = 40 + ordinal; return ordinal == 1 ? 999 : 0;"
)
NOT_THE_DRIVER = "int something_else(void) { return 0; }"

needs_compiler = pytest.mark.skipif(
    not (sys.platform == "linux" and shutil.which("cc")), reason="needs Linux and a C compiler"
)


def ask_with_driver(folder: Path) -> list:
    """What find_gpus says in a new process that looks for the driver in `folder` first."""
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("LD_LIBRARY_PATH")]))
    environment = os.environ | {"LD_LIBRARY_PATH": path, "PYTHONPATH": os.pathsep.join(sys.path)}
    answer = subprocess.run(
        [sys.executable, "-c", ASK], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    return json.loads(answer.stdout)


def compile_driver(source: str, folder: Path) -> None:
    (folder / "driver.c").write_text(source)
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-o", folder / "libcuda.so.1", folder / "driver.c"], check=True, timeout=60
    )


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(
    ("driver", "expected"),
    [
        (
            TWO_GPUS,
            [
                ["Test H100", 9, 0, "Test H100 (compute capability 9.0)"],
                ["Test L4", 8, 9, "Test L4 (compute capability 8.9)"],
            ],
        ),
        (SECOND_IS_LOST, [["Test H100", 9, 0, "Test H100 (compute capability 9.0)"]]),
        (NO_DEVICE, []),
        (NOT_THE_DRIVER, []),
    ],
    ids=["two GPUs", "second is lost", "no device", "not the driver"],
)
def test_says_what_the_driver_says(tmp_path: Path, driver: str, expected: list) -> None:
    compile_driver(driver, tmp_path)
    assert ask_with_driver(tmp_path) == expected


@pytest.mark.skipif(sys.platform != "linux", reason="LD_LIBRARY_PATH is Linux's")
def test_a_broken_driver_file_counts_as_no_gpu(tmp_path: Path) -> None:
    (tmp_path / "libcuda.so.1").write_bytes(b"this is no library")
    assert ask_with_driver(tmp_path) == []


@pytest.mark.gpu
@pytest.mark.skipif(not find_gpus(), reason="needs an NVIDIA GPU, none was found")
def test_finds_the_real_gpu() -> None:
    gpu = find_gpus()[0]
    assert isinstance(gpu, Gpu)
    assert gpu.name
    assert gpu.compute_capability >= (5, 0)
