"""The machine and the versions that the figures depend on."""

from typing import Any

from runtime.gpu import find_gpus
from tools.environment import describe_machine

PACKAGES = ("numpy", "opencv-python-headless", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx-cu13")


def environment() -> dict[str, Any]:
    """By name, for people."""
    return {**describe_machine(PACKAGES), "GPU": ", ".join(map(str, find_gpus())) or "none"}
