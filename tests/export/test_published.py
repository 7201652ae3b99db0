"""From a file of a system's authors to an engine that gives what their inference gives, and searches."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from export import exporter, to_trt
from runtime.bundle import load_manifest
from runtime.engine import open_engine
from runtime.io.finding import find_photos
from runtime.io.image import load_rgb
from runtime.retriever import Retriever
from tools import index, search
from train.data.synthetic import write_scenes

from ..train.weights.published_cirtorch import CHANNELS, cirtorch_content, cirtorch_inference, use_small_resnet
from ..train.weights.published_dir import dir_content, dir_inference

pytestmark = pytest.mark.slow

KINDS = {  # the content of a file, what its authors' code gives, and our system
    "cirtorch's GeM": (partial(cirtorch_content, "gem, Lw"), cirtorch_inference, "gem"),
    "cirtorch's R-MAC": (partial(cirtorch_content, "rmac"), cirtorch_inference, "rmac"),
    "SOLAR": (partial(cirtorch_content, "solar"), cirtorch_inference, "solar"),
    "AP-GeM": (partial(dir_content, "layer"), dir_inference, "gem"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_engine_gives_what_the_authors_code_gives_and_searches(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_small_resnet(monkeypatch)
    monkeypatch.setattr(exporter, "find_gpus", list)
    make_content, inference, system = KINDS[kind]
    content = make_content()
    source, engine, folder = tmp_path / "net.pth", tmp_path / "engine.onnx", tmp_path / "photos"
    torch.save(content, source)
    write_scenes(folder, scenes=3, views=2, image_size=160, seed=0)
    to_trt.main([str(source), "--out", str(engine), "--photos", str(folder)])
    manifest = load_manifest(engine)
    assert (manifest.system, manifest.dimensions) == (system, CHANNELS)

    photos = [str(photo) for photo in find_photos([folder])]
    image = load_rgb(Path(photos[0]), 160)
    found = open_engine(engine, "cpu").extract(image).need_global()
    np.testing.assert_allclose(found, inference(content, image), rtol=1e-3, atol=2e-5)

    index.main([str(engine), *photos])
    capsys.readouterr()
    search.main([str(engine), photos[3], "--top", "2"])
    assert photos[3] in capsys.readouterr().out.splitlines()[0]
    with Retriever(engine, device="cpu") as retriever:
        assert {hit.id for hit in retriever.search(photos[0])} == set(photos)
