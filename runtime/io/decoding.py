"""Encoded photos → pixels. A header is read before anything is decoded, and the decoder decides what is damaged.

JPEG is decoded by libjpeg-turbo (simplejpeg), whose warnings are errors here: OpenCV fills what is missing with grey
and says nothing. All other formats are Pillow's.
"""

import ctypes
import logging
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import simplejpeg
from numpy.typing import NDArray
from PIL import _imaging
from PIL.ImageOps import exif_transpose

from runtime.errors import ImageError

MAX_PIXELS = 150_000_000  # of a photo: the largest cameras have 100 to 108 million; more is taken for an attack
PREVIEW_QUALITY = 85
MAX_SCANS = 100  # of a progressive JPEG: encoders make about ten, and each costs as much time as the whole photo

TRUNCATED = "truncated: the file ends in the middle of the image"
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")  # names of Pillow's
JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")  # the end, or a segment that begins with its length
START_OF_SCAN, APP1, EXIF = 0xDA, 0xE1, b"Exif\0\0"
EXTRANEOUS = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_SIZE = slice(16, 24)  # width and height, in its first chunk
PNG_ANIMATION = (b"acTL", b"fcTL", b"fdAT")
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
ORIENTATION = 0x0112  # the tag of EXIF


def _silence_decoders() -> None:
    """Keeps what Pillow and its libtiff find wrong with a file off stderr: the error of the photo says it.

    An application that listens to Pillow's log still hears it. Where libtiff cannot be reached, it goes on writing.
    """
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    with suppress(OSError, AttributeError):  # a libtiff inside of Pillow's library shows no names, as on Windows
        library = ctypes.CDLL(_imaging.__file__)  # with the libraries that it has loaded
        library.TIFFSetErrorHandler(None)
        library.TIFFSetWarningHandler(None)


_silence_decoders()
PIL.Image.init()  # else it imports its decoders in some thread, whose lock a process that is forked then never gets


