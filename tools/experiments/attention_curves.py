"""Does self-attention train in the graph's place? Loss and validation mAP by epoch, of both and of careless variants.

    python tools/experiments/attention_curves.py --data photos/ --out curves/

The backbone is frozen, and its maps of all photos are kept in memory, so that a run takes minutes of one core. A run
that lies in --out is not run again. --out gets a log for each run, curves.png, and the table that is printed.
"""

if __name__ == "__main__":
    import howl

    howl.run_script("tools.experiments.attention_curves")  # before the imports: howl.py says why

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, cast

import numpy as np
import torch
import tyro
from torch import Tensor, nn

from runtime.io.files import ensure_writable
from train.backbones import Backbone
from train.config import Threads, TrainOptions
from train.data import open_data
from train.distributed import join_process_group, use_threads
from train.log import LOG_SUFFIX
from train.models.how import HowNetwork
from train.models.registry import build_model
from train.models.self_attention import SelfAttentionBlock
from train.run import parse
from train.trainer import Training
from train.weights.init import init_weights

BUDGET = {  # of a run; the rest is what training on a folder takes by default
    "--image-size": "320",
    "--scales": "1 0.707 0.5",
    "--features": "300",
    "--augmented": "0",
    "--whitening": "pca",
    "--words": "64",
    "--codebook-photos": "5",
    "--negatives": "3",
    "--tuples-per-step": "1",
}


@dataclass(frozen=True)
class CurvesOptions:
    """Trains each variant with each seed, and draws their curves.

    Attributes:
        data: a folder with one folder a scene.
        out: the folder of logs and curves.
        epochs: of a run.
        tuples: of an epoch.
        seeds: one run of each variant for each.
        threads: of the CPU.
    """

    data: Path
    out: Path
    epochs: int = 4
    tuples: int = 30
    seeds: tuple[int, ...] = (0, 1, 2)
    threads: Threads = None


@dataclass(frozen=True)
class Variant:
    """What takes the graph's place.

    Attributes:
        name: for the legend.
        refine: as in ``HowConfig``.
        change: done to the network before whitening is learned.
    """

    name: str
    refine: str
    change: Callable[[HowNetwork], None]


def random_start(network: HowNetwork) -> None:
    """Output projections as PyTorch starts a linear layer, not at zero."""
    for module in network.modules():
        if isinstance(module, SelfAttentionBlock):
            module.output.reset_parameters()


def careless(network: HowNetwork) -> None:
    """Neither a zero start nor a residual nor LayerNorm before the projections."""
    random_start(network)
    attention = network.self_attention
    assert attention is not None

    def refine(nodes: Tensor, is_node: Tensor) -> Tensor:
        for block in attention.blocks:
            nodes = block(nodes, is_node)
        return nodes

    attention.refine = refine  # type: ignore[method-assign]
    for module in attention.modules():
        if isinstance(module, SelfAttentionBlock):
            module.norm.forward = nn.Identity()  # type: ignore[method-assign]  # its weights stay in the checkpoint


VARIANTS = {
    "graph": Variant("graph", "graph", lambda _: None),
    "self-attention": Variant("self-attention", "self-attention", lambda _: None),
    "careless": Variant("no residual, zero start or norm", "self-attention", careless),
    "random-start": Variant("residual and norm, no zero start", "self-attention", random_start),
}


class KeptMaps:
    """A frozen backbone that computes the map of an image once; it takes the place of ``Backbone.forward``."""

    kept: ClassVar[dict[int, Tensor]] = {}  # of all runs, whose backbones have the same weights

    def __init__(self, backbone: Backbone) -> None:
        self.compute = cast(Callable[[Tensor], Tensor], backbone.forward)  # nothing beside the map is asked for

    def __call__(self, images: Tensor, after: nn.ModuleDict | None = None) -> Tensor:
        return torch.cat([self.of_one(image[None]) for image in images])

    def of_one(self, image: Tensor) -> Tensor:
        key = hash((tuple(image.shape), image.numpy().tobytes()))
        if key not in self.kept:
            with torch.no_grad():
                self.kept[key] = self.compute(image)
        return self.kept[key]


