"""The interface behind which ONNX Runtime and TensorRT stand."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from runtime.features import Features


class Engine(Protocol):
    """Runs an exported graph."""

    provider: str  # what really runs it, e.g. "CPUExecutionProvider"

    def extract(self, image: NDArray[np.uint8]) -> Features:
        """The features of an RGB uint8 image [H, W, 3]. Raises HowlError where the engine refuses it."""
        ...