def decode_photo(data: bytes, name: str, *, upright: bool = True, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """The pixels of an encoded photo, uint8 [H, W, 3] in BGR order; of an animation, the first frame.

    Args:
        data: JPEG, PNG, WebP, TIFF, BMP, GIF, PNM, JPEG 2000, AVIF or, with pillow-heif, HEIC.
        name: of the photo, for errors.
        upright: whether it is turned as its EXIF says; TIFF, AVIF and HEIC always are.
        max_pixels: of the photo; one with more is refused before it is decoded.

    Raises:
        ImageError: it is damaged, truncated, too large, or of another format.
    """
    if data.startswith(JPEG_START):
        return _jpeg(data, name, upright, max_pixels)
    if data.startswith(PNG_START[:4]):
        check_size(name, _png_size(data), max_pixels)
        data = _still_png(data, name)
    if data[4:8] == b"ftyp" and data[8:12] in HEIC_BRANDS:
        return _heic(data, name, max_pixels)
    return _by_pillow(data, name, upright, max_pixels)


def check_size(name: str, size: tuple[int, int], max_pixels: int) -> None:
    """Raises ImageError if a header says that a photo has too many pixels."""
    width, height = size
    if width * height > max_pixels:
        raise ImageError(
            f"{name}: {width}×{height} pixels, more than {max_pixels / 1e6:g} million; if you trust it, raise the limit"
        )


# ------------------------------------------------------------------------------------------------------- JPEG


class Segment(NamedTuple):
    """A segment of a JPEG.

    Attributes:
        marker: the second byte of its marker.
        start: where its marker is.
        content: without the marker and the length.
    """

    marker: int
    start: int
    content: bytes


def jpeg_segments(data: bytes) -> Iterator[Segment]:
    """The segments of a JPEG up to the end of the image, over the thumbnails inside of them.

    What follows the end is not part of the image: phones append videos and second images.
    """
    at = len(JPEG_START)
    while marker := JPEG_MARKER.search(data, at):
        if marker[0] == JPEG_END:
            yield Segment(JPEG_END[1], marker.start(), b"")
            return
        length = max(2, int.from_bytes(data[marker.end() : marker.end() + 2]))
        at = marker.end() + length
        yield Segment(marker[0][1], marker.start(), data[marker.end() + 2 : at])


def _jpeg(data: bytes, name: str, upright: bool, max_pixels: int) -> NDArray[np.uint8]:
    segments = list(jpeg_segments(data))
    is_ended = bool(segments) and segments[-1].marker == JPEG_END[1]
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        raise ImageError(f"{name}: not an image: {error}" if is_ended else f"{name}: {TRUNCATED}") from None
    check_size(name, (width, height), max_pixels)
    scans = sum(segment.marker == START_OF_SCAN for segment in segments)
    if scans > MAX_SCANS:
        raise ImageError(f"{name}: a JPEG of {scans} scans, more than {MAX_SCANS}; save it again")
    if colours in ("CMYK", "YCCK"):
        return _by_pillow(data, name, upright, max_pixels)
    whole = data if is_ended else data + JPEG_END  # without its end marker it is whole if nothing else is missing
    try:
        pixels = simplejpeg.decode_jpeg(whole, colorspace="BGR")
    except ValueError as error:
        image = data[: segments[-1].start] if is_ended else data
        if not _is_padding(str(error), image):
            raise ImageError(f"{name}: {TRUNCATED if 'premature' in str(error) else f'damaged: {error}'}") from None
        pixels = simplejpeg.decode_jpeg(whole, colorspace="BGR", strict=False)
    return turned(pixels, _orientation(segments)) if upright else pixels


def _is_padding(warning: str, image: bytes) -> bool:
    """Whether the decoder only met filling bytes before the end, which some cameras write."""
    found = EXTRANEOUS.search(warning)
    return found is not None and len(set(image[len(image) - int(found[1]) :])) <= 1


def _orientation(segments: list[Segment]) -> int:
    """How EXIF says that the photo is to be turned, from 1 to 8; 1, as it is, where it says nothing."""
    for segment in segments:
        if segment.marker == APP1 and segment.content.startswith(EXIF):
            exif = PIL.Image.Exif()
            try:
                exif.load(segment.content)
                return int(exif.get(ORIENTATION, 1))
            except Exception:  # damaged metadata can raise any, and the photo is whole
                return 1
    return 1


def turned(image: NDArray[Any], orientation: int) -> NDArray[Any]:
    """An image [H, W, 3] turned upright from one of EXIF's eight orientations (EXIF 2.3, tag 0x0112)."""
    if orientation not in range(2, 9):
        return image
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


# -------------------------------------------------------------------------------------------- all other formats


def orientation_of(data: bytes) -> int:
    """How a photo's pixels as they are stored are to be turned, one of EXIF's eight; 1 where nothing says it.

    TIFF, AVIF and HEIC always come upright.
    """
    if data.startswith(JPEG_START):
        return _orientation(list(jpeg_segments(data)))
    with suppress(Exception), PIL.Image.open(BytesIO(data), formats=FORMATS) as image:  # decoding says what is wrong
        if image.format in ("PNG", "WEBP"):
            return int(image.getexif().get(ORIENTATION, 1))
    return 1


def to_stored_pixels(
    positions: NDArray[np.float64], size: tuple[int, int], orientation: int
) -> tuple[NDArray[np.float64], tuple[int, int]]:
    """Positions in an upright photo, as positions in its pixels as they are stored: ``turned``, backwards.

    Args:
        positions: float64 [n, 2], x and y from the photo's upper left corner: the first pixel's centre is (0.5, 0.5).
        size: width and height of the upright photo.
        orientation: one of EXIF's eight.

    Returns:
        the positions, and the width and height of what is stored.
    """
    (width, height), (x, y) = size, positions.T
    if orientation in (3, 4, 7, 8):
        y = height - y
    if orientation in (2, 3, 6, 7):
        x = width - x
    if orientation in (5, 6, 7, 8):
        x, y, width, height = y, x, height, width
    return np.stack([x, y], axis=1), (width, height)


def _png_size(data: bytes) -> tuple[int, int]:
    """Width and height that a PNG's header says; 0 where there is none."""
    width, height = struct.unpack(">II", data[PNG_SIZE].ljust(8, b"\0"))
    return width, height


def _still_png(data: bytes, name: str) -> bytes:
    """A PNG without the chunks of its animation. Raises ImageError if a chunk is damaged or the end is missing."""
    kept, at = [PNG_START], len(PNG_START)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, chunk = data[at + 4 : at + 8], data[at : at + 12 + length]
        if len(chunk) < 12 + length:
            break
        if zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:]):
            raise ImageError(f"{name}: damaged: the checksum of a {kind.decode('latin-1')!r} chunk is wrong")
        if kind not in PNG_ANIMATION:
            kept.append(chunk)
        if kind == b"IEND":
            return b"".join(kept)
        at += len(chunk)
    raise ImageError(f"{name}: {TRUNCATED}")


