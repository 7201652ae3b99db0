"""The encoder under many threads. What it computes is in test_retriever.py."""

from pathlib import Path

import numpy as np
import pytest

from runtime import ImageError
from runtime import encoder as encoder_module
from runtime.encoder import Encoder
from runtime.engine.interface import PHOTO_BATCH

from .rush import Room


@pytest.fixture
def encoder(exported: Path) -> Encoder:
    return Encoder(exported / "engine.onnx", device="cpu")


@pytest.mark.parametrize("call", ["load", "extract"])
def test_few_photos_are_decoded_at_a_time(encoder: Encoder, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    room = Room(PHOTO_BATCH)

    def decode(*_: object, **__: object) -> np.ndarray:
        room.enter()
        return np.zeros((40, 40, 3), np.uint8)

    monkeypatch.setattr(encoder_module, "decode", decode)
    room.assert_bounds(lambda: getattr(encoder, call)("photo.jpg"))


def test_photos_that_cannot_be_read_hold_up_no_other(encoder: Encoder) -> None:
    for _ in range(2 * PHOTO_BATCH):
        with pytest.raises(ImageError):
            encoder.load(b"hello")
    assert encoder.load(np.zeros((40, 40, 3), np.uint8)).shape == (40, 40, 3)


def test_photos_of_a_batch_and_single_ones_do_not_block_each_other(encoder: Encoder) -> None:
    photo = np.zeros((40, 40, 3), np.uint8)
    for _, result in encoder.encode_all([photo] * 3 * PHOTO_BATCH, lambda features: features):
        assert not isinstance(result, ImageError)
        encoder.extract(photo)  # while others of the batch are at work
