"""FIRe as an engine: a network of ours in every precision, and a file of its authors, proven equal, and searched."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from export import exporter, to_trt
from runtime.bundle import load_manifest
from runtime.engine import open_engine
from runtime.first_stage import ASMK
from runtime.io.finding import find_photos
from runtime.io.image import load_rgb
from runtime.retriever import Retriever
from train.data.synthetic import write_scenes

from ..train.weights.published_fire import FEATURES, SCALES, fire_content, fire_inference, random_fire, write_fire
from ..train.weights.published_how import IMAGE_SIZE, use_small_resnets

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_it_is_exported_and_searches(precision: str, checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    engine, folder = tmp_path / "out" / "engine.onnx", tmp_path / "photos"
    to_trt.main([str(checkpoint(system="fire")), "--out", str(engine), "--precision", precision])
    manifest = load_manifest(engine)
    assert (manifest.system, manifest.method, manifest.dimensions) == ("fire", ASMK, 16)
    write_scenes(folder, scenes=3, views=2, image_size=IMAGE_SIZE, seed=0)
    photos = [str(photo) for photo in find_photos([folder])]
    with Retriever(engine, device="cpu") as retriever:
        retriever.add(photos)
        assert all(photo in [hit.id for hit in retriever.search(photo)] for photo in photos)


def test_the_engine_of_a_published_file_gives_what_fire_gives_and_says_the_licence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_small_resnets(monkeypatch)
    monkeypatch.setattr(exporter, "find_gpus", list)
    content = fire_content(random_fire())
    source, engine, folder = tmp_path / "fire.pth", tmp_path / "engine.onnx", tmp_path / "photos"
    write_fire(source, content)
    write_scenes(folder, scenes=3, views=2, image_size=IMAGE_SIZE, seed=0)
    to_trt.main([str(source), "--out", str(engine), "--codebook", str(folder)])
    assert f"{source}: FIRe's weights are under CC BY-NC-SA 4.0" in capsys.readouterr().out
    image = load_rgb(find_photos([folder])[0], IMAGE_SIZE)
    got = open_engine(engine, "cpu").extract(image).need_local()
    wanted = fire_inference(content["state_dict"], image, SCALES, FEATURES)
    np.testing.assert_allclose(got.strengths, wanted.strengths, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(got.positions[:, 2], wanted.cells[:, 2])
    np.testing.assert_allclose(got.descriptors, wanted.descriptors, rtol=1e-3, atol=1e-3)
