"""Photos and work that experiments time: the processor's time of one thread, which other work changes little."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.bundle import EngineFiles, Manifest
from runtime.engine import open_engine
from runtime.features import Features
from runtime.io.finding import find_photos
from runtime.io.image import Image, load_rgb, shrink

TIMED_SIZE = 1024  # pixels, longest side of the photos that are timed
Result = TypeVar("Result")


def timed(work: Callable[..., Result], *arguments: Any) -> tuple[Result, float]:
    """What work of one thread gives, and its milliseconds of the processor."""
    start = time.process_time()
    result = work(*arguments)
    return result, 1e3 * (time.process_time() - start)


def spread(values: Sequence[float] | NDArray[np.floating], digits: int = 1) -> str:
    """The median and, in brackets, the quartiles."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return f"{middle:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def timed_photos(data: Sequence[str], number: int) -> list[Image]:
    """Photos evenly taken from all data, RGB, with their longest side at ``TIMED_SIZE`` pixels."""
    paths = find_photos(data)
    photos = [load_rgb(path) for path in paths[:: max(1, len(paths) // number)][:number]]
    return [resized(photo, TIMED_SIZE) for photo in photos]


def resized(photo: Image, side: int) -> Image:
    """The photo with its longest side at that many pixels."""
    factor = side / max(photo.shape[:2])
    size = round(photo.shape[1] * factor), round(photo.shape[0] * factor)
    interpolation = cv2.INTER_CUBIC if factor > 1 else cv2.INTER_AREA
    return np.ascontiguousarray(cv2.resize(photo, size, interpolation=interpolation).astype(np.uint8, copy=False))


def open_extractor(path: Path) -> Callable[[Image], Features]:
    """An engine with one thread, which is given photos shrunk to its image size."""
    engine, size = open_engine(path, "cpu", threads=1), Manifest.load(EngineFiles.of(path).manifest).image_size
    return lambda photo: engine.extract(shrink(photo, size))
