"""Decoding: which formats are read, what is damaged, and what is refused before it is decoded."""

import io
import logging
import struct
import sys
import zlib
from contextlib import suppress

import cv2
import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray

from runtime.errors import ImageError
from runtime.io.decoding import MAX_SCANS, decode_photo, jpeg_segments, media_type, preview

START_OF_FRAME, START_OF_SCAN = 0xC0, 0xDA


@pytest.fixture
def photo() -> NDArray[np.uint8]:
    """A texture, BGR, 96×128."""
    coarse = np.random.default_rng(3).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return cv2.resize(coarse, (128, 96), interpolation=cv2.INTER_CUBIC)


def encode(image: NDArray, suffix: str, *options: int) -> bytes:
    return cv2.imencode(suffix, image, options)[1].tobytes()


def saved(image: NDArray[np.uint8] | PIL.Image.Image, kind: str, **options: object) -> bytes:
    """The file that Pillow writes of a BGR image, or of one of its own."""
    file = io.BytesIO()
    own = image if isinstance(image, PIL.Image.Image) else PIL.Image.fromarray(np.ascontiguousarray(image[:, :, ::-1]))
    own.save(file, kind, **options)
    return file.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def refusal(data: bytes, **options: int) -> str:
    with pytest.raises(ImageError) as caught:
        decode_photo(data, "x", **options)
    line = str(caught.value)
    assert line.startswith("x: ")
    assert "\n" not in line
    return line.removeprefix("x: ")


# ------------------------------------------------------------------------------------------------- formats


@pytest.mark.parametrize(
    ("kind", "options", "off"),
    [
        ("BMP", {}, 0),
        ("PPM", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("JPEG2000", {"irreversible": False}, 0),
        ("WEBP", {}, 6),
        ("AVIF", {}, 6),
        ("GIF", {}, 12),
    ],
)
def test_every_format_is_read(photo: NDArray[np.uint8], kind: str, options: dict, off: float) -> None:
    pixels = decode_photo(saved(photo, kind, **options), "x")
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert np.abs(pixels.astype(int) - photo).mean() <= off


def test_jpegs_have_the_pixels_of_opencv(photo: NDArray[np.uint8]) -> None:
    for options in ((), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_QUALITY, 40)):
        data = encode(photo, ".jpg", *options)
        np.testing.assert_array_equal(decode_photo(data, "x"), cv2.imdecode(np.frombuffer(data, np.uint8), 1))


def test_of_an_animation_the_first_frame_is_taken(photo: NDArray[np.uint8]) -> None:
    frames = [PIL.Image.fromarray(np.ascontiguousarray(each[:, :, ::-1])) for each in (photo, 255 - photo)]
    for kind, options in (("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {})):
        data = saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=40, **options)
        assert np.abs(decode_photo(data, "x").astype(int) - photo).mean() < 12, kind


def test_an_animated_png_is_decoded_without_its_animation(photo: NDArray[np.uint8]) -> None:
    """Whatever its chunks say: OpenCV 5.0.0 dies of some."""
    data = encode(photo, ".png")
    head = 8 + 25  # the signature and the first chunk
    wild = chunk(b"acTL", struct.pack(">II", 2**31, 0)) + chunk(b"fcTL", bytes(26)) + chunk(b"fdAT", b"\xff" * 9)
    np.testing.assert_array_equal(decode_photo(data[:head] + wild + data[head:], "x"), photo)


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "AVIF", "JPEG"])
def test_exif_turns_every_format(photo: NDArray[np.uint8], kind: str, orientation: int) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    data = saved(photo, kind, exif=exif)
    stored = decode_photo(data, "x", upright=False)
    turned = {
        2: np.fliplr,
        3: lambda image: np.rot90(image, 2),
        4: np.flipud,
        5: lambda image: np.fliplr(np.rot90(image, -1)),
        6: lambda image: np.rot90(image, -1),
        7: lambda image: np.fliplr(np.rot90(image, 1)),
        8: lambda image: np.rot90(image, 1),
    }.get(orientation, lambda image: image)
    if kind in ("AVIF", "TIFF"):  # turned by their decoders
        stored = decode_photo(saved(photo, kind), "x")
        assert np.abs(decode_photo(data, "x").astype(int) - turned(stored)).mean() < 3
    else:
        np.testing.assert_array_equal(decode_photo(data, "x"), turned(stored))


