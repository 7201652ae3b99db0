"""cirtorch's and SOLAR's checkpoints: each computes what its authors' code does, and others are refused by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from runtime.errors import HowlError
from train.checkpoint import Checkpoint
from train.models.extractor import extract
from train.models.registry import build_model, system_named
from train.weights.init import init_weights

from .published_cirtorch import (
    CHANNELS,
    KINDS,
    SYSTEMS,
    cirtorch_content,
    cirtorch_inference,
    use_small_resnet,
    write_cirtorch,
)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_resnet(monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_network_computes_what_its_authors_code_does(
    kind: str, tmp_path: Path, photo_of: Callable[..., Any]
) -> None:
    content = cirtorch_content(kind)
    checkpoint = Checkpoint.load(write_cirtorch(tmp_path / "net.pth", content))
    assert checkpoint.system == SYSTEMS[kind.partition(",")[0]]
    assert (checkpoint.extraction.image_size, checkpoint.asmk, checkpoint.codebook) == (1024, None, None)
    extractor = checkpoint.build_model().extractor(checkpoint.extraction)
    for width, height in ((150, 211), (320, 97)):
        image = photo_of(0, 0, width, height)
        found = torch.from_numpy(extract(extractor, image).need_global())
        torch.testing.assert_close(found, cirtorch_inference(content, image), rtol=1e-3, atol=2e-5)


@pytest.mark.slow
def test_a_whole_resnet_101_has_the_published_names() -> None:
    for name, last in (("resnet50_stride32", 5), ("resnet101_stride32", 22), ("resnet152_stride32", 35)):
        with torch.device("meta"):
            network = build_model("gem", system_named("gem").Config(backbone=name, dimensions=8))
        assert {f"backbone.layer3.{last}.conv3.weight", "backbone.layer4.2.bn3.bias"} < network.state_dict().keys()
        assert f"backbone.layer3.{last + 1}.conv3.weight" not in network.state_dict()


def alter(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["meta"].update(values)


def alter_state(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["state_dict"].update({key: value})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "line"),
    [
        (alter(architecture="vgg16"), "of a vgg16; howl loads resnet18, resnet50"),
        (
            alter(architecture=["resnet18"]),
            "not as cirtorch or SOLAR save a checkpoint: values in it are of other types",
        ),
        (alter(outputdim=7), f"outputdim is 7, and its weights give {CHANNELS} dimensions"),
        (alter(pooling="gemmp"), "pools by gemmp; howl loads gem, rmac"),
        (alter(pooling=7), "pools by 7; howl loads gem, rmac"),
        (alter(pooling="gem", regional=True, whitening=False), "it lacks 'pool.whiten.weight'"),
        (alter(regional=True), "whitens regions and their sum"),
        (alter(local_whitening=True), "whitens every position"),
        (alter(soa=True, soa_layers="5"), "with attention in 5; howl loads"),
        (alter(soa=True, soa_layers="45"), "features.soa4.f.0.weight and 31 more are missing"),
        (alter(mean=[0, 0, 0]), "normalised by mean [0, 0, 0] and std"),
        (lambda content: content["meta"].pop("std"), "it lacks 'std'"),
        (lambda content: content.update(state_dict=7), "not as cirtorch or SOLAR save a checkpoint: values in it are"),
        (lambda content: content["state_dict"].pop("pool.p"), "pool.p is missing"),
        (alter_state("lwhiten.weight", torch.zeros(2)), "has weights lwhiten.weight, for which"),
        (alter_state("pool.p", torch.zeros(2)), "pool.p is (2,)"),
        (alter_state("features.0.weight", torch.zeros(2)), "features.0.weight is (2,)"),
        (
            alter_state("whiten.weight", torch.zeros(CHANNELS)),
            "not as cirtorch or SOLAR save a checkpoint: values in it are",
        ),
        (alter(whitening=False), "it has a whitening layer, of which its meta says nothing"),
        (alter_state("pool.whiten.bias", torch.zeros(CHANNELS)), "has two weights for one place"),
    ],
)
def test_another_network_or_a_damaged_file_is_one_clear_error(
    change: Callable[[dict[str, Any]], Any], line: str, tmp_path: Path
) -> None:
    content = cirtorch_content("gem")
    change(content)
    with pytest.raises(HowlError) as caught:
        Checkpoint.load(write_cirtorch(tmp_path / "net.pth", content))
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'net.pth'}: ")
    assert line in message
    assert "\n" not in message


@pytest.mark.slow
@pytest.mark.parametrize("learned", [{"ss": {}}, {"ms": {"m": 7, "P": 7}}, {"ms": {"m": torch.zeros(3, 1)}}, 7])
def test_odd_whitening_is_one_clear_error(learned: Any, tmp_path: Path) -> None:
    content = cirtorch_content("gem, Lw")
    content["meta"]["Lw"] = {"retrieval-SfM-30k": learned}
    with pytest.raises(
        HowlError, match=r"net\.pth: not as cirtorch or SOLAR save a checkpoint: (it lacks|values in it) [^\n]*$"
    ):
        Checkpoint.load(write_cirtorch(tmp_path / "net.pth", content))


@pytest.mark.slow
def test_solar_starts_from_a_published_gem_and_computes_the_same(tmp_path: Path) -> None:
    path = write_cirtorch(tmp_path / "gem.pth", cirtorch_content("gem"))
    earlier = Checkpoint.load(path)
    model = build_model("solar", earlier.network)
    assert init_weights(model, str(path)) == {"backbone", "pooling", "whitening"}
    pixels = torch.rand(1, 3, 96, 64) * 255
    with torch.no_grad():
        torch.testing.assert_close(model.eval().describe(pixels), earlier.build_model().describe(pixels))
    assert all(float(v.detach().abs().max()) == 0 for v in attention_outputs(model))


def attention_outputs(model: nn.Module) -> list[torch.Tensor]:
    return [parameter for name, parameter in model.named_parameters() if name.endswith("v.weight")]
