"""What every engine gives for a photo, whatever runs it."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Features:
    """The n ≤ K strongest local descriptors of one image, strongest first.

    Attributes:
        descriptors: float32 [n, D], whitened, not L2-normalised (HOW §3.3).
        strengths: float32 [n] in (0, 1], attention divided by the image's maximum.
        positions: float32 [n, 3]: x, y in pixels of the engine's input image (the centre of the top-left
            pixel is 0, 0), and the scale of the pyramid at which the descriptor was found.
    """

    descriptors: NDArray[np.float32]
    strengths: NDArray[np.float32]
    positions: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.descriptors)


class Engine(Protocol):
    """Runs the exported graph: the one interface behind which ONNX Runtime and TensorRT stand."""

    provider: str  # what really runs it, e.g. "CPUExecutionProvider"

    def extract(self, image: NDArray[np.uint8]) -> Features:
        """The local descriptors of an RGB uint8 image [H, W, 3]. Raises HowlError where the engine refuses it."""
        ...
