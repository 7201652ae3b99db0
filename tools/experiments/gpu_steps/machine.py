"""The machine itself: its GPU, what that reaches, and whether the tests pass on it."""

import subprocess
import sys
from pathlib import Path

import torch

from runtime.gpu.device import Device
from tools.environment import describe_machine
from tools.experiments.benchmark_gpu import Stopwatch
from tools.experiments.gpu_steps.measuring import Result, milliseconds
from tools.experiments.gpu_steps.preparation import Prepared

CUDA_PACKAGES = ("torch", "triton", "cuda-bindings", "nvidia-cuda-nvrtc", "nvidia-cudnn-cu13")
PACKAGES = (*CUDA_PACKAGES, "onnxruntime-gpu", "onnxruntime", "tensorrt", "tensorrt-rtx-cu13", "numpy")
SIDE = 8192  # of the matrices that are multiplied
TESTS = Path(__file__).parents[3]


def machine(prepared: Prepared, result: Result) -> None:
    """What measurements depend on, and the two rates that nothing on the GPU exceeds."""
    for name, value in describe_machine(PACKAGES).items():
        result.add(what=name, found=str(value))
    watch = Stopwatch(Device("the report"), copied_bytes=4 << 30)
    result.add(what="memory, read and written", found=f"{watch.bandwidth(20) / 1e12:.2f} TB/s")
    for dtype in (torch.float16, torch.float32):
        a, b = (torch.randn(SIDE, SIDE, device="cuda", dtype=dtype) for _ in range(2))
        taken = milliseconds(lambda a=a, b=b: a @ b, 10)  # type: ignore[misc]
        rate = 2 * SIDE**3 / (float(taken.split()[0]) / 1e3) / 1e12
        result.add(what=f"matrix products, {dtype}", found=f"{rate:.0f} TFLOP/s")


def tests(prepared: Prepared, result: Result) -> None:
    """``pytest -m gpu``."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-rs", "-p", "no:cacheprovider"],
        cwd=TESTS,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith(("SKIPPED", "FAILED", "ERROR", "E "))]
    result.add(status=done.returncode, said=done.stdout.strip().splitlines()[-1])
    for line in lines[:40]:
        result.note(line)
