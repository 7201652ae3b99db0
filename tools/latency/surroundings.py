"""The machine and the versions that the figures depend on."""

import os
import platform
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from runtime.engine.onnxruntime_engine import import_onnxruntime
from runtime.gpu import find_gpus
from tools.asmk_benchmark.report import machine
from tools.latency.subject import Subject


def surroundings(subjects: Sequence[Subject]) -> dict[str, Any]:
    """By name, for people; ONNX Runtime where it runs an engine (a plan's provider tells of TensorRT itself)."""
    known = machine()
    uses_onnxruntime = any(subject.encoder.path.suffix == ".onnx" for subject in subjects)
    return {
        "processor": known["processor"],
        "cores": known["cores"],
        "RAM": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "GPU": ", ".join(map(str, find_gpus())) or "none",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        **({"onnxruntime": import_onnxruntime().__version__} if uses_onnxruntime else {}),
    }
