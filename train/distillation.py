"""Distillation of backbones: a student's features, through a linear map, learn the teacher's at every position.

Features of a backbone trained on a million photos say far more of each position than a label would, so a few hundred
photos teach a start that retrieval can be trained from (FitNets: Romero et al., ICLR 2015).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from runtime.errors import HowlError
from runtime.io.image import Image
from train.backbones import Backbone
from train.data.labelled import LabelledPhotos
from train.descriptors import as_batch

STATISTICS_BATCHES = 16
KEPT_EVERY = 100  # steps
MIN_CROP = 0.2  # of a photo's area
GAIN, SHIFT = 0.3, 30  # of a crop's colours, at most: light and cameras differ


@dataclass(frozen=True)
class DistillationConfig:
    """Attributes:
    crop: side of the squares that are learned from, in pixels.
    batch: crops of a step.
    steps: of the optimiser.
    learning_rate: of Adam, at its peak; it rises and falls in one cycle (Smith and Topin, 2018).
    seed: of everything that is left to chance.
    """

    crop: int = 192
    batch: int = 32
    steps: int = 2000
    learning_rate: float = 2e-3
    seed: int = 0


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

    def run(self, validation: LabelledPhotos, keep: Callable[[dict[str, Any]], None] = lambda progress: None) -> float:
        """Trains the student for the steps that are left.

        Args:
            validation: photos that it is judged on.
            keep: is given what ``load_state`` goes on from, every ``KEPT_EVERY`` steps.

        Returns:
            the share of the teacher's variance that the student explains on ``validation``, at most 1.
        """
        statistics = self.statistics = self.statistics or self._teacher_statistics()
        nn.Module.train(
            self.student
        )  # a backbone's own leaves BatchNorm as it is, and random weights have no statistics
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
            if self.steps_done % KEPT_EVERY == 0:
                keep(self._progress())
        self.student.eval()
        held_out = self._crops(validation)
        with torch.no_grad():
            losses = [self._loss(next(held_out), statistics) for _ in range(STATISTICS_BATCHES)]
        return 1 - float(torch.stack(losses).mean())

    def load_state(self, progress: dict[str, Any]) -> None:
        """Goes back to where an earlier run was interrupted; the crops that follow are others."""
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
        """The share of the teacher's variance that is left unexplained, a scalar."""
        mean, std = statistics
        images = as_batch(crops, mean.device)
        with torch.no_grad():
            target = (self.teacher(images) - mean) / std
        return F.mse_loss(self.regressor(self.student(images)), target)

    @torch.no_grad()
    def _teacher_statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard std of the teacher's channels over crops, each [C, 1, 1]."""
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
        raise HowlError("no readable photo to learn from")

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
