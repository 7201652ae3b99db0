"""The settings of training: what a command may change, and the defaults that fit the data, the system and the backbone.

Every setting is declared once. Its name, type, help text and check are those of a field of a dataclass, and tyro builds
the command line from them.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from runtime.asmk.codebook import LEARNED_PHOTOS, LEARNED_WORDS
from runtime.cores import MAX_THREADS
from runtime.errors import UsageError
from runtime.first_stage import ASMK
from train.models.base import (
    PYRAMID,
    ExtractionConfig,
    ModelConfig,
    RetrievalModel,
    a_seed,
    above_zero,
    at_least,
    at_most,
    in_pixels,
    of_declared_types,
)
from train.models.registry import SYSTEMS, system_named

DATA_ROOT = Path("data")
CHECKPOINT = Path("ckpt.pt")

# Learning rates of the backbones: HOW's for ResNets, cirtorch's for the large ones; EfficientNet-Lite's was chosen on
# synthetic scenes, with Lite0.
BACKBONE_LEARNING_RATES = {
    "resnet18": 5e-6,
    "resnet18_stride16": 5e-6,
    "resnet50": 1e-6,
    "resnet50_unit": 1e-6,
    "resnet50_stride32": 1e-6,
    "resnet101_stride32": 5e-7,
    "resnet152_stride32": 5e-7,
    "efficientnet_lite0": 2e-5,
    "efficientnet_lite0_stride32": 2e-5,
    "efficientnet_lite1": 2e-5,
    "efficientnet_lite2": 2e-5,
}


def shown_as(metavar: str, default: str) -> Any:
    """How a command's help shows an option whose default depends on others."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {default})")


Threads = Annotated[int | None, shown_as("T", "all cores")]


LOSSES = tuple(dict.fromkeys(loss for model in SYSTEMS.values() for loss in model.losses))
SYSTEM_HELP = "; ".join(f"{name}: {model.summary}" for name, model in SYSTEMS.items())


def check_threads(threads: int | None) -> None:
    """Raises UsageError if a number of threads is none, or one that no machine has a use for."""
    if threads is not None:
        at_least(1, threads=threads)
        at_most(MAX_THREADS, threads=threads)


