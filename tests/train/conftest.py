"""What the tests of training share: a backbone of two convolutions, and photos of made-up places."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from runtime.io.image import Image
from train.backbones import BUILDERS, Backbone
from train.data import LabelledPhotos
from train.distributed import ProcessGroup
from train.models.how import HowConfig


class TinyBackbone(Backbone):
    """Stride 4, 16 channels."""

    def __init__(self) -> None:
        super().__init__((127.0,) * 3, (64.0,) * 3)
        self.conv1 = nn.Conv2d(3, 12, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(12)
        self.conv2 = nn.Conv2d(12, 16, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(16)
        self.channels = 16
        self.stride = 4

    def features(self, image: Tensor) -> Tensor:
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(image))))))


@pytest.fixture
def tiny_backbone(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a backbone of two convolutions, known to ``build_backbone`` for one test."""
    monkeypatch.setitem(BUILDERS, "tiny", TinyBackbone)
    return "tiny"


@pytest.fixture
def tiny_config(tiny_backbone: str) -> HowConfig:
    """HOW on the tiny backbone, to 8 dimensions."""
    return HowConfig(backbone=tiny_backbone, dimensions=8, graph_nodes=48, graph_neighbours=4, graph_width=8)


@pytest.fixture
def alone() -> ProcessGroup:
    """One process, on the CPU."""
    return ProcessGroup(0, 1, torch.device("cpu"))


def photo_of(scene: int, view: int, width: int = 64, height: int = 48) -> Image:
    """A crop of the scene's own blotches, lit and framed again in each view; RGB."""
    wall = cv2.resize(np.random.default_rng(scene).random((9, 12, 3)), (2 * width, 2 * height))
    random = np.random.default_rng([scene, view])
    x, y = random.integers(0, width // 4), random.integers(0, height // 4)
    crop = wall[y : y + height, x : x + width] * random.uniform(0.7, 1)
    return (255 * np.clip(crop + random.normal(0, 0.02, crop.shape), 0, 1)).astype(np.uint8)


@pytest.fixture(name="photo_of")
def photo_of_fixture() -> Callable[..., Image]:
    """``photo_of(scene, view)``: an RGB photo."""
    return photo_of


@pytest.fixture
def synthetic_photos() -> Callable[..., LabelledPhotos]:
    """``synthetic_photos(scenes, views)``: a set of small photos in memory; every third one is upright."""

    def make(scenes: int, views: int, first: int = 0) -> LabelledPhotos:
        def read(index: int) -> Image:
            scene, view = first + index // views, index % views
            return photo_of(scene, view, *((48, 64) if view % 3 == 2 else (64, 48)))

        names = [f"{first + scene}/{view}" for scene in range(scenes) for view in range(views)]
        return LabelledPhotos(names, np.repeat(np.arange(scenes), views), read)

    return make


@pytest.fixture
def write_photos() -> Callable[..., None]:
    """``write_photos(folder, scenes, views)``: a folder of folders, one a scene, with JPEG files in them."""

    def write(folder: Path, scenes: int, views: int) -> None:
        for scene in range(scenes):
            (folder / f"place{scene}").mkdir(parents=True)
            for view in range(views):
                cv2.imwrite(str(folder / f"place{scene}" / f"{view}.jpg"), photo_of(scene, view, 80, 60)[:, :, ::-1])

    return write


BREAKAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda photo: photo.write_bytes(b""),
    "truncated": lambda photo: photo.write_bytes(photo.read_bytes()[: photo.stat().st_size // 2]),
    "no image": lambda photo: photo.write_text("<html>404</html>"),
    "too small": lambda photo: cv2.imwrite(str(photo), np.zeros((8, 8, 3), np.uint8)),
    "a folder": lambda photo: (photo.unlink(), photo.mkdir()),
}


@pytest.fixture
def break_photo() -> Callable[[Path, str], None]:
    """``break_photo(path, how)``: ruins a photo in one of the ways of ``BREAKAGES``."""

    def ruin(photo: Path, how: str) -> None:
        BREAKAGES[how](photo)

    return ruin


@pytest.fixture(params=BREAKAGES)
def breakage(request: pytest.FixtureRequest) -> str:
    """Every way in which a photo can be broken."""
    return request.param
