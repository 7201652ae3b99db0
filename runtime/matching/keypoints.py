"""The keypoints of a photo, and what finds them."""

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from runtime.io.image import PhotoInput


@dataclass(frozen=True)
class Keypoints:
    """The points of a photo that are worth matching, strongest first.

    Attributes:
        positions: float32 [n, 2], x and y in pixels of the whole upright photo; the centre of the first pixel is 0.
        descriptors: float32 [n, D], of length 1.
        size: width and height of the photo, in pixels.
        orientation: how EXIF says that the stored pixels are turned upright, one of its eight.
    """

    positions: NDArray[np.float32]
    descriptors: NDArray[np.float32]
    size: tuple[int, int]
    orientation: int = 1

    def __len__(self) -> int:
        return len(self.positions)

    def strongest(self, n: int) -> "Keypoints":
        """The first ``n`` of them."""
        return replace(self, positions=self.positions[:n], descriptors=self.descriptors[:n])


class Detector(Protocol):
    """Finds the keypoints of photos."""

    @property
    def fingerprint(self) -> str:
        """Keypoints of one fingerprint can be matched with each other."""
        ...

    def detect(self, photo: PhotoInput) -> Keypoints:
        """The keypoints of a photo. Raises ImageError if it cannot be read."""
        ...