@dataclass(frozen=True)
class TrainingConfig:
    """How a network is trained. Values without a default here depend on data, system or backbone (``options_for``).

    Attributes:
        data: scenes (synthetic, made by the program itself), sfm120k, or a folder with one folder a scene.
        learning_rate: of the backbone.
        epochs: passes; each mines new tuples. 0 only learns whitening and, for ASMK, the codebook.
        tuples: query tuples of an epoch.
        tuple_size: longest side, in pixels, of the photos that are mined and trained on; those of a tuple are seen at
            one scale, and learn for all.
        augmented: share of the photos of a tuple that are seen from another side and in another light.
        loss: contrastive, on global descriptors of a tuple; ap, the average precision of all photos of a step, by
            global descriptors; match, on local features; or the system's own.
        margin: of a loss that compares the photos of a tuple by a distance.
        seed: of everything that is drawn at random.
        pool: photos that an epoch's negatives are mined from.
        negatives: hard negatives of a tuple.
        nearest_positives: how many of the query's nearest photos the positive is drawn from.
        tuples_per_step: tuples whose gradients are summed for one step of the optimiser, or whose photos query each
            other with --loss ap, for which 20 and more are better.
        freeze_backbone: only the new modules learn: three times as fast, and enough for few photos. A network without
            new modules then learns whitening and codebook only.
        new_module_factor: new modules learn so many times faster than the backbone.
        learning_rate_decay: factor of all learning rates, each epoch.
        weight_decay: of Adam.
        whitening: learned from second views made of the photos, so that what changes with viewpoint and light counts
            little, and learned anew after each epoch (views); as HOW does (pca); or from pairs of photos of the same
            place (pairs), for global descriptors, of which it is learned anew after each epoch that changes the
            backbone.
        words: visual words of the codebook, at most.
        whitening_photos: training photos that whitening is learned from.
        whitening_features: strongest features of each, for local features.
        codebook_photos: training photos that the codebook is learned from.
        validate_every: epochs between validations; the last epoch is always validated.

    Raises:
        UsageError: a value is out of range, or of another type: a file may hold any.
    """

    data: str
    learning_rate: float
    epochs: int
    tuples: int
    tuple_size: int
    augmented: float
    loss: Annotated[str, tyro.conf.arg(metavar="|".join(LOSSES))]
    margin: float
    seed: int = 0
    pool: int = 20_000
    negatives: int = 5
    nearest_positives: int = 5
    tuples_per_step: int = 5
    freeze_backbone: bool = False
    new_module_factor: float = 10.0
    learning_rate_decay: float = 0.99
    weight_decay: float = 1e-4
    whitening: Literal["views", "pairs", "pca"] = "pca"
    words: int = 65_536
    whitening_photos: int = 5_000
    whitening_features: int = 1000
    codebook_photos: int = 20_000
    validate_every: int = 1

    def __post_init__(self) -> None:
        of_declared_types(self)
        at_least(0, epochs=self.epochs, weight_decay=self.weight_decay, augmented=self.augmented)
        at_most(1, augmented=self.augmented)
        a_seed(seed=self.seed)
        in_pixels(tuple_size=self.tuple_size)
        counts = ("tuples", "pool", "negatives", "nearest_positives", "tuples_per_step", "words", "validate_every")
        photos = ("whitening_photos", "whitening_features", "codebook_photos")
        at_least(1, **{name: getattr(self, name) for name in (*counts, *photos)})
        rates = ("learning_rate", "margin", "new_module_factor", "learning_rate_decay")
        above_zero(**{name: getattr(self, name) for name in rates})

    def relearns_whitening(self, model: type[RetrievalModel]) -> bool:
        """Whether whitening is learned anew after each epoch: what it is learned from has changed."""
        return self.whitening == "views" or not (model.keeps_whitening or self.freeze_backbone)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class TrainOptions:
    """Trains a network for retrieval, and writes a checkpoint, its log and its curve.

    The defaults below are those for the system, the data, the backbone and the image size on this command line.
    --resume CKPT goes on with an earlier run; beside it only --epochs, --out and --data-root may be given.

    Attributes:
        network: the network
        training: the training
        extraction: photos, as validation and the engine describe them
        init: the first weights: imagenet, random, or a file: a backbone's state dict, or a checkpoint to start from.
        out: the checkpoint to write.
        data_root: where published data sets lie.
        threads: of the CPU.

    Raises:
        UsageError: the settings do not go together.
    """

    system: Annotated[str, tyro.conf.arg(metavar="|".join(SYSTEMS), help=SYSTEM_HELP)]
    network: ModelConfig
    training: TrainingConfig
    extraction: ExtractionConfig
    init: str = "imagenet"
    out: Path = CHECKPOINT
    data_root: Path = DATA_ROOT
    threads: Threads = None

    def __post_init__(self) -> None:
        check_threads(self.threads)
        model = system_named(self.system)
        if self.training.loss not in model.losses:
            raise UsageError(f"--loss {self.training.loss}: {self.system} is trained by {' or '.join(model.losses)}")
        if self.training.whitening not in model.whitenings:
            known = " or ".join(model.whitenings)
            raise UsageError(f"--whitening {self.training.whitening}: {self.system} learns its whitening by {known}")
        if self.training.tuple_size > self.extraction.image_size:
            raise UsageError(
                f"--tuple-size {self.training.tuple_size}: photos are read at --image-size {self.extraction.image_size}"
            )
        features = self.extraction.features
        if features is not None and not model.has_local_features:
            raise UsageError(f"--features {features}: {self.system} has no local features; leave it out")
        if self.extraction.activations:
            check_activations(self.system)


def check_activations(system: str) -> None:
    """Raises UsageError if the engines of a system cannot give activation maps."""
    if not SYSTEMS[system].has_activations:
        known = ", ".join(name for name, model in SYSTEMS.items() if model.has_activations)
        raise UsageError(f"--activations: {system} gives no activation maps; leave it out, or take {known}")


def refuse_without_effect(options: TrainOptions) -> None:
    """Raises UsageError if a setting is not what it is by default, and changes nothing."""
    network, training, model = options.network, options.training, system_named(options.system)
    fitting = options_for(options.system, training.data, network.backbone, options.extraction.image_size)
    needs: dict[str, str] = {}
    if model.method != ASMK:
        *some, last = (name for name, other in SYSTEMS.items() if other.method == ASMK)
        by_words = f"{', '.join(some)} or {last}"
        needs |= dict.fromkeys(("words", "codebook_photos", "whitening_features"), f"--system {by_words}")
    if training.loss in ("match", "ap"):
        needs["margin"] = "--loss contrastive"
    for given, default, without in (
        (network, fitting.network, network.without_effect()),
        (training, fitting.training, needs),
    ):
        for name, needed in without.items():
            if getattr(given, name) != getattr(default, name):
                flag = name.replace("_", "-")
                raise UsageError(f"--{flag} {getattr(given, name)}: has no effect without {needed}; leave it out")


