"""An engine's own local features as keypoints: what it searches with is matched, and no second network is needed."""

import numpy as np
from numpy.typing import NDArray

from runtime.encoder import Encoder
from runtime.errors import IncompatibleError
from runtime.features import LocalFeatures
from runtime.io.image import PhotoInput, stored_orientation
from runtime.matching.keypoints import Keypoints


class OfEngine:
    """What an engine's own features become keypoints by: its encoder, its name, and the unit of its positions."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    @property
    def fingerprint(self) -> str:
        """Of the engine."""
        return self._encoder.manifest.fingerprint

    def shrunk(self, size: tuple[int, int]) -> float:
        """By how much the engine shrinks a photo of this width and height."""
        return min(1.0, self._encoder.manifest.image_size / max(size))


class EngineDetector(OfEngine):
    """Finds keypoints by an engine that gives local features. Any thread may use it."""

    def __init__(self, encoder: Encoder) -> None:
        """Raises IncompatibleError if the engine gives no local features."""
        if encoder.manifest.features is None:
            raise IncompatibleError(
                f"{encoder.path}: gives a global descriptor only, and matching photos by the engine's features needs "
                "local ones; export a system that has them (how, delf, delg, fire)"
            )
        super().__init__(encoder)

    def detect(self, photo: PhotoInput) -> Keypoints:
        """The local features of a photo. Raises ImageError if it cannot be read."""
        features = self._encoder.extract(photo)
        positions, descriptors = self.strongest_first(features.need_local())
        return Keypoints(positions, descriptors, features.need_size(), stored_orientation(photo))

    def strongest_first(self, local: LocalFeatures) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Positions, float32 [n, 2], and descriptors of length 1, [n, D]: HOW's have others, and distances count.

        A joined engine gives one kind of features after the other, whose descriptors lie apart on the diagonal
        (``export/joining.py``). Without their part of the diagonal they point from the middle of their kind again.
        """
        order = np.argsort(-local.strengths, kind="stable")
        descriptors = local.descriptors[order]
        if self._encoder.manifest.kinds > 1:
            descriptors = descriptors - descriptors.mean(axis=1, keepdims=True)
        lengths = np.linalg.norm(descriptors, axis=1, keepdims=True)
        return local.positions[order, :2], descriptors / np.maximum(lengths, np.finfo(np.float32).tiny)

    def engine_pixels(self, keypoints: Keypoints) -> NDArray[np.float32]:
        """Where keypoints lie in the image that the engine takes, float32 [n, 2]: the unit of how exact they are."""
        return (keypoints.positions + 0.5) * np.float32(self.shrunk(keypoints.size)) - 0.5
