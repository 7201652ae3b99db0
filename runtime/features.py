"""What an engine gives for a photo: local features, a global descriptor, or both."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.errors import IncompatibleError


@dataclass(frozen=True)
class LocalFeatures:
    """The n ≤ K strongest local descriptors of one image, strongest first; a joined engine's, kind after kind.

    Attributes:
        descriptors: float32 [n, D]: HOW's are whitened and not L2-normalised (HOW, §3.3), DELF's and DELG's are of unit
            length.
        strengths: float32 [n] in (0, 1], attention divided by the image's maximum.
        positions: float32 [n, 3]: x, y in pixels of the engine's input image (the centre of the top-left
            pixel is 0, 0), and the scale of the pyramid at which the descriptor was found.
    """

    descriptors: NDArray[np.float32]
    strengths: NDArray[np.float32]
    positions: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.descriptors)


@dataclass(frozen=True)
class Features:
    """Everything that an engine gives for one image.

    Attributes:
        local: its local features; None from an engine that gives none.
        global_descriptor: float32 [G], L2-normalised; None from an engine that gives none.
        activations: float32 [C, h, w], the map that the global descriptor is pooled of, at the scale of the pyramid
            that is nearest to 1; None from an engine that gives none.
        size: width and height of the image that positions are in, in pixels; None where that was not kept.
    """

    local: LocalFeatures | None = None
    global_descriptor: NDArray[np.float32] | None = None
    activations: NDArray[np.float32] | None = None
    size: tuple[int, int] | None = None

    def need_local(self) -> LocalFeatures:
        """The local features. Raises IncompatibleError if the engine gives none."""
        if self.local is None:
            raise IncompatibleError("the engine gives a global descriptor only, and this needs local features")
        return self.local

    def need_global(self) -> NDArray[np.float32]:
        """The global descriptor. Raises IncompatibleError if the engine gives none."""
        if self.global_descriptor is None:
            raise IncompatibleError("the engine gives local features only, and this needs a global descriptor")
        return self.global_descriptor

    def need_activations(self) -> NDArray[np.float32]:
        """The activation map. Raises IncompatibleError if the engine gives none."""
        if self.activations is None:
            raise IncompatibleError("the engine gives no activation map, and this needs one")
        return self.activations

    def need_size(self) -> tuple[int, int]:
        """The size of the image. Raises IncompatibleError if it was not kept."""
        if self.size is None:
            raise IncompatibleError("the size of the image was not kept with its features, and this needs it")
        return self.size