def train(variant: Variant, options: TrainOptions) -> None:
    """One run, as ``start_training`` does it, with the variant's change."""
    config = options.training
    with join_process_group() as processes:
        photos, validation = open_data(
            config.data, image_size=options.extraction.image_size, seed=config.seed, root=options.data_root
        )
        torch.manual_seed(config.seed)
        model = build_model("how", options.network)
        assert isinstance(model, HowNetwork)
        init_weights(model, options.init)
        variant.change(model)
        model.backbone.forward = KeptMaps(model.backbone)  # type: ignore[assignment]
        training = Training(model, photos, validation, config, options.extraction, processes)
        training.prepare(random_backbone=False)
        training.run(options.out)


def records_of(path: Path) -> list[dict]:
    """The epochs of a log; none if there is no whole run."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def curves_of(options: CurvesOptions, key: str, of: str) -> np.ndarray:
    """A quantity of the finished runs of a variant, [runs, epochs + 1]; NaN where an epoch has none."""
    logs = [records_of(options.out / f"{key}-{seed}{LOG_SUFFIX}") for seed in options.seeds]
    whole = [log for log in logs if len(log) == options.epochs + 1]
    return np.array([[np.nan if each[of] is None else each[of] for each in log] for log in whole], float)


def draw(options: CurvesOptions, path: Path) -> None:
    """Mean and standard deviation over the seeds, by epoch: loss beside mAP."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, of, label in (
        (axes[0], "loss", "loss of a tuple"),
        (axes[1], "mean_average_precision", "validation mAP"),
    ):
        for key, variant in VARIANTS.items():
            curves = curves_of(options, key, of)
            if len(curves):
                mean, spread, epochs = curves.mean(axis=0), curves.std(axis=0), np.arange(curves.shape[1])
                axis.plot(epochs, mean, marker="o", label=variant.name)
                axis.fill_between(epochs, mean - spread, mean + spread, alpha=0.2)
        axis.set(xlabel="epoch", ylabel=label, xticks=range(options.epochs + 1))
        axis.spines[["top", "right"]].set_visible(False)
    axes[1].legend(frameon=False)
    figure.savefig(path, dpi=120)


def table(options: CurvesOptions) -> str:
    """Loss and mAP by epoch, mean ± standard deviation over the seeds; Markdown."""
    epochs = range(options.epochs + 1)
    lines = ["| | runs | |" + "".join(f" epoch {i} |" for i in epochs), "|---|---|---|" + "---|" * len(epochs)]
    for key, variant in VARIANTS.items():
        for of, label, factor in (("loss", "loss", 1), ("mean_average_precision", "mAP", 100)):
            curves = factor * curves_of(options, key, of)
            if len(curves):
                cells = zip(curves.mean(axis=0), curves.std(axis=0), strict=True)
                row = "".join(" |" if np.isnan(mean) else f" {mean:.2f} ± {std:.2f} |" for mean, std in cells)
                lines.append(f"| {variant.name} | {len(curves)} | {label} |{row}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    options = tyro.cli(CurvesOptions, description=__doc__, args=arguments)
    ensure_writable(options.out / "curves.png")
    use_threads(options.threads)
    for key, variant in VARIANTS.items():
        for seed in options.seeds:
            out = options.out / f"{key}-{seed}.pt"
            if len(records_of(out.with_suffix(LOG_SUFFIX))) <= options.epochs:
                flags = ["--data", options.data, "--refine", variant.refine, "--seed", seed, "--out", out]
                flags += ["--epochs", options.epochs, "--tuples", options.tuples]
                flags += ["--freeze-backbone", *(word for flag in BUDGET.items() for word in " ".join(flag).split())]
                run = parse([str(flag) for flag in flags])
                assert isinstance(run, TrainOptions)
                print(f"{variant.name}, seed {seed}", flush=True)
                train(variant, run)
    draw(options, options.out / "curves.png")
    print(table(options))
