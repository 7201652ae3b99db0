"""A photo: from a path, bytes or an array to pixels of the size that an engine takes, and how errors name it."""

import os
from collections.abc import Mapping, Sized
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.errors import ImageError
from runtime.io.decoding import MAX_PIXELS, decode_photo, orientation_of
from runtime.io.files import read_file

Image: TypeAlias = NDArray[np.uint8]  # H × W × 3
PhotoInput: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | Image

MAX_NAMED = 300  # characters of a path in an error
MAX_SIDE = 16_384  # pixels, of what an engine takes: tracing needs a bound
MIN_SIDE = 32  # pixels; below it the coarse levels of a pyramid are empty


def load_rgb(photo: PhotoInput, longest_side: int | None = None, *, max_pixels: int = MAX_PIXELS) -> Image:
    """Any photo as the engines take it.

    Args:
        photo: a path, an encoded file's bytes, or an H×W×3 uint8 array in BGR order, as ``cv2.imread`` gives it.
        longest_side: pixels to which a larger photo is shrunk; a smaller one is left as it is.
        max_pixels: of an encoded photo; one with more is refused before it is decoded.

    Returns:
        uint8 [H, W, 3] in RGB order.

    Raises:
        ImageError: the photo is missing, empty, damaged, no image, too large, or smaller than 32 pixels on a side.
    """
    return shrink_to_rgb(decode(photo, max_pixels=max_pixels), longest_side)


def decode(photo: PhotoInput, *, upright: bool = True, max_pixels: int = MAX_PIXELS) -> Image:
    """The first half of ``load_rgb``: the whole photo, uint8 [H, W, 3] in BGR order. Raises ImageError.

    With ``upright``, a file is rotated as its EXIF says; without, its pixels stay as they are stored.
    """
    bgr = _as_bgr(photo, upright, max_pixels)
    height, width = bgr.shape[:2]
    if min(height, width) < MIN_SIDE:
        raise ImageError(f"{describe(photo)}: {width}×{height} pixels is too small: a side needs at least {MIN_SIDE}")
    return bgr


def shrink_to_rgb(bgr: Image, longest_side: int | None) -> Image:
    """The second half of ``load_rgb``: what was decoded, shrunk, in RGB order and contiguous."""
    return np.ascontiguousarray(shrink(bgr, longest_side)[:, :, ::-1])


def shrink(image: Image, longest_side: int | None) -> Image:
    """The image with its longest side at most ``longest_side`` pixels; never enlarged."""
    height, width = image.shape[:2]
    if longest_side is None or max(height, width) <= longest_side:
        return image
    factor = longest_side / max(height, width)
    return resize(image, (max(MIN_SIDE, round(width * factor)), max(MIN_SIDE, round(height * factor))))


def resize(image: Image, size: tuple[int, int]) -> Image:
    """The image with this width and height, in pixels: each pixel is the mean of the area that it covers."""
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def to_original_pixels(pixels: NDArray[np.float32], full: int, part: int) -> NDArray[np.float32]:
    """Positions along a side of ``part`` pixels, converted to the ``full`` pixels that it had before it was shrunk.

    A pixel's centre lies half a pixel from its edge, at both sizes; the centre of the first is 0.
    """
    return (pixels + 0.5) * (full / part) - 0.5


def describe(photo: Any) -> str:
    """How an error names a photo, or what is none: by its path, or by its type and size, never by its content."""
    if isinstance(photo, bytes | bytearray | memoryview):
        return f"image of {len(photo)} bytes"
    if isinstance(photo, np.ndarray):
        return f"image array {photo.shape} {photo.dtype}"
    if not isinstance(photo, str | os.PathLike):
        return f"a {type(photo).__name__}" + (f" of {len(photo)}" if isinstance(photo, Sized) else "")
    path = os.fspath(photo)
    text = path if isinstance(path, str) else os.fsdecode(path)
    return text if len(text) <= MAX_NAMED else f"{text[:MAX_NAMED]}… ({len(text)} characters)"


def stored_orientation(photo: PhotoInput) -> int:
    """How the pixels that a photo's file stores are turned upright, one of EXIF's eight; 1 for an array.

    Raises ImageError if its file cannot be read.
    """
    if isinstance(photo, np.ndarray):
        return 1
    return orientation_of(read_photo(Path(photo)) if isinstance(photo, str | os.PathLike) else bytes(photo))


def describe_unreadable(unreadable: Mapping[str, str]) -> str:
    """How every command names the photos that it left out.

    Args:
        unreadable: the reason, which names the file, by the photo's name or id; at least one.

    Returns:
        A line that counts them, and below it an indented line for each.
    """
    photos = "photo" if len(unreadable) == 1 else "photos"
    return "\n".join([f"left out {len(unreadable)} unreadable {photos}:", *(f"  {why}" for why in unreadable.values())])


def _as_bgr(photo: PhotoInput, upright: bool, max_pixels: int) -> Image:
    if isinstance(photo, np.ndarray):
        if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3:
            raise ImageError(f"{describe(photo)}: needs H×W×3 uint8 in BGR order, as cv2.imread gives")
        return photo
    if not isinstance(photo, str | bytes | bytearray | memoryview | os.PathLike):
        raise ImageError(
            f"{describe(photo)}: a photo is a path, encoded bytes or an array; cv2.imread gives None for a bad path"
        )
    data = read_photo(Path(photo)) if isinstance(photo, str | os.PathLike) else bytes(photo)
    if not data:
        raise ImageError(f"{describe(photo)}: empty file")
    return decode_photo(data, describe(photo), upright=upright, max_pixels=max_pixels)


def read_photo(path: Path) -> bytes:
    """The bytes of a photo's file. Raises ImageError if it cannot be read, or is no file."""
    try:
        return read_file(path)
    except OSError as error:
        raise ImageError(f"{describe(path)}: {error.strerror or error}") from None
    except ValueError as error:  # a NUL in the name
        raise ImageError(f"{describe(path)!r}: {error}") from None