def _by_pillow(data: bytes, name: str, upright: bool, max_pixels: int) -> NDArray[np.uint8]:
    with _refusing(name), PIL.Image.open(BytesIO(data), formats=FORMATS) as image:
        check_size(name, image.size, max_pixels)
        if upright:
            exif_transpose(image, in_place=True)
        return _bgr(image, name)


def _heic(data: bytes, name: str, max_pixels: int) -> NDArray[np.uint8]:
    """HEIC by pillow-heif, which turns it upright itself."""
    try:
        import pillow_heif
    except ImportError:
        raise ImageError(f"{name}: HEIC needs pillow-heif: in howl's folder, pip install '.[heic]'") from None
    with _refusing(name):
        image = pillow_heif.open_heif(BytesIO(data), convert_hdr_to_8bit=True)[0]
        check_size(name, image.size, max_pixels)
        return _bgr(image.to_pillow(), name)


def media_type(data: bytes) -> str | None:
    """What an encoded photo is, such as ``image/jpeg``, by its first bytes; None for anything else."""
    if data[4:8] == b"ftyp" and data[8:12] in HEIC_BRANDS:
        return "image/heic"
    with suppress(Exception), PIL.Image.open(BytesIO(data), formats=FORMATS) as image:  # reads the header only
        return PIL.Image.MIME.get("JPEG" if image.format == "MPO" else str(image.format))
    return None


def preview(data: bytes, name: str, side: int, *, max_pixels: int = MAX_PIXELS) -> bytes:
    """A photo as a small JPEG, upright and without metadata. Damage that only shows in full size is passed over.

    Args:
        data: as ``decode_photo`` takes it.
        name: of the photo, for errors.
        side: pixels of the longest side, at most.
        max_pixels: of the photo; one with more is refused before it is decoded.

    Raises:
        ImageError: it cannot be read.
    """
    if media_type(data) == "image/heic":
        small = PIL.Image.fromarray(_heic(data, name, max_pixels)[:, :, ::-1])
    else:
        if data.startswith(PNG_START[:4]):
            check_size(name, _png_size(data), max_pixels)
            data = _still_png(data, name)
        with _refusing(name), PIL.Image.open(BytesIO(data), formats=FORMATS) as image:
            check_size(name, image.size, max_pixels)
            image.draft("RGB", (side, side))  # a JPEG is decoded at an eighth of its size, if that is enough
            small = PIL.Image.fromarray(_bgr(exif_transpose(image), name)[:, :, ::-1])
    with _refusing(name):
        small.thumbnail((side, side), PIL.Image.Resampling.LANCZOS, reducing_gap=2)
        encoded = BytesIO()
        small.save(encoded, "JPEG", quality=PREVIEW_QUALITY)
    return encoded.getvalue()


@contextmanager
def _refusing(name: str) -> Iterator[None]:
    """A block that decodes a photo: whatever it raises becomes an ImageError."""
    try:
        yield
    except ImageError:
        raise
    except PIL.UnidentifiedImageError:
        raise ImageError(f"{name}: not an image of a format that howl reads") from None
    except PIL.Image.DecompressionBombError:
        raise ImageError(f"{name}: more pixels than Pillow decodes; save it as a JPEG") from None
    except Exception as error:  # a damaged file can raise any
        if "truncated" in str(error):
            raise ImageError(f"{name}: {TRUNCATED}") from None
        line = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise ImageError(f"{name}: damaged, or of a kind that cannot be decoded: {line}") from None


def _bgr(image: PIL.Image.Image, name: str) -> NDArray[np.uint8]:
    """Pillow's image as uint8 [H, W, 3]; of 16 bits the upper eight, without transparency."""
    if image.mode.startswith("I;16"):
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise ImageError(f"{name}: its samples are no whole numbers of 8 or 16 bits; save it with 8 bits")
    rgb = image if image.mode == "RGB" else image.convert("RGB")  # which would copy it
    return np.ascontiguousarray(np.asarray(rgb)[:, :, ::-1])