@dataclass(frozen=True)
class ResumeOptions:
    """Goes on with a training run from its checkpoint, with the settings that it was started with.

    Attributes:
        resume: the checkpoint.
        out: the checkpoint to write.
        epochs: in all.
        data_root: where published data sets lie.
        threads: of the CPU.

    Raises:
        UsageError: a value is out of range.
    """

    resume: Path
    out: Annotated[Path | None, shown_as("PATH", "the one resumed")] = None
    epochs: Annotated[int | None, shown_as("INT", "as many as before")] = None
    data_root: Path = DATA_ROOT
    threads: Threads = None

    def __post_init__(self) -> None:
        check_threads(self.threads)
        if self.epochs is not None:
            at_least(0, epochs=self.epochs)


@dataclass(frozen=True)
class Scale:
    """What differs with the amount of data: HOW's setting for SfM-120k, smaller ones for a CPU.

    For a folder of photos the match loss trains the backbone better than HOW's, and it is all that trains the
    refinements (docs/experiments.md, 13 and 15). Rate, augmentation and size of the tuples were chosen there, too, with
    EfficientNet-Lite0 ("Training that a user with labels can wait for").

    Attributes:
        extraction: of photos in validation, and of the engine, unless its export says otherwise.
        epochs: as in ``TrainingConfig``, like all that follow.
        tuples: likewise.
        tuple_size: likewise.
        augmented: likewise.
        loss: likewise.
        learning_rate_factor: of the backbone's own rate (``BACKBONE_LEARNING_RATES``).
        new_module_factor: as in ``TrainingConfig``, like all that follow.
        whitening: likewise.
        whitening_photos: likewise.
        whitening_features: likewise.
        codebook_photos: likewise.
        words: likewise.
    """

    extraction: ExtractionConfig
    epochs: int
    tuples: int
    tuple_size: int
    augmented: float
    loss: str
    learning_rate_factor: float = 1.0
    new_module_factor: float = 10.0
    whitening: Literal["views", "pairs", "pca"] = "pca"
    whitening_photos: int = 5_000
    whitening_features: int = 1000
    codebook_photos: int = 20_000
    words: int = 65_536


SCALES = {
    "sfm120k": Scale(ExtractionConfig(), epochs=20, tuples=2000, tuple_size=1024, augmented=0.0, loss="contrastive"),
    "scenes": Scale(
        ExtractionConfig(image_size=320, scales=(1.414, 1, 0.707, 0.5), features=500),
        epochs=4,
        tuples=120,
        tuple_size=320,
        augmented=0.0,
        loss="contrastive",
    ),
}
FOLDER_SCALE = Scale(
    ExtractionConfig(image_size=720, scales=PYRAMID, features=1000),
    epochs=4,
    tuples=150,
    tuple_size=320,
    augmented=0.5,
    loss="match",
    learning_rate_factor=2.5,
    new_module_factor=4.0,
    whitening="views",
    whitening_photos=200,  # of which whitening from views is learned as well as of 400, and it is learned every epoch
    whitening_features=300,
    codebook_photos=LEARNED_PHOTOS,
    words=LEARNED_WORDS,
)
# What was found on local features need not hold for global ones.
GLOBAL_FOLDER_SCALE = Scale(
    ExtractionConfig(image_size=480, scales=PYRAMID),
    epochs=4,
    tuples=200,
    tuple_size=480,
    augmented=0.0,
    loss="contrastive",
)


def options_for(
    system: str = "how", data: str = "scenes", backbone: str | None = None, image_size: int | None = None
) -> TrainOptions:
    """The options of a run about which no more is said.

    Args:
        system: a name in ``train.models.registry.SYSTEMS``.
        data: as in ``TrainingConfig``.
        backbone: a name in ``train.backbones.BUILDERS``; None for the system's own.
        image_size: longest side of the photos, in pixels; None for what the data suggests.

    Raises:
        UsageError: there is no such system or backbone, or the image size is out of range.
    """
    model = system_named(system)
    scale = SCALES.get(data, FOLDER_SCALE if FOLDER_SCALE.loss in model.losses else GLOBAL_FOLDER_SCALE)
    extraction = model.extraction_defaults(scale.extraction)
    if image_size is not None:
        extraction = replace(extraction, image_size=image_size)
    network = model.Config.for_training(backbone, extraction.image_size)
    training = TrainingConfig(
        data=data,
        learning_rate=scale.learning_rate_factor * BACKBONE_LEARNING_RATES[network.backbone],
        epochs=scale.epochs,
        tuples=scale.tuples,
        tuple_size=min(scale.tuple_size, extraction.image_size),
        augmented=scale.augmented,
        loss=scale.loss if scale.loss in model.losses else model.losses[0],
        margin=model.margin,
        whitening=scale.whitening,
        new_module_factor=scale.new_module_factor,
        whitening_photos=scale.whitening_photos,
        whitening_features=scale.whitening_features,
        codebook_photos=scale.codebook_photos,
        words=scale.words,
    )
    return TrainOptions(system, network, training, extraction)
