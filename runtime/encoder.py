"""The encoder: a photo → its local descriptors → its visual words and codes."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from runtime.asmk.kernel import AsmkCodes, AsmkParameters, aggregate
from runtime.bundle import load_checked
from runtime.engine import Features, open_engine
from runtime.errors import ImageError
from runtime.io.image import Image, PhotoInput, load_rgb, shrink, to_original_pixels
from runtime.io.prefetch import prefetch_map

Photo = TypeVar("Photo", bound=PhotoInput)
Item = TypeVar("Item")
Result = TypeVar("Result")

# Photos that are worked on at a time. The engine shares the work of one among all cores; a few at once fill what it
# leaves idle, and the activations of many more would not fit the memory.
PHOTO_BATCH = min(4, os.cpu_count() or 1)


class Encoder:
    """An engine, with the manifest and the codebook that export left beside it."""

    def __init__(
        self,
        engine: Path,
        *,
        device: str | None = None,
        threshold: float | None = None,
        alpha: float | None = None,
    ) -> None:
        """Opens an engine.

        Args:
            engine: ``engine.onnx`` or ``engine.plan``.
            device: ``cpu``, ``cuda``, or None for a GPU where there is one.
            threshold: τ of the search, where it should differ from the manifest's.
            alpha: α of the search, likewise.

        Raises:
            HowlError: a file is missing or damaged, two of them do not belong together, or the device cannot be used.
        """
        self.path = engine
        self.manifest, self.codebook = load_checked(engine)
        defaults = self.manifest.asmk
        self.asmk: AsmkParameters = replace(
            defaults,
            threshold=defaults.threshold if threshold is None else threshold,
            alpha=defaults.alpha if alpha is None else alpha,
        )
        self.engine = open_engine(engine, device)

    def load(self, photo: PhotoInput) -> Image:
        """The photo as the engine takes it: RGB, shrunk to the engine's image size. Raises ImageError."""
        return load_rgb(photo, self.manifest.image_size)

    def extract(self, photo: PhotoInput) -> Features:
        """The local descriptors of a photo; positions are in pixels of the photo as it was given."""
        full = load_rgb(photo)
        image = shrink(full, self.manifest.image_size)
        features = self.engine.extract(image)
        if image is full:
            return features
        positions = features.positions.copy()
        positions[:, 0] = to_original_pixels(positions[:, 0], full.shape[1], image.shape[1])
        positions[:, 1] = to_original_pixels(positions[:, 1], full.shape[0], image.shape[0])
        return replace(features, positions=positions)

    def encode_all(
        self, photos: Sequence[Photo], encode: Callable[[Features], Result]
    ) -> Iterator[tuple[Photo, Result | ImageError]]:
        """Every photo, in order, with what ``encode`` makes of its descriptors, or why it cannot be read.

        Decoding, extraction and encoding of up to four photos overlap; no more than eight results wait.
        """
        return self.encode_loaded(photos, self.load, encode)

    def encode_loaded(
        self, items: Sequence[Item], load: Callable[[Item], Image], encode: Callable[[Features], Result]
    ) -> Iterator[tuple[Item, Result | ImageError]]:
        """``encode_all`` of whatever ``load`` makes an image of: RGB, of the engine's image size at most."""

        def work(item: Item) -> Result | ImageError:
            try:
                image = load(item)
            except ImageError as error:
                return error
            return encode(self.engine.extract(image))

        return prefetch_map(work, items, PHOTO_BATCH)

    def encode_database(self, features: Features) -> AsmkCodes:
        """Words and codes as the index keeps them: every descriptor belongs to its nearest word."""
        return self._aggregate(features, 1)

    def encode_query(self, features: Features, *, threads: int = 1) -> AsmkCodes:
        """Words and codes of a query, whose descriptors belong to several words each (multiple assignment)."""
        return self._aggregate(features, self.asmk.multiple_assignment, threads)

    def _aggregate(self, features: Features, assignments: int, threads: int = 1) -> AsmkCodes:
        words = self.codebook.assign(features.descriptors, assignments, threads=threads)
        return aggregate(features.descriptors, words, self.codebook.centroids)
