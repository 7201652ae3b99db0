"""From a file of DeLF-pytorch's authors, which has no PCA, to an engine that gives what their inference gives."""

from pathlib import Path

import numpy as np
import pytest
import torch

from export import exporter, to_trt
from runtime.bundle import EngineFiles
from runtime.engine import open_engine
from runtime.errors import UsageError
from runtime.io.finding import find_photos
from runtime.io.image import load_rgb
from runtime.retriever import Retriever
from train.checkpoint import Checkpoint
from train.data.synthetic import write_scenes

from ..train.weights.published_delf import delf_content, delf_inference, use_small_resnet, write_delf

IMAGE_SIZE, FEATURES, SCALES = 128, 60, (1.0, 0.5)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_small_resnet(monkeypatch)
    monkeypatch.setattr(exporter, "find_gpus", list)
    return write_delf(tmp_path / "fix.pth.tar", delf_content())


def test_without_photos_to_learn_whitening_from_there_is_no_engine(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"fix\.pth\.tar: a network without whitening; name photos .*: --learn DIR"):
        to_trt.main([str(source), "--out", str(tmp_path / "engine.onnx")])
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.slow
def test_the_engine_gives_what_the_authors_code_gives_and_searches(source: Path, tmp_path: Path) -> None:
    engine, folder = tmp_path / "engine.onnx", tmp_path / "photos"
    write_scenes(folder, scenes=11, views=2, image_size=IMAGE_SIZE, seed=0)
    scales = ["--scales", *map(str, SCALES)]
    flags = ["--learn", str(folder), "--image-size", str(IMAGE_SIZE), "--features", str(FEATURES), *scales]
    to_trt.main([str(source), "--out", str(engine), *flags])

    learned = Checkpoint.load(EngineFiles.of(engine).learned).weights
    matrix, bias = learned["whitening.projection.weight"][:, :, 0, 0], learned["whitening.projection.bias"]
    mean = -torch.linalg.pinv(matrix) @ bias  # a mean that the PCA's bias is of
    photos = [str(photo) for photo in find_photos([folder])]
    image = load_rgb(Path(photos[0]), IMAGE_SIZE)
    got = open_engine(engine, "cpu").extract(image).need_local()
    wanted = delf_inference(delf_content(), (mean, matrix), image, SCALES, FEATURES)
    np.testing.assert_allclose(got.strengths, wanted.strengths / wanted.strengths[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got.positions[:, 2], wanted.cells[:, 2])
    np.testing.assert_allclose(got.descriptors, wanted.descriptors, rtol=1e-2, atol=2e-3)
    with Retriever(engine, device="cpu") as retriever:
        retriever.add(photos)
        assert retriever.search(photos[3])[0].id == photos[3]
