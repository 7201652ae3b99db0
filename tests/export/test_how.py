"""From one of HOW's own checkpoints to an engine that gives what HOW's inference gives, and searches."""

from pathlib import Path

import numpy as np
import pytest

from export import exporter, to_trt
from export.codebook import codebook_for
from export.exporter import fingerprint_of
from runtime.bundle import EngineFiles, load_manifest
from runtime.engine import open_engine
from runtime.io.finding import find_photos
from runtime.io.image import load_rgb
from runtime.retriever import Retriever
from train.checkpoint import Checkpoint
from train.data.synthetic import write_scenes

from ..train.weights.published_how import (
    FEATURES,
    IMAGE_SIZE,
    SCALES,
    how_content,
    how_inference,
    random_how,
    use_small_resnets,
    write_how,
)

pytestmark = pytest.mark.slow

STRIDE = 16  # of the small ResNet-18


def test_the_engine_gives_what_how_gives_and_searches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a ResNet-18's checkpoint; that a ResNet-50's network is HOW's as well is tested where weights are read."""
    use_small_resnets(monkeypatch)
    monkeypatch.setattr(exporter, "find_gpus", list)
    content = how_content(random_how("resnet18"))
    source, engine, folder = tmp_path / "how.pth", tmp_path / "engine.onnx", tmp_path / "photos"
    write_how(source, content)
    write_scenes(folder, scenes=3, views=2, image_size=IMAGE_SIZE, seed=0)
    to_trt.main([str(source), "--out", str(engine), "--codebook", str(folder)])
    printed = capsys.readouterr().out
    assert f"learned from 6 of 6 photos in {folder}" in printed
    assert f"--codebook {EngineFiles.of(engine).codebook}" in printed.splitlines()[-1]

    photos = find_photos([folder])
    image = load_rgb(photos[0], IMAGE_SIZE)
    got = open_engine(engine, "cpu").extract(image).need_local()
    wanted = how_inference(content["state_dict"], image, SCALES, FEATURES)
    np.testing.assert_allclose(got.strengths, wanted.strengths, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(got.positions, pixels_of(wanted.cells.numpy(), image.shape), 1e-5)
    np.testing.assert_allclose(got.descriptors, wanted.descriptors, rtol=1e-3, atol=1e-3)

    manifest = load_manifest(engine)
    again = Checkpoint.load(source)
    again.codebook = codebook_for(again, EngineFiles.of(engine).codebook)
    assert fingerprint_of(again) == manifest.fingerprint
    with Retriever(engine, device="cpu") as retriever:
        retriever.add([str(photo) for photo in photos])
        assert [retriever.search(photo)[0].id for photo in photos] == [str(photo) for photo in photos]


def pixels_of(cells: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Cells (x, y, scale) as positions in an image of that shape: the centres of pixels of the resized image."""
    scale = cells[:, 2].astype(np.float64)
    x, y = (
        (cells[:, axis] * STRIDE + 0.5) * side / np.floor(np.round(side * scale, 6)) - 0.5
        for axis, side in ((0, shape[1]), (1, shape[0]))
    )
    return np.stack([x, y, scale], axis=1)