def encoded(photo: NDArray[np.uint8], kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(photo[:, :, ::-1]).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"])
def test_the_media_type_is_told_by_the_first_bytes(photo: NDArray[np.uint8], kind: str) -> None:
    assert media_type(encoded(photo, kind)) == f"image/{kind.lower()}"


@pytest.mark.parametrize(
    "data", [b"", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7", b"GIF89a", b"\xff\xd8"]
)
def test_what_is_no_photo_has_no_media_type(data: bytes) -> None:
    assert media_type(data) is None


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_preview_is_the_photo_small_upright_and_without_metadata(kind: str) -> None:
    """Orientation 6: what is stored is turned by a quarter."""
    stored = np.zeros((600, 900, 3), np.uint8)
    stored[:, :450] = (200, 40, 40)  # on the left, which becomes the top
    exif = PIL.Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    with PIL.Image.open(io.BytesIO(preview(encoded(stored, kind, exif=exif), "photo", 90))) as small:
        assert (small.format, small.size, dict(small.getexif())) == ("JPEG", (60, 90), {})
        pixels = np.asarray(small.convert("RGB")).astype(int)
    assert abs(pixels[:40] - (40, 40, 200)).max() < 12
    assert abs(pixels[50:]).max() < 12


def test_a_preview_is_never_larger_than_the_photo(photo: NDArray[np.uint8]) -> None:
    with PIL.Image.open(io.BytesIO(preview(encoded(photo, "PNG"), "photo", 5000))) as small:
        assert small.size == photo.shape[1::-1]


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_preview_is_refused_before_it_is_decoded(photo: NDArray[np.uint8], kind: str) -> None:
    with pytest.raises(ImageError, match=r"photo: \d+×\d+ pixels, more than"):
        preview(encoded(photo, kind), "photo", 50, max_pixels=100)
    for data in (b"", b"no photo", encoded(photo, kind)[:60]):
        with pytest.raises(ImageError, match="photo: "):
            preview(data, "photo", 50)


def test_samples_that_are_no_8_or_16_bits_are_refused() -> None:
    for values in (np.arange(4096, dtype=np.int32), np.linspace(0, 1, 4096, dtype=np.float32)):
        data = saved(PIL.Image.fromarray(values.reshape(64, 64)), "TIFF")
        assert refusal(data).startswith("its samples are no whole numbers of 8 or 16 bits")
    grey_pfm = b"Pf\n64 64\n-1.0\n" + np.linspace(0, 1, 4096, dtype=np.float32).tobytes()
    assert "8 or 16 bits" in refusal(grey_pfm)


def test_heic_is_read_where_its_package_is_installed(photo: NDArray[np.uint8]) -> None:
    heif = pytest.importorskip("pillow_heif", reason="needs pillow-heif")
    file = io.BytesIO()
    heif.from_pillow(PIL.Image.fromarray(np.ascontiguousarray(photo[:, :, ::-1]))).save(file, quality=90)
    assert np.abs(decode_photo(file.getvalue(), "x").astype(int) - photo).mean() < 8
    assert refusal(file.getvalue(), max_pixels=100).startswith("128×96 pixels, more than")


def test_without_its_package_heic_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert "pip install '.[heic]'" in refusal(b"\0\0\0\x18ftypheic" + bytes(100))


# ------------------------------------------------------------------------------------------------- damage


def test_a_whole_jpeg_may_lack_its_end_marker(photo: NDArray[np.uint8]) -> None:
    data = encode(photo, ".jpg")
    assert data.endswith(b"\xff\xd9")
    np.testing.assert_array_equal(decode_photo(data[:-2], "x"), decode_photo(data, "x"))


@pytest.mark.parametrize("filling", [b"\0", b"\xff"])
def test_filling_bytes_before_the_end_are_no_damage(photo: NDArray[np.uint8], filling: bytes) -> None:
    data = encode(photo, ".jpg")
    np.testing.assert_array_equal(decode_photo(data[:-2] + 30 * filling + data[-2:], "x"), decode_photo(data, "x"))


@pytest.mark.parametrize("kept", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("progressive", [0, 1])
def test_half_a_jpeg_with_an_end_marker_is_refused(photo: NDArray[np.uint8], kept: float, progressive: int) -> None:
    data = encode(photo, ".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, progressive)
    assert "truncated" in refusal(data[: int(kept * len(data))] + b"\xff\xd9")


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_zeroed_block_is_found(photo: NDArray[np.uint8], suffix: str) -> None:
    data = bytearray(encode(photo, suffix))
    middle = len(data) // 2
    data[middle : middle + 200] = bytes(200)
    assert refusal(bytes(data)).startswith(("damaged", "truncated"))


# --------------------------------------------------------------------------------- refused before it is decoded


def test_a_photo_may_have_so_many_pixels_and_no_more(photo: NDArray[np.uint8]) -> None:
    for data in (encode(photo, ".jpg"), encode(photo, ".png"), saved(photo, "WEBP"), saved(photo, "BMP")):
        assert decode_photo(data, "x", max_pixels=128 * 96).shape == (96, 128, 3)
        line = refusal(data, max_pixels=128 * 96 - 1)
        assert line == "128×96 pixels, more than 0.012287 million; if you trust it, raise the limit"


def test_a_header_that_claims_gigabytes_is_refused(photo: NDArray[np.uint8]) -> None:
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0))
    png += chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    assert refusal(png).startswith("40000×40000 pixels, more than 150 million")

    jpeg = bytearray(encode(photo, ".jpg"))
    frame = next(segment.start for segment in jpeg_segments(bytes(jpeg)) if segment.marker == START_OF_FRAME)
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 40_000, 40_000)
    assert refusal(bytes(jpeg)).startswith("40000×40000 pixels, more than 150 million")

    bmp = bytearray(encode(photo, ".bmp"))
    bmp[18:26] = struct.pack("<ii", 32_000, -32_000)
    assert "more pixels than" in refusal(bytes(bmp))


def test_a_jpeg_of_very_many_scans_is_refused(photo: NDArray[np.uint8]) -> None:
    data = encode(photo, ".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    starts = [segment.start for segment in jpeg_segments(data) if segment.marker == START_OF_SCAN]
    scan = data[starts[-1] : -2]
    assert refusal(data[:-2] + MAX_SCANS * scan + data[-2:]).startswith(f"a JPEG of {MAX_SCANS + len(starts)} scans")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "jpeg", "group4"])
