"""The interface of the engines, ONNX Runtime, TensorRT and PyTorch, and the choice between them."""

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from runtime.arguments import thread_count
from runtime.cores import available_cores
from runtime.errors import DeviceError, UsageError
from runtime.features import Features

# Photos that are processed at a time. The engine spreads the work of one over all cores; a few at once use the time
# that it leaves idle. The activations of many more would not fit into memory.
PHOTO_BATCH = min(4, available_cores())


class Engine(Protocol):
    """Runs an exported graph. Any number of threads may share it: it lets at most PHOTO_BATCH run at a time."""

    provider: str  # what really runs it, e.g. "CPUExecutionProvider"

    def extract(self, image: NDArray[np.uint8]) -> Features:
        """The features of an RGB uint8 image [H, W, 3]. Raises HowlError if the engine cannot take it."""
        ...


def open_engine(path: Path, device: str | None = None, threads: int | None = None) -> Engine:
    """The engine for a file: TensorRT for ``.plan``, ONNX Runtime for ``.onnx``, PyTorch for ``.pt2``.

    Args:
        path: the exported graph.
        device: ``cpu``, ``cuda``, or None for a GPU if there is one and what runs the engine can use it.
        threads: CPU threads that share the work of an image, at most 1,024; None for one per core.

    Raises:
        HowlError: the file cannot be run here, or a requested GPU cannot be used.
    """
    threads = thread_count(threads)
    if path.suffix == ".plan":
        if device == "cpu":
            raise DeviceError(f"{path}: a plan runs on a GPU only; use {path.with_suffix('.onnx').name} on the CPU")
        from runtime.engine.tensorrt.engine import TensorRTEngine

        return TensorRTEngine(path)
    if path.suffix == ".onnx":
        from runtime.engine.onnxruntime import OnnxRuntimeEngine

        return OnnxRuntimeEngine(path, device, threads)
    if path.suffix == ".pt2":
        from runtime.engine.pytorch import PyTorchEngine

        return PyTorchEngine(path, device, threads)
    raise UsageError(f"{path}: an engine is an .onnx, a .plan or a .pt2 file")
