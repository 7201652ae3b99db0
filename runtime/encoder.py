"""The encoder: a photo → its features → what an index stores of it, or the query of a search."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any, TypeVar

from runtime.bundle import load_first_stage, load_manifest
from runtime.engine import open_engine
from runtime.engine.interface import PHOTO_BATCH
from runtime.errors import ImageError
from runtime.features import Features
from runtime.forking import renew_after_fork
from runtime.io.decoding import MAX_PIXELS
from runtime.io.image import Image, PhotoInput, decode, shrink_to_rgb, to_original_pixels
from runtime.io.prefetch import prefetch_map

Photo = TypeVar("Photo", bound=PhotoInput)
Item = TypeVar("Item")
Result = TypeVar("Result")


class Encoder:
    """An engine with its manifest, and the first stage that searches with its features.

    Any number of threads may share it: it decodes at most PHOTO_BATCH photos at a time, which can be large, and the
    engine runs as many.

    Attributes:
        path: the engine file.
        manifest: the engine's manifest.
        first_stage: ASMK with the engine's codebook, or inner products.
        engine: runs the graph.
        max_pixels: of an encoded photo.
    """

    def __init__(
        self,
        engine: Path,
        *,
        device: str | None = None,
        threshold: float | None = None,
        alpha: float | None = None,
        threads: int | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        """Opens an engine.

        Args:
            engine: ``engine.onnx``, ``engine.plan`` or ``engine.pt2``.
            device: ``cpu``; ``cuda``, which quantises there, too; or None to run the engine on a GPU if there is one.
            threshold: τ of the search; None for the manifest's.
            alpha: α of the search; None for the manifest's.
            threads: CPU threads that share the work of a photo; None for one per core.
            max_pixels: of an encoded photo; one with more is refused before it is decoded.

        Raises:
            HowlError: a file is missing or damaged, two of them do not belong together, or the device cannot be used.
        """
        self.path = engine
        self.max_pixels = max_pixels
        self.manifest = load_manifest(engine)
        self.engine = open_engine(engine, device, threads)
        self.first_stage = load_first_stage(engine, self.manifest, threshold=threshold, alpha=alpha, device=device)
        self._decoders = BoundedSemaphore(PHOTO_BATCH)
        renew_after_fork(self)

    def renew_after_fork(self) -> None:
        """Frees the places of decoders that are not forked."""
        self._decoders = BoundedSemaphore(PHOTO_BATCH)

    def load(self, photo: PhotoInput) -> Image:
        """The photo as the engine takes it: RGB, shrunk to the engine's image size. Raises ImageError."""
        return self.load_sized(photo)[0]

    def extract(self, photo: PhotoInput) -> Features:
        """The features of a photo; positions are in pixels of the photo as it was given."""
        image, (height, width) = self.load_sized(photo)
        features = self.extract_loaded(image)
        if image.shape[:2] == (height, width) or features.local is None:
            return replace(features, size=(width, height))
        positions = features.local.positions.copy()
        positions[:, 0] = to_original_pixels(positions[:, 0], width, image.shape[1])
        positions[:, 1] = to_original_pixels(positions[:, 1], height, image.shape[0])
        return replace(features, local=replace(features.local, positions=positions), size=(width, height))

    def extract_loaded(self, image: Image) -> Features:
        """The features of a photo that ``load`` gave; positions are in pixels of what it gave."""
        return replace(self.engine.extract(image), size=(image.shape[1], image.shape[0]))

    def load_sized(self, photo: PhotoInput) -> tuple[Image, tuple[int, int]]:
        """``load``, and the height and width that the photo had before it was shrunk."""
        with self._decoders:
            bgr = decode(photo, max_pixels=self.max_pixels)
            return shrink_to_rgb(bgr, self.manifest.image_size), (bgr.shape[0], bgr.shape[1])

    def encode_all(
        self, photos: Sequence[Photo], encode: Callable[[Features], Result]
    ) -> Iterator[tuple[Photo, Result | ImageError]]:
        """Every photo, in order, with what ``encode`` makes of its features, or the error if it cannot be read.

        Decoding, extraction and encoding of up to four photos overlap; at most eight results wait.
        """
        return self.encode_loaded(photos, self.load, lambda photo, features: encode(features))

    def encode_loaded(
        self, items: Sequence[Item], load: Callable[[Item], Image], encode: Callable[[Item, Features], Result]
    ) -> Iterator[tuple[Item, Result | ImageError]]:
        """``encode_all`` of items that ``load`` turns into images: RGB, at most of the engine's image size."""

        def work(item: Item) -> Result | ImageError:
            try:
                image = load(item)
            except ImageError as error:
                return error
            return encode(item, self.extract_loaded(image))

        return prefetch_map(work, items, PHOTO_BATCH)

    def encode_database(self, features: Features) -> Any:
        """What an index stores of a photo: ``FirstStage.encode_database``."""
        return self.first_stage.encode_database(features)

    def encode_query(self, features: Features, *, threads: int = 1) -> Any:
        """The query of a search: ``FirstStage.encode_query``."""
        return self.first_stage.encode_query(features, threads=threads)
