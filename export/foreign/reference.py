"""A third party's network, run as its authors would: photos prepared in NumPy, and its own file. What an engine is
proven by, so that it shares no line with the graph that is written."""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from export.foreign.graph import Whitening
from export.foreign.network import Network, run_or_say
from export.foreign.options import JUST_ABOVE, Preprocessing
from export.foreign.outputs import Outputs
from runtime.errors import IncompatibleError
from runtime.features import Features, LocalFeatures
from runtime.io.image import Image, to_original_pixels

TEXTURE_SIDES = ((360, 480), (480, 320), (300, 300))  # height and width, in pixels


def prepare(image: Image, network: Network, how: Preprocessing) -> NDArray:
    """The tensor that a network takes, of an RGB uint8 image [H, W, 3]."""
    height, width = network_size(image, how)
    pixels = image.astype(np.float64)
    for axis, side in enumerate((height, width)):
        pixels = resize_axis(pixels, axis, side, antialias=how.antialias)
    pixels = (pixels / 255 - np.array(how.mean)) / np.array(how.std) * how.unit
    if network.image.dtype == np.uint8:
        pixels = np.floor(pixels + JUST_ABOVE + 0.5)
    tensor = pixels.transpose(2, 0, 1) if network.image.channels_first else pixels
    tensor = tensor[None] if network.image.batched else tensor
    return np.ascontiguousarray(tensor, network.image.dtype)


def network_size(image: Image, how: Preprocessing) -> tuple[int, int]:
    """Height and width, in pixels, that an image gets before it enters the network."""
    if how.input is not None:
        return how.input
    rounded = (max(how.least, round(side / how.multiple) * how.multiple) for side in image.shape[:2])
    height, width = rounded
    return height, width


def resize_axis(pixels: NDArray[np.float64], axis: int, size: int, *, antialias: bool) -> NDArray[np.float64]:
    """One axis of an image resized by bilinear interpolation; shrinking averages over all pixels with ``antialias``."""
    full = pixels.shape[axis]
    if full == size:
        return pixels
    pixels = np.moveaxis(pixels, axis, 0)
    resized = np.empty((size, *pixels.shape[1:]))
    reach = max(full / size, 1.0) if antialias else 1.0
    for number in range(size):
        centre = (number + 0.5) * full / size - 0.5
        near = np.arange(int(np.floor(centre - reach)), int(np.ceil(centre + reach)) + 1)
        weights = np.maximum(0, 1 - np.abs(near - centre) / reach)
        inside = (near >= 0) & (near < full)
        weights, near = weights[inside], near[inside]
        resized[number] = np.tensordot(weights / weights.sum(), pixels[near], axes=1)
    return np.moveaxis(resized, 0, axis)


def reference(
    network: Network, how: Preprocessing, outputs: Outputs, features: int | None, whitening: Whitening | None
) -> Callable[[Image], Features]:
    """What the engine must give for an image.

    Args:
        network: the third party's own file.
        how: its preprocessing.
        outputs: that become features.
        features: K, local features of a photo; None of a global network.
        whitening: of local descriptors.
    """

    def run(image: Image) -> Features:
        given = run_or_say(network, prepare(image, network, how))
        if features is None:
            vector = given[outputs.descriptors].astype(np.float32).ravel()
            if len(vector) != outputs.dimensions:
                raise IncompatibleError(
                    f"{network.path}: '{outputs.descriptors}' has {outputs.dimensions} dimensions of one photo and "
                    f"{len(vector)} of another; name the size that it was made for, --input HxW"
                )
            return Features(global_descriptor=vector / max(float(np.linalg.norm(vector)), 1e-12))
        return Features(local_features(given, image, network_size(image, how), outputs, features, whitening))

    return run


def local_features(
    given: dict[str, NDArray],
    image: Image,
    size: tuple[int, int],
    outputs: Outputs,
    features: int,
    whitening: Whitening | None,
) -> LocalFeatures:
    """The best rows of what a network gave for an image that it got with a height and width."""
    descriptors = given[outputs.descriptors].astype(np.float32)
    descriptors = descriptors.reshape(outputs.dimensions, -1).T if outputs.transposed else descriptors
    descriptors = descriptors.reshape(-1, outputs.dimensions)
    places = given[str(outputs.positions)].astype(np.float32).reshape(-1, 2)
    x = to_original_pixels(places[:, 0], image.shape[1], size[1])
    y = to_original_pixels(places[:, 1], image.shape[0], size[0])
    if outputs.scores is None:
        scores = np.ones(len(descriptors), np.float32)
    else:
        scores = given[outputs.scores].astype(np.float32).ravel()
    order = np.argsort(-scores, kind="stable")[:features]
    order = order[scores[order] > 0]
    descriptors = descriptors[order] if whitening is None else whitening(descriptors[order])
    strengths = scores[order] / max(scores.max(initial=0), 1e-12)
    return LocalFeatures(descriptors, strengths, np.stack([x, y, np.ones_like(x)], axis=1)[order])


def textures() -> list[Image]:
    """Images to prove an engine on where there are no photos: smooth noise with fine grain, of three sizes."""
    random = np.random.default_rng(0)
    images = []
    for height, width in TEXTURE_SIDES:
        coarse = random.integers(0, 256, (height // 12, width // 12, 3), dtype=np.uint8)
        smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.int16)
        images.append(np.clip(smooth + random.integers(-20, 21, smooth.shape), 0, 255).astype(np.uint8))
    return images