def test_libtiff_writes_nothing_to_stderr(
    photo: NDArray[np.uint8], capfd: pytest.CaptureFixture[str], compression: str
) -> None:
    image = PIL.Image.fromarray(photo)
    data = saved(image.convert("1") if compression == "group4" else image, "TIFF", compression=compression)
    random = np.random.default_rng(0)
    for _ in range(20):
        changed = bytearray(data)
        for at in random.integers(8, len(data), 8):
            changed[at] = random.integers(256)
        with suppress(ImageError):
            decode_photo(bytes(changed), "x")
    assert capfd.readouterr().err == ""


def test_pillows_log_is_heard_only_by_who_listens() -> None:
    """Without any handler, Python writes errors to stderr."""
    assert any(isinstance(handler, logging.NullHandler) for handler in logging.getLogger("PIL").handlers)


@pytest.mark.filterwarnings("ignore")
def test_whatever_is_changed_in_a_file_ends_in_pixels_or_in_an_error(photo: NDArray[np.uint8]) -> None:
    random = np.random.default_rng(0)
    files = [encode(photo, suffix) for suffix in (".jpg", ".png", ".bmp", ".tif")]
    files += [saved(photo, kind) for kind in ("WEBP", "GIF", "AVIF", "JPEG2000", "PPM")]
    for data in files:
        for _ in range(20):
            changed = bytearray(data)
            for at in random.integers(0, len(data), random.integers(1, 8)):
                changed[at] = random.integers(256)
            pixels = None
            with suppress(ImageError):
                pixels = decode_photo(bytes(changed), "x")
            assert pixels is None or (pixels.ndim, pixels.dtype) == (3, np.uint8)
