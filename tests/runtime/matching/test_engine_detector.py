"""An engine's own features as keypoints."""

from pathlib import Path

import cv2
import numpy as np

from runtime.encoder import Encoder
from runtime.matching import EngineDetector

from ...conftest import draw_photo


def test_positions_are_of_the_photo_and_lead_back_to_the_engines(engine: Path, tmp_path: Path) -> None:
    """A photo of three times the engine's size."""
    photo = tmp_path / "large.png"
    cv2.imwrite(str(photo), cv2.resize(draw_photo(0), (384, 288), interpolation=cv2.INTER_CUBIC))
    encoder = Encoder(engine, device="cpu")
    detector = EngineDetector(encoder)
    found, local = detector.detect(photo), encoder.engine.extract(encoder.load(photo)).need_local()
    assert found.size == (384, 288)
    np.testing.assert_allclose(found.positions, 3 * local.positions[:, :2] + 1, rtol=1e-5)
    np.testing.assert_allclose(detector.engine_pixels(found), local.positions[:, :2], rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found.descriptors, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(
        np.sum(found.descriptors * local.descriptors, axis=1) ** 2, (local.descriptors**2).sum(1), rtol=1e-4
    )
