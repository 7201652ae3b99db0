"""Photos: what is decoded, what is refused, and how they are found and shrunk."""

import io
import os
import struct
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.errors import ImageError
from runtime.io.image import MIN_SIDE, decode, describe_unreadable, load_rgb, shrink


@pytest.fixture
def photo(make_photo: Callable[..., NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """BGR, 96×128 pixels."""
    return make_photo(0)


def encode(photo: NDArray, suffix: str, *options: int) -> bytes:
    done, data = cv2.imencode(suffix, photo, options)
    assert done
    return data.tobytes()


def refusal(path: Path) -> str:
    """What the one line says after the path."""
    with pytest.raises(ImageError) as caught:
        load_rgb(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: ")
    assert "\n" not in line
    return line.removeprefix(f"{path}: ")


# ------------------------------------------------------------------------------------------------- decoding


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff", ".ppm"])
def test_path_bytes_and_array_give_the_same_rgb(tmp_path: Path, photo: NDArray[np.uint8], suffix: str) -> None:
    data = encode(photo, suffix)
    path = tmp_path / f"photo{suffix}"
    path.write_bytes(data)
    for given in (path, str(path), next(os.scandir(tmp_path)), data, photo):
        image = load_rgb(given)
        assert image.dtype == np.uint8
        assert image.flags.c_contiguous
        np.testing.assert_array_equal(image, photo[:, :, ::-1])


def test_the_array_given_is_not_the_array_returned(photo: NDArray[np.uint8]) -> None:
    before = photo.copy()
    load_rgb(photo)[:] = 0
    np.testing.assert_array_equal(photo, before)


@pytest.mark.parametrize("options", [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_RST_INTERVAL, 2)])
def test_every_kind_of_jpeg_is_read(photo: NDArray[np.uint8], options: tuple[int, ...]) -> None:
    image = load_rgb(encode(photo, ".jpg", *options))
    assert np.abs(image.astype(int) - photo[:, :, ::-1]).mean() < 5


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (np.full((40, 50), 90, np.uint8), (90, 90, 90)),
        (np.full((40, 50, 4), (10, 20, 30, 0), np.uint8), (30, 20, 10)),
        (np.full((40, 50), 90 * 257, np.uint16), (90, 90, 90)),
        (np.full((40, 50, 3), (10 * 257, 20 * 257, 30 * 257), np.uint16), (30, 20, 10)),
    ],
    ids=["grey", "RGBA", "16-bit grey", "16-bit RGB"],
)
def test_every_kind_of_png_comes_out_as_rgb(stored: NDArray, expected: tuple[int, int, int]) -> None:
    image = load_rgb(encode(stored, ".png"))
    assert (image.shape, image.dtype) == ((40, 50, 3), np.uint8)
    assert (image == expected).all()


def exif(orientation: int) -> bytes:
    """A JPEG segment that says how the camera was held."""
    tiff = b"MM\x00\x2a" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    return b"\xff\xe1" + struct.pack(">H", 2 + 6 + len(tiff)) + b"Exif\x00\x00" + tiff


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda image: image),
        (2, np.fliplr),
        (3, lambda image: np.rot90(image, 2)),
        (4, np.flipud),
        (5, lambda image: np.fliplr(np.rot90(image, -1))),
        (6, lambda image: np.rot90(image, -1)),
        (7, lambda image: np.fliplr(np.rot90(image, 1))),
        (8, lambda image: np.rot90(image, 1)),
    ],
)
def test_a_photo_stands_upright_however_the_camera_was_held(
    photo: NDArray[np.uint8], orientation: int, upright: Callable[[NDArray], NDArray]
) -> None:
    data = encode(photo, ".jpg")
    turned = load_rgb(data[:2] + exif(orientation) + data[2:])
    np.testing.assert_array_equal(turned, upright(load_rgb(data)))


def test_a_photo_comes_as_it_is_stored_where_that_is_asked_for(photo: NDArray[np.uint8]) -> None:
    data = encode(photo, ".jpg")
    stored = decode(data[:2] + exif(6) + data[2:], upright=False)
    np.testing.assert_array_equal(stored, decode(data))


def test_cmyk_comes_out_as_rgb(photo: NDArray[np.uint8]) -> None:
    """As printers' scans are; OpenCV writes none, Pillow does."""
    pillow = pytest.importorskip("PIL.Image", reason="needs Pillow to write CMYK")
    for kind in ("JPEG", "TIFF"):
        file = io.BytesIO()
        pillow.fromarray(np.ascontiguousarray(photo[:, :, ::-1])).convert("CMYK").save(file, kind)
        image = load_rgb(file.getvalue())
        assert np.abs(image.astype(int) - photo[:, :, ::-1]).mean() < 6


def test_16_bits_of_a_tiff_become_8(photo: NDArray[np.uint8]) -> None:
    image = load_rgb(encode(photo.astype(np.uint16) * 257, ".tif"))
    np.testing.assert_array_equal(image, photo[:, :, ::-1])


def thumbnail(photo: NDArray[np.uint8]) -> bytes:
    """A JPEG segment that holds a whole small JPEG, with an end marker of its own."""
    small = encode(photo[:32, :32], ".jpg")
    return b"\xff\xe1" + struct.pack(">H", 2 + len(small)) + small


