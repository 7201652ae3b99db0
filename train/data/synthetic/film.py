"""What lens, film and JPEG make of the light."""

import cv2
import numpy as np
from numpy.random import Generator

from train.data.synthetic.sheet import Texture, as_texture


def develop(rng: Generator, image: Texture, warmth: float) -> Texture:
    """The photo of what was seen, uint8 [h, w, 3]; ``warmth`` of the light, > 0 is redder."""
    blur = rng.normal(0.2, 0.3)
    if blur > 0.3:  # less would not show
        image = as_texture(cv2.GaussianBlur(image, (0, 0), blur))
    image = as_texture(cv2.LUT(image, _tones(rng, warmth)))
    noise, quality = rng.uniform(1, 4), int(rng.integers(40, 96))
    grain = rng.standard_normal(image.shape[:2], dtype=np.float32) * np.float32(noise)
    image = (image + grain[..., None]).clip(0, 255).astype(np.uint8)
    _, file = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.ascontiguousarray(as_texture(cv2.imdecode(file, cv2.IMREAD_COLOR))[..., ::-1])


def _tones(rng: Generator, warmth: float) -> Texture:
    """The film's curve: uint8 [256, 1, 3]."""
    brightness, contrast, gamma = rng.uniform((0.82, 0.8, 0.8), (1.18, 1.2, 1.25))
    curve = (0.5 + contrast * (np.linspace(0, 1, 256)[:, None] ** gamma - 0.5)) * brightness
    tint = 1 + (warmth + rng.normal(0, 0.06)) * np.array([1, 0.1, -1])
    return (curve * tint * 255).clip(0, 255).astype(np.uint8)[:, None]
