"""What the tests of re-ranking by matching share: photos of which two show the same thing."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from ...conftest import draw_photo


@pytest.fixture
def shots(tmp_path: Path) -> list[str]:
    """Three photos of different things, and the third one again, a little noisy."""
    folder = tmp_path / "shots"
    folder.mkdir()
    images = [draw_photo(seed) for seed in range(3)]
    noise = np.random.default_rng(0).integers(-8, 9, images[2].shape)
    images.append(np.clip(images[2] + noise, 0, 255).astype(np.uint8))
    paths = [str(folder / f"shot{i}.png") for i in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        cv2.imwrite(path, image)
    return paths
