"""Presets: how much time a photo may take, from HOW's own setting down to a small part of it."""

from dataclasses import dataclass

from train.models.base import HOW_SCALES


@dataclass(frozen=True)
class Preset:
    """Settings of an export that go together; names are those of the command's options.

    Attributes:
        image_size: longest side, in pixels, to which larger photos are shrunk.
        scales: of the pyramid.
        features: K, descriptors of a photo.
        precision: ``fp32``, ``fp16`` or ``int8``.
    """

    image_size: int
    scales: tuple[float, ...]
    features: int
    precision: str


PRESETS = {
    "how": Preset(1024, HOW_SCALES, 1000, "fp32"),
    "int8": Preset(1024, HOW_SCALES, 1000, "int8"),
    "balanced": Preset(1024, (1.0, 0.707, 0.5), 1000, "int8"),
    "fast": Preset(512, (1.0, 0.707, 0.5), 700, "int8"),
    "fastest": Preset(320, (1.0, 0.707), 500, "int8"),
}