@pytest.mark.parametrize("surplus", ["film", "another photo", "half a photo", "padding"])
def test_what_follows_a_whole_image_does_not_matter(photo: NDArray[np.uint8], surplus: str) -> None:
    jpeg = encode(photo, ".jpg")
    films = [np.random.default_rng(seed).bytes(300_000) for seed in range(5)]
    added = {"film": films, "another photo": [jpeg], "half a photo": [jpeg[:900]], "padding": [bytes(100)]}[surplus]
    for suffix in (".jpg", ".png"):
        data = encode(photo, suffix)
        for more in added:
            np.testing.assert_array_equal(load_rgb(data + more), load_rgb(data))


# ------------------------------------------------------------------------------------------------- refusing


@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("kind", ["baseline", "progressive", "with thumbnail", "png"])
def test_a_truncated_photo_is_refused(tmp_path: Path, photo: NDArray[np.uint8], kind: str, kept: float) -> None:
    options = (cv2.IMWRITE_JPEG_PROGRESSIVE, 1) if kind == "progressive" else ()
    data = encode(photo, ".png" if kind == "png" else ".jpg", *options)
    if kind == "with thumbnail":
        data = data[:2] + thumbnail(photo) + data[2:]
    load_rgb(data)  # whole, it is read
    path = tmp_path / "photo.jpg"
    path.write_bytes(data[: int(kept * len(data))])
    assert "truncated" in refusal(path)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("suffix", [".bmp", ".webp", ".tiff", ".ppm"])
def test_half_of_any_other_format_is_refused(tmp_path: Path, photo: NDArray[np.uint8], suffix: str) -> None:
    data = encode(photo, suffix)
    load_rgb(data)
    path = tmp_path / f"photo{suffix}"
    path.write_bytes(data[: len(data) // 2])
    refusal(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty file"),
        (b"these are words, not pixels", "not an image"),
        (b"\xff\xd8", "truncated"),
        (b"\xff\xd8\xff\xd9", "not an image"),
        (b"\x89PNG", "truncated"),
        (b"\x00" * 1000, "not an image"),
    ],
    ids=["empty", "text", "start of JPEG", "empty JPEG", "start of PNG", "zeros"],
)
def test_a_file_that_is_no_image_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    assert words in refusal(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "nothing.jpg")
    assert refusal(tmp_path) == "a folder, not a file"


@pytest.mark.parametrize("size", [(MIN_SIDE - 1, 100), (100, MIN_SIDE - 1), (1, 1)])
def test_a_tiny_image_is_refused_by_its_size(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "tiny.png"
    path.write_bytes(encode(np.zeros((*size, 3), np.uint8), ".png"))
    assert f"{size[1]}×{size[0]} pixels is too small" in refusal(path)


def test_the_smallest_image_is_taken() -> None:
    assert load_rgb(np.zeros((MIN_SIDE, MIN_SIDE, 3), np.uint8)).shape == (MIN_SIDE, MIN_SIDE, 3)


@pytest.mark.parametrize(
    "array",
    [np.zeros((40, 40), np.uint8), np.zeros((40, 40, 4), np.uint8), np.zeros((40, 40, 3), np.float32)],
    ids=["grey", "four channels", "float"],
)
def test_an_array_of_another_kind_is_refused_by_its_shape(array: NDArray) -> None:
    with pytest.raises(ImageError) as caught:
        load_rgb(array)
    assert f"image array {array.shape} {array.dtype}" in str(caught.value)


def test_bytes_that_cannot_be_read_are_named_by_their_length() -> None:
    with pytest.raises(ImageError, match="image of 5 bytes: not an image"):
        load_rgb(b"hello")


# ------------------------------------------------------------------------------------------------ shrinking


@pytest.mark.parametrize(
    ("size", "longest", "expected"),
    [
        ((96, 128), 64, (48, 64)),
        ((128, 96), 64, (64, 48)),
        ((100, 333), 128, (38, 128)),
        ((96, 128), 128, (96, 128)),
        ((96, 128), 1024, (96, 128)),  # never enlarged
        ((96, 128), None, (96, 128)),
        ((40, 2000), 200, (MIN_SIDE, 200)),  # what is read stays large enough for the engines
    ],
)
def test_the_longest_side_is_shrunk_and_never_enlarged(
    size: tuple[int, int], longest: int | None, expected: tuple[int, int]
) -> None:
    image = np.full((*size, 3), (10, 20, 30), np.uint8)
    for small in (shrink(image, longest), load_rgb(image, longest)[:, :, ::-1]):
        assert small.shape == (*expected, 3)
        assert (small == (10, 20, 30)).all()


def test_shrinking_averages_all_pixels() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200  # a sampling would see only one of the two
    assert (shrink(stripes, 32) == 100).all()


# ------------------------------------------------------------------------------------------- naming what is broken


def test_unreadable_photos_are_counted_and_each_has_a_line() -> None:
    assert describe_unreadable({"a": "a.jpg: empty file"}) == "left out 1 unreadable photo:\n  a.jpg: empty file"
    two = {"a": "a.jpg: empty file", "b": "b.jpg: No such file or directory"}
    assert describe_unreadable(two).splitlines() == [
        "left out 2 unreadable photos:",
        *(f"  {two[id_]}" for id_ in "ab"),
    ]
