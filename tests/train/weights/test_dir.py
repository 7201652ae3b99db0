"""deep-image-retrieval's checkpoints: each computes what its authors' code does, and others are refused by name."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from runtime.errors import HowlError
from train.checkpoint import Checkpoint
from train.models.extractor import extract

from .published_cirtorch import use_small_resnet
from .published_dir import KINDS, dir_content, dir_inference, use_scikit_learn, write_dir

MODULES = ("sklearn.decomposition.pca", "sklearn.decomposition._pca")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_resnet(monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("whitened", [None, "rotated", *MODULES])
@pytest.mark.parametrize("kind", KINDS)
def test_the_network_computes_what_its_authors_code_does(
    kind: str, whitened: str | None, tmp_path: Path, photo_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as library:
        module = MODULES[0] if whitened == "rotated" else whitened
        pca = None if module is None else use_scikit_learn(library, module)
        content = dir_content(kind, pca, whiten=whitened != "rotated")
        path = write_dir(tmp_path / "net.pt", content)
    assert "sklearn" not in sys.modules  # which reading does not need
    checkpoint = Checkpoint.load(path)
    assert (checkpoint.system, checkpoint.extraction.image_size, checkpoint.extraction.scales) == ("gem", 1024, (1,))
    extractor = checkpoint.build_model().extractor(checkpoint.extraction)
    for width, height in ((150, 211), (320, 97)):
        image = photo_of(0, 0, width, height)
        found = torch.from_numpy(extract(extractor, image).need_global())
        torch.testing.assert_close(found, dir_inference(content, image), rtol=1e-3, atol=2e-5)


def alter(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["model_options"].update(values)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "line"),
    [
        (alter(arch="resnet101_fpn_rmac"), "of a resnet101_fpn_rmac; howl loads resnet18_rmac, resnet50_rmac"),
        (alter(arch="resnet18"), "of a resnet18; howl loads resnet18_rmac"),
        (alter(arch=7), "of a 7; howl loads"),
        (alter(pooling="max"), "pools by max; howl loads gem"),
        (lambda content: content["model_options"].pop("pooling"), "it lacks 'pooling'"),
        (lambda content: content.update(model_options=7), "not as deep-image-retrieval saves a checkpoint"),
        (lambda content: content.update(state_dict=7), "its state_dict does not map names to tensors"),
        (lambda content: content["state_dict"].pop("module.fc.bias"), "fc.bias is missing"),
        (lambda content: content["state_dict"].update({"module.fcn.bias": torch.zeros(2)}), "has weights module.fcn"),
        (lambda content: content["preprocess"].update(mean=[0, 0, 0]), "normalised by mean [0, 0, 0] and std"),
        (lambda content: content.update(pca={"Landmarks_clean": {"mean_": 7}}), "it lacks 'components_'"),
        (lambda content: content.update(pca=7), "not as deep-image-retrieval saves a checkpoint"),
    ],
)
def test_another_network_or_a_damaged_file_is_one_clear_error(
    change: Callable[[dict[str, Any]], Any], line: str, tmp_path: Path
) -> None:
    content = dir_content("layer")
    change(content)
    with pytest.raises(HowlError) as caught:
        Checkpoint.load(write_dir(tmp_path / "net.pt", content))
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'net.pt'}: ")
    assert line in message
    assert "\n" not in message
