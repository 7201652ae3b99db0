"""The ellipses in an engine's activation maps, as keypoints that are kept and found again like others."""

import numpy as np

from runtime.encoder import Encoder
from runtime.errors import IncompatibleError
from runtime.features import Features
from runtime.io.image import PhotoInput, stored_orientation
from runtime.matching.ellipses import Ellipses, find_ellipses
from runtime.matching.engine_detector import OfEngine
from runtime.matching.keypoints import Keypoints


class EllipseDetector(OfEngine):
    """Finds ellipses by an engine that gives activation maps. Any thread may use it.

    Their keypoints have, as descriptors, the channel and the three numbers of the frame, in pixels of the photo.
    """

    def __init__(self, encoder: Encoder) -> None:
        """Raises IncompatibleError if the engine gives no activation maps."""
        if not encoder.manifest.activations:
            raise IncompatibleError(
                f"{encoder.path}: gives no activation maps, which dsm re-ranks by; a network of gem or solar gives "
                "them when it is exported with --activations"
            )
        super().__init__(encoder)

    def detect(self, photo: PhotoInput) -> Keypoints:
        """The ellipses of a database photo. Raises ImageError if it cannot be read."""
        features = self._encoder.extract(photo)
        found = in_photo(features, overlapping=False)
        values = np.column_stack([found.channels.astype(np.float32), found.frames])
        return Keypoints(found.centres, values, features.need_size(), stored_orientation(photo))

    def of_query(self, photo: PhotoInput, features: Features | None) -> Ellipses:
        """The ellipses of a query, in pixels of the image that the engine takes: many, which may overlap.

        Args:
            photo: the query.
            features: the engine's, or None to extract them. Raises ImageError if the photo then cannot be read.
        """
        if features is None:
            features = self._encoder.extract(photo)
        return self._in_engine_pixels(in_photo(features, overlapping=True), features.need_size())

    def of_image(self, keypoints: Keypoints) -> Ellipses:
        """Ellipses that ``detect`` has found, in pixels of the image that the engine takes."""
        frames = keypoints.descriptors[:, 1:]
        found = Ellipses(keypoints.positions, frames, keypoints.descriptors[:, 0].astype(np.int32))
        return self._in_engine_pixels(found, keypoints.size)

    def _in_engine_pixels(self, found: Ellipses, size: tuple[int, int]) -> Ellipses:
        factor = self.shrunk(size)
        return found.scaled(factor, factor)


def in_photo(features: Features, *, overlapping: bool) -> Ellipses:
    """The ellipses in a photo's activation map, in pixels of the photo: ``find_ellipses``."""
    activations, (width, height) = features.need_activations(), features.need_size()
    rows, columns = activations.shape[1:]
    return find_ellipses(activations, overlapping=overlapping).scaled(width / columns, height / rows)
