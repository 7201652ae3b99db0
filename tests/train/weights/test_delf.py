"""DeLF-pytorch's checkpoints: the network computes what the authors' code does, and others are refused by name."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from runtime.errors import HowlError
from train.checkpoint import Checkpoint
from train.models.extractor import extract
from train.models.local_model import LocalConfig
from train.models.registry import build_model
from train.weights.init import init_weights

from .published_delf import SMALL_CHANNELS, delf_content, delf_inference, use_small_resnet, write_delf

DIMENSIONS, FEATURES = 128, 60
SCALES = (1.0, 0.5, 2.0)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_resnet(monkeypatch)


@pytest.fixture
def pca() -> tuple[torch.Tensor, torch.Tensor]:
    """The mean [C] and the matrix [D, C] that the authors learn after training and keep in another file."""
    random = torch.Generator().manual_seed(1)
    return torch.rand(SMALL_CHANNELS, generator=random) / 20, torch.randn(DIMENSIONS, SMALL_CHANNELS, generator=random)


@torch.no_grad()
def test_the_network_computes_what_its_authors_code_does(
    pca: tuple[torch.Tensor, torch.Tensor], tmp_path: Path, photo_of: Callable[..., Any]
) -> None:
    content = delf_content()
    checkpoint = Checkpoint.load(write_delf(tmp_path / "fix.pth.tar", content))
    assert checkpoint.system == "delf"
    assert checkpoint.network == LocalConfig(backbone="resnet50_unit", dimensions=DIMENSIONS, border=True)
    assert (checkpoint.codebook, checkpoint.is_whitened) == (None, False)
    assert sorted(checkpoint.extraction.scales) == pytest.approx([2 ** (i / 2) for i in range(-4, 3)], rel=2e-3)
    network = checkpoint.build_model()
    network.whitening.projection.weight.copy_(pca[1][:, :, None, None])
    network.whitening.projection.bias.copy_(-pca[1] @ pca[0])  # type: ignore[union-attr]
    extractor = network.extractor(replace(checkpoint.extraction, scales=SCALES, features=FEATURES))
    for width, height in ((80, 61), (56, 90)):
        image = photo_of(0, 0, width, height)
        got, wanted = extract(extractor, image).need_local(), delf_inference(content, pca, image, SCALES, FEATURES)
        strengths = torch.from_numpy(got.strengths)
        torch.testing.assert_close(strengths, wanted.strengths / wanted.strengths[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(torch.from_numpy(got.positions[:, 2]), wanted.cells[:, 2])
        torch.testing.assert_close(torch.from_numpy(got.descriptors), wanted.descriptors, rtol=1e-3, atol=1e-4)


def test_the_published_names_are_those_of_a_whole_resnet_50(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    content = delf_content(whole=True)
    assert tuple(content["base"]["6.5.conv3.weight"].shape) == (1024, 256, 1, 1)
    assert tuple(content["attn"]["conv1.weight"].shape) == (512, 1024, 1, 1)
    weights = Checkpoint.load(write_delf(tmp_path / "fix.pth.tar", content)).weights
    assert torch.equal(weights["backbone.layer3.5.conv3.weight"], content["base"]["6.5.conv3.weight"])


def test_training_starts_from_one_at_any_dimensions_and_learns_whitening(tmp_path: Path) -> None:
    content = delf_content()
    path = write_delf(tmp_path / "fix.pth.tar", content)
    model = build_model("delf", LocalConfig(backbone="resnet50_unit", dimensions=40))
    before = model.whitening.projection.weight.clone()
    assert init_weights(model, str(path)) == {"backbone", "attention"}
    assert torch.equal(model.get_parameter("attention.conv1.weight"), content["attn"]["conv1.weight"])
    assert torch.equal(model.whitening.projection.weight, before)


def of_part(part: str, key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content[part].update({key: value})


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda content: content.pop("attn"), "first stage, without attention (attn): load a file of its second"),
        (lambda content: content.update(epoch=3), "it has epoch, which howl does not know"),
        (lambda content: content.update(base=7), "its base is no state dict"),
        (lambda content: content.update(attn=torch.zeros(2)), "its attn is no state dict"),
        (lambda content: content["attn"].pop("conv2.bias"), "conv2.bias is missing"),
        (lambda content: content["base"].pop("0.weight"), "base.0.weight is missing"),
        (of_part("attn", "bn1.weight", torch.zeros(2)), "has weights attn.bn1.weight, for which the network"),
        (of_part("base", "7.0.conv1.weight", torch.zeros(2)), "has weights base.7.0.conv1.weight, for which"),
        (of_part("base", "0.weight", torch.zeros(2)), "base.0.weight is (2,)"),
        (of_part("attn", "conv1.bias", 7), "its state_dict does not map names to tensors"),
    ],
)
def test_another_network_or_a_damaged_file_is_one_clear_error(
    change: Callable[[dict[str, Any]], Any], line: str, tmp_path: Path
) -> None:
    content = delf_content()
    change(content)
    with pytest.raises(HowlError) as caught:
        Checkpoint.load(write_delf(tmp_path / "fix.pth.tar", content))
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'fix.pth.tar'}: ")
    assert line in message
    assert "\n" not in message


def test_delg_pytorch_is_named_and_refused(tmp_path: Path) -> None:
    content = {"epoch": 3, "model_state": {"globalmodel.head.pool.p": torch.ones(1)}}
    with pytest.raises(HowlError, match=r"net\.pyth: of DELG-pytorch or CVNet [^\n]*--system delg$"):
        Checkpoint.load(write_delf(tmp_path / "net.pyth", content))
