"""The study of self-attention: its variants, its kept maps, and what it makes of logs."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tools.experiments.attention_curves import VARIANTS, CurvesOptions, KeptMaps, draw, table
from train.backbones import BUILDERS, Backbone
from train.models.how import HowConfig, HowNetwork


class Counting(Backbone):
    """Every 16th pixel, and how often it was asked."""

    channels, stride = 3, 16

    def __init__(self) -> None:
        super().__init__((0.0,) * 3, (1.0,) * 3)
        self.gain = nn.Parameter(torch.ones(()))
        self.asked = 0

    def features(self, image: Tensor) -> Tensor:
        self.asked += 1
        return self.gain * image[:, :, ::16, ::16]


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> HowNetwork:
    monkeypatch.setitem(BUILDERS, "counting", Counting)
    torch.manual_seed(0)
    return HowNetwork(HowConfig("counting", dimensions=2, refine="self-attention", graph_width=4)).eval()


@pytest.mark.parametrize(("key", "identity"), [("self-attention", True), ("careless", False), ("random-start", False)])
def test_careless_variants_change_features_before_the_first_step(key: str, identity: bool, build: HowNetwork) -> None:
    VARIANTS[key].change(build)
    features = torch.rand(1, 3, 4, 5)
    refined, _ = build.self_attention(features, features.norm(dim=1))  # type: ignore[misc]
    assert torch.equal(refined, features) == identity


def test_a_kept_map_is_computed_once_and_in_its_place(build: HowNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KeptMaps, "kept", {})
    kept, images = KeptMaps(build.backbone), 255 * torch.rand(3, 3, 32, 48)
    for order in ([0, 1], [1, 2, 0]):
        torch.testing.assert_close(kept(images[order]), images[order][:, :, ::16, ::16])
    assert build.backbone.asked == 3


def test_the_table_has_means_over_whole_runs_only(tmp_path: Path) -> None:
    options = CurvesOptions(data=tmp_path, out=tmp_path, epochs=1, seeds=(0, 1, 2))
    for seed, loss in ((0, 0.2), (1, 0.4)):
        records = [{"loss": None, "mean_average_precision": 0.9}, {"loss": loss, "mean_average_precision": 0.8 + loss}]
        (tmp_path / f"graph-{seed}.jsonl").write_text("\n".join(map(json.dumps, records)))
    (tmp_path / "graph-2.jsonl").write_text(json.dumps({"loss": None, "mean_average_precision": 0.1}))
    lines = table(options).splitlines()[2:]
    assert lines == ["| graph | 2 | loss | | 0.30 ± 0.10 |", "| graph | 2 | mAP | 90.00 ± 0.00 | 110.00 ± 10.00 |"]
    draw(options, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000
