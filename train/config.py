"""The config: every number that training depends on, in one place, with HOW's values as the starting point."""

from dataclasses import asdict, dataclass
from typing import Any

from train.models.base import HOW_SCALES, ExtractionConfig

# Learning rates of the backbones: HOW's for ResNets; EfficientNet-Lite's was chosen on synthetic scenes, with Lite0.
BACKBONE_LEARNING_RATES = {
    "resnet18": 5e-6,
    "resnet18_stride16": 5e-6,
    "resnet50": 1e-6,
    "efficientnet_lite0": 2e-5,
    "efficientnet_lite0_stride32": 2e-5,
    "efficientnet_lite2": 2e-5,
}


@dataclass(frozen=True)
class TrainingConfig:
    """How a network is trained.

    Attributes:
        data: ``scenes``, ``sfm120k`` or a folder.
        seed: of everything that is left to chance.
        epochs: passes; each mines its tuples anew.
        tuples: query tuples of an epoch.
        pool: photos that an epoch's negatives are mined from.
        negatives: hard negatives of a tuple.
        nearest_positives: a query's positive is drawn from its so many nearest.
        tuples_per_step: tuples whose gradients are summed for one step of the optimiser.
        loss: ``contrastive`` on global descriptors, as HOW, or ``match`` on local ones.
        margin: of the contrastive loss.
        learning_rate: of the backbone.
        freeze_backbone: only the new modules learn; without any, nothing does, and training ends before its first step.
        new_module_factor: the new modules learn so many times faster.
        learning_rate_decay: of both, each epoch.
        weight_decay: of Adam.
        words: visual words of the codebook, at most.
        whitening_photos: training photos that whitening is learned on.
        whitening_features: strongest features of each.
        codebook_photos: training photos that the codebook is learned on.
        validate_every: epochs between validations; the last epoch is always validated.
    """

    data: str
    learning_rate: float
    seed: int = 0
    epochs: int = 20
    tuples: int = 2000
    pool: int = 20_000
    negatives: int = 5
    nearest_positives: int = 5
    tuples_per_step: int = 5
    loss: str = "contrastive"
    margin: float = 0.8
    freeze_backbone: bool = False
    new_module_factor: float = 10.0
    learning_rate_decay: float = 0.99
    weight_decay: float = 1e-4
    words: int = 65_536
    whitening_photos: int = 5_000
    whitening_features: int = 1000
    codebook_photos: int = 20_000
    validate_every: int = 1

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Scale:
    """What differs with the amount of data: HOW's setting for SfM-120k, smaller ones that a CPU can do.

    On a folder of photos the loss on local matches teaches the backbone more than HOW's does, and the refinements all
    that they learn (docs/experiments.md, 13 and 15).

    Attributes:
        extraction: image size, in training as in validation; scales and features, in validation.
        epochs, tuples, loss: as in ``TrainingConfig``.
    """

    extraction: ExtractionConfig
    epochs: int
    tuples: int
    loss: str = "contrastive"


SCALES = {
    "sfm120k": Scale(ExtractionConfig(image_size=1024, scales=HOW_SCALES, features=1000), epochs=20, tuples=2000),
    "scenes": Scale(
        ExtractionConfig(image_size=320, scales=(1.414, 1, 0.707, 0.5), features=500), epochs=4, tuples=120
    ),
}
FOLDER_SCALE = Scale(
    ExtractionConfig(image_size=480, scales=(1.414, 1, 0.707, 0.5, 0.353), features=700),
    epochs=10,
    tuples=400,
    loss="match",
)


def scale_for(data: str) -> Scale:
    """The scale of a source: of synthetic scenes, of SfM-120k, or of a folder."""
    return SCALES.get(data, FOLDER_SCALE)
