"""Engines for photos that nobody labelled: whitening and words of a folder, and what is said of poor ones."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from export import exporter, to_trt
from export.learning import MIN_PHOTOS, learn, open_checkpoint
from export.options import ExportOptions
from runtime import Retriever
from runtime.bundle import load_manifest
from runtime.errors import DataError, HowlError, MissingError, UsageError
from train.checkpoint import Checkpoint
from train.data.synthetic import write_scenes

PHOTOS = 24


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos in one folder, without labels, as most users have them."""
    scenes, flat = tmp_path_factory.mktemp("scenes"), tmp_path_factory.mktemp("flat")
    write_scenes(scenes / "town", scenes=PHOTOS // 2, views=2, image_size=96, seed=0)
    for number, path in enumerate(sorted((scenes / "town").rglob("*.jpg"))):
        shutil.copy(path, flat / f"{number}.jpg")
    return flat


@pytest.fixture
def plain(checkpoint: Callable[..., Path]) -> Path:
    """The checkpoint of a small network, whose whitening and words are of no photo."""
    return checkpoint(refine="none", smoothing="average")


def test_whitening_and_words_are_those_of_the_photos(plain: Path, photos: Path) -> None:
    before, said = Checkpoint.load(plain), list[str]()
    after = learn(before, photos, said.append)
    assert said[0] == f"learning from {PHOTOS} of {PHOTOS} photos in {photos} ..."
    assert f"learned from {PHOTOS} photos; more photos give more words" in said[-1]
    changed = {key for key in before.weights if not torch.equal(before.weights[key], after.weights[key])}
    assert changed == {"whitening.projection.weight", "whitening.projection.bias"}
    again = learn(before, photos, said.append)
    assert after.codebook is not None
    assert again.codebook is not None
    assert (after.codebook.centroids == again.codebook.centroids).all()


def test_a_size_that_no_photo_has_is_said(plain: Path, photos: Path) -> None:
    checkpoint, said = Checkpoint.load(plain), list[str]()
    larger = replace(checkpoint, extraction=replace(checkpoint.extraction, image_size=480))
    learn(larger, photos, said.append)
    assert said[1].startswith("no photo has 480 pixels, the largest has 96: none is enlarged, and --image-size 96 ")


@pytest.mark.parametrize("unreadable", [0, 5])
def test_few_photos_are_refused_in_one_line(unreadable: int, plain: Path, photos: Path, tmp_path: Path) -> None:
    for number in range(MIN_PHOTOS - 1):
        shutil.copy(photos / f"{number}.jpg", tmp_path)
    for number in range(unreadable):
        (tmp_path / f"empty{number}.jpg").touch()
    found = f"of {MIN_PHOTOS + 4} photos 19 can be read" if unreadable else "there are 19 photos"
    with pytest.raises(DataError, match=f"{found}, and at least 20 are needed to learn from; name another folder"):
        learn(Checkpoint.load(plain), tmp_path, lambda line: None)


def test_photos_that_are_all_alike_are_refused(plain: Path, photos: Path, tmp_path: Path) -> None:
    grey = np.full((64, 64, 3), 127, np.uint8)
    for number in range(MIN_PHOTOS):
        cv2.imwrite(str(tmp_path / f"{number}.png"), grey)
    with pytest.raises(HowlError, match="are they all alike"):
        learn(Checkpoint.load(plain), tmp_path, lambda line: None)


def test_options_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"learns visual words, too; leave --codebook words\.npy out"):
        ExportOptions(Path("efficientnet_lite0"), learn=tmp_path, codebook=Path("words.npy"))
    with pytest.raises(UsageError, match="name photos to learn them from: --learn DIR"):
        open_checkpoint(Path("efficientnet_lite0"), None)
    with pytest.raises(UsageError, match="--codebook-photos is for --codebook DIR"):
        ExportOptions(Path("efficientnet_lite0"), learn=tmp_path, codebook_photos=7)


def test_a_folder_that_is_not_there_is_named(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="nowhere"):
        learn(Checkpoint.load(plain), tmp_path / "nowhere", lambda line: None)


@pytest.mark.slow
def test_what_was_learned_is_exported_searches_and_can_be_exported_again(
    plain: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(exporter, "find_gpus", list)
    engine = tmp_path / "out" / "engine.onnx"
    to_trt.main([str(plain), "--learn", str(photos), "--out", str(engine)])
    learned = engine.with_name("engine.learned.pt")
    assert f"python export/to_trt.py {learned} --out {engine}" in capsys.readouterr().out
    with Retriever(engine, device="cpu") as retriever:
        retriever.add(sorted(photos.iterdir())[:6])
        for photo in sorted(photos.iterdir())[:6]:
            assert retriever.search(photo, top=1)[0].id == str(photo)
    fingerprint = load_manifest(engine).fingerprint
    to_trt.main([str(learned), "--out", str(tmp_path / "again.onnx")])
    assert load_manifest(tmp_path / "again.onnx").fingerprint == fingerprint
