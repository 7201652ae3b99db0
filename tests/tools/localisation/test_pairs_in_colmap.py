"""The pairs of howl, matched and reconstructed by COLMAP, beside all pairs."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from export.exporter import export_checkpoint
from export.options import ExportOptions
from runtime.io.cli import run_command
from tools import pairs

from .scene import SCENE, pycolmap, write_view

pytestmark = pytest.mark.slow  # two reconstructions

VIEWS = 10
OTHER_SCENE = SCENE + 4


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of photos of two places, and a database of COLMAP's with their features."""
    folder = tmp_path_factory.mktemp("town")
    for name, scene in (("one", SCENE), ("two", OTHER_SCENE)):
        for view in range(VIEWS):
            write_view(folder / "images" / name / f"view{view}.png", view, scene)
    pycolmap.extract_features(folder / "features.db", folder / "images", camera_mode=pycolmap.CameraMode.PER_IMAGE)
    return folder / "images", folder / "features.db"


@pytest.fixture(scope="module")
def learned(town: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real engine: ImageNet weights, and whitening and visual words of these photos."""
    engine = tmp_path_factory.mktemp("engine") / "engine.onnx"
    export_checkpoint(ExportOptions(Path("efficientnet_lite0"), learn=town[0], preset="fastest", out=engine))
    return engine


def reconstruct(images: Path, database: Path, out: Path, match: Callable[[Path], None]) -> list[set[str]]:
    """The names of the images that COLMAP registers in each model, after ``match`` has filled a copy of a database."""
    out.mkdir()
    shutil.copy(database, out / "database.db")
    match(out / "database.db")
    models = pycolmap.incremental_mapping(out / "database.db", images, out)
    return [{image.name for image in model.images.values() if image.has_pose} for model in models.values()]


def test_fewer_pairs_register_the_photos_that_all_pairs_do(
    town: tuple[Path, Path], learned: Path, tmp_path: Path
) -> None:
    images, database = town
    out = tmp_path / "pairs.txt"
    arguments = [learned, images, "--device", "cpu", "--top", 4, "--rerank", "spatial", "--out", out]
    assert run_command(lambda _: pairs.main([str(argument) for argument in arguments])) == 0
    listed = out.read_text().splitlines()
    assert len(listed) < VIEWS * (2 * VIEWS - 1) / 2, "half of all pairs"
    options = pycolmap.ImportedPairingOptions(match_list_path=str(out))
    some = reconstruct(
        images, database, tmp_path / "some", lambda path: pycolmap.match_image_pairs(path, pairing_options=options)
    )
    all_ = reconstruct(images, database, tmp_path / "all", pycolmap.match_exhaustive)
    with pycolmap.Database.open(tmp_path / "some" / "database.db") as matched:
        assert matched.num_matched_image_pairs() == len(listed), "COLMAP finds every name"
    assert max(map(len, all_)) >= 0.75 * VIEWS
    for names in all_:
        best = max(some, key=lambda model: len(model & names))
        assert len(best & names) >= len(names) - 1
