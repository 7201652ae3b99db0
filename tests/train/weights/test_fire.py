"""FIRe's own checkpoints load to the network that they mean, say their licence, and others are refused by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from runtime.errors import HowlError
from train.checkpoint import Checkpoint
from train.models.base import ExtractionConfig
from train.models.extractor import LocalExtractor
from train.models.fire import FireConfig, FireNetwork, LocalFeatureIntegration
from train.weights.init import init_weights

from .published_fire import (
    FEATURES,
    ITERATIONS,
    SCALES,
    TEMPLATES,
    fire_content,
    fire_inference,
    random_fire,
    write_fire,
)
from .published_how import DIMENSIONS, IMAGE_SIZE, use_small_resnets

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_resnets(monkeypatch)


def test_a_published_file_loads_whole_and_computes_what_fire_does(tmp_path: Path, photo_of: Callable[..., Any]) -> None:
    content = fire_content(random_fire())
    checkpoint = Checkpoint.load(write_fire(tmp_path / "fire.pth", content))
    assert checkpoint.system == "fire"
    assert checkpoint.network == FireConfig("resnet50", DIMENSIONS, True, TEMPLATES, ITERATIONS)
    assert checkpoint.extraction == ExtractionConfig(IMAGE_SIZE, tuple(SCALES), FEATURES)
    assert "CC BY-NC-SA 4.0" in checkpoint.licence
    image = photo_of(0, 0, 112, 96)
    wanted = fire_inference(content["state_dict"], image, SCALES, FEATURES)
    extractor = checkpoint.build_model().extractor(checkpoint.extraction)
    assert isinstance(extractor, LocalExtractor)
    with torch.no_grad():
        descriptors, strengths, positions, count = extractor(torch.from_numpy(image))
    assert int(count) == FEATURES
    torch.testing.assert_close(strengths, wanted.strengths, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(positions[:, 2], wanted.cells[:, 2])
    torch.testing.assert_close(descriptors, wanted.descriptors, rtol=1e-3, atol=1e-3)


def test_the_authors_lit_has_as_many_parameters() -> None:
    lit = LocalFeatureIntegration(channels=1024, templates=256, iterations=6)
    assert sum(parameter.numel() for parameter in lit.parameters()) == 4_464_128


def test_it_is_a_beginning_and_says_the_licence(tmp_path: Path) -> None:
    fire = random_fire()
    path = write_fire(tmp_path / "fire.pth", fire_content(fire))
    new, said = FireNetwork(fire.config), list[str]()
    assert init_weights(new, str(path), said.append) == {"backbone", "lit", "whitening"}
    assert all(torch.equal(value, fire.state_dict()[name]) for name, value in new.state_dict().items())
    assert len(said) == 2
    assert said[0].startswith(f"{path}: ")
    assert "not for commercial use" in said[0]


def setting(*keys: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


def without(*keys: str) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for key in keys[:-1]:
            content = content[key]
        del content[keys[-1]]

    return change


def imagenet(content: dict[str, Any]) -> None:
    state = content["state_dict"]
    content["state_dict"] = {k: v for k, v in state.items() if "dim_reduction" not in k} | {"fc.bias": torch.zeros(5)}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (setting("net_params", "architecture", value="resnet101"), "resnet101 with skip_layer 1; howl loads resnet50"),
        (setting("net_params", "skip_layer", value=0), "resnet50 with skip_layer 0"),
        (without("net_params", "skip_layer"), "it lacks 'skip_layer'"),
        (without("net_params"), "it lacks 'net_params'"),
        (without("net_params", "lit"), "it lacks 'lit'"),
        (setting("net_params", "lit", "N", value="24"), "N is '24' instead of a whole number"),
        (setting("net_params", "lit", "N", value=12), "lit.templates_init is (24, 512), this network needs (12, 512)"),
        (setting("net_params", "lit", "N", value=10**9), "--templates 1000000000: must be at most 1024"),
        (setting("net_params", "dim_reduction", value=None), "not as FIRe saves a checkpoint"),
        (setting("net_params", "runtime", "mean_std", value=[[0, 0, 0], [1, 1, 1]]), "normalised by mean [0, 0, 0]"),
        (setting("state_dict", "lit.gate.weight", value=torch.zeros(1)), "has weights lit.gate.weight, for which"),
        (without("state_dict", "lit.mlp.2.bias"), "lit.mlp.2.bias is missing"),
        (without("state_dict", "lit.templates_init"), "lit.templates_init is missing"),
        (without("state_dict", "dim_reduction.weight"), "dim_reduction.weight is missing"),
        (imagenet, "a classifier, from which FIRe's training starts"),
    ],
)
def test_another_network_or_a_damaged_file_is_one_clear_error(
    change: Callable[[dict[str, Any]], None], line: str, tmp_path: Path
) -> None:
    content = fire_content(random_fire())
    change(content)
    path = write_fire(tmp_path / "fire.pth", content)
    with pytest.raises(HowlError) as caught:
        Checkpoint.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert line in message
    assert "\n" not in message
