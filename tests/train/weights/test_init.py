"""What a network begins with: a backbone's weights, howl's checkpoint, or HOW's own."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from runtime.asmk.codebook import Codebook
from runtime.asmk.kernel import AsmkParameters
from runtime.errors import HowlError
from train.checkpoint import Checkpoint
from train.models.base import ExtractionConfig
from train.models.gem import GemConfig, GemNetwork
from train.models.how import HowConfig, HowNetwork
from train.weights.init import init_weights

from .published_how import how_content, random_how, use_small_resnets, write_how


def network_of(config: HowConfig, seed: int) -> HowNetwork:
    """A network none of whose weights are those of another seed's."""
    torch.manual_seed(seed)
    network = HowNetwork(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.rand_like(parameter))
    return network


def saved(network: HowNetwork, path: Path) -> Path:
    words = Codebook(np.eye(2, network.config.dimensions, dtype=np.float32))
    Checkpoint(
        "how", network.config, network.state_dict(), ExtractionConfig(), AsmkParameters(), words, training={}
    ).save(path)
    return path


def equal(new: HowNetwork, old: HowNetwork, part: str) -> bool:
    weights = old.get_submodule(part).state_dict()
    return all(torch.equal(value, weights[name]) for name, value in new.get_submodule(part).state_dict().items())


@pytest.mark.parametrize(
    ("earlier", "later", "taken", "own"),
    [
        ({}, {"refine": "graph", "smoothing": "learned"}, {"backbone", "whitening"}, {"graph", "smoothing"}),
        (
            {"refine": "graph"},
            {"refine": "graph", "smoothing": "learned"},
            {"backbone", "whitening", "graph"},
            {"smoothing"},
        ),
        ({"refine": "graph", "smoothing": "learned"}, {}, {"backbone", "whitening"}, set()),
        ({"refine": "graph"}, {"refine": "graph", "graph_blocks": 1}, {"backbone", "whitening"}, {"graph"}),
        ({"smoothing": "learned"}, {"smoothing": "learned", "kernel": 5}, {"backbone", "whitening"}, {"smoothing"}),
    ],
    ids=["refinements are new", "one of two is new", "refinements go", "a smaller graph", "a wider window"],
)
def test_it_takes_over_what_both_networks_have(
    earlier: dict, later: dict, taken: set[str], own: set[str], tiny_config: HowConfig, tmp_path: Path
) -> None:
    old = network_of(replace(tiny_config, **earlier), seed=1)
    new = network_of(replace(tiny_config, **later), seed=2)
    untouched = network_of(replace(tiny_config, **later), seed=2)
    assert init_weights(new, str(saved(old, tmp_path / "old.pt"))) == taken
    assert all(equal(new, old, part) for part in taken)
    assert all(equal(new, untouched, part) for part in own)


def test_a_backbone_alone_leaves_whitening_to_be_learned(tiny_config: HowConfig, tmp_path: Path) -> None:
    old, new = network_of(tiny_config, seed=1), network_of(tiny_config, seed=2)
    torch.save(old.backbone.state_dict(), tmp_path / "backbone.pth")
    assert init_weights(new, str(tmp_path / "backbone.pth")) == {"backbone"}
    assert equal(new, old, "backbone")
    assert equal(new, network_of(tiny_config, seed=2), "whitening")


def test_another_system_gives_its_backbone_alone(tiny_config: HowConfig, tmp_path: Path) -> None:
    path = saved(network_of(tiny_config, seed=1), tmp_path / "how.pt")
    gem = GemNetwork(GemConfig(backbone=tiny_config.backbone, dimensions=tiny_config.dimensions))
    before = {name: value.clone() for name, value in gem.whitening.state_dict().items()}
    lines: list[str] = []
    assert init_weights(gem, str(path), lines.append) == {"backbone"}
    assert lines == [f"from {path}: backbone; left there: whitening"]
    assert all(torch.equal(value, before[name]) for name, value in gem.whitening.state_dict().items())
    assert torch.equal(
        gem.backbone.get_parameter("conv1.weight"), Checkpoint.load(path).weights["backbone.conv1.weight"]
    )


def test_hows_own_checkpoint_is_a_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_resnets(monkeypatch)
    how = random_how("resnet18")
    new = HowNetwork(replace(how.config, refine="graph"))
    assert init_weights(new, str(write_how(tmp_path / "how.pth", how_content(how)))) == {"backbone", "whitening"}
    assert equal(new, how, "backbone")
    assert equal(new, how, "whitening")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"dimensions": 4}, r"old\.pt: a network of --dimensions 8"),
        ({"backbone": "resnet18"}, r"old\.pt: .* --backbone tiny"),
    ],
)
def test_what_does_not_fit_is_one_line_and_says_the_option(
    changes: dict, complaint: str, tiny_config: HowConfig, tmp_path: Path
) -> None:
    path = saved(network_of(tiny_config, seed=1), tmp_path / "old.pt")
    with pytest.raises(HowlError, match=complaint):
        init_weights(HowNetwork(replace(tiny_config, **changes)), str(path))


def test_a_file_that_is_not_there_may_be_a_word_misspelt(tiny_config: HowConfig) -> None:
    with pytest.raises(HowlError, match="--init imagnet: no such file; nor is it imagenet or random"):
        init_weights(HowNetwork(tiny_config), "imagnet")
