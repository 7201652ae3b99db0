"""Gradient steps: the photos of a tuple, or of several as one list → a loss, and Adam over all that learns."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from runtime.errors import ImageError
from runtime.io.image import MIN_SIDE, Image, shrink
from train.augmentation import augmented
from train.config import TrainingConfig
from train.data.labelled import LabelledPhotos
from train.descriptors import describe_images
from train.distributed import ProcessGroup
from train.losses import LIST_LOSS, DescriptorGradient, TupleLoss, average_precision_loss
from train.mining import TrainingTuple
from train.models.base import RetrievalModel


class Learner:
    """Trains a network on tuples of photos.

    Attributes:
        optimiser: Adam.
    """

    def __init__(
        self, model: RetrievalModel, photos: LabelledPhotos, config: TrainingConfig, processes: ProcessGroup
    ) -> None:
        self.optimiser = build_optimiser(model, config)
        self._ranks = config.loss == LIST_LOSS
        self._model = model
        self._loss = DescriptorGradient(model) if self._ranks else TupleLoss(model, config.loss, config.margin)
        self._photos = photos
        self._config = config
        self._processes = processes

    def learn(self, tuples: Sequence[TrainingTuple], epoch: int) -> float:
        """One pass over the tuples of an epoch, counted from 0; the mean loss of a tuple."""
        label = f"epoch {epoch + 1} of {self._config.epochs}: training"
        per_step = self._config.tuples_per_step
        steps = [tuples[i : i + per_step] for i in range(0, len(tuples), per_step)]
        mine = [self._processes.share(step) for step in steps]
        images = self._images([t for step in mine for t in step], epoch)
        total = 0.0
        for step in tqdm(mine, desc=label, unit="step", leave=False, disable=self._processes.hides_progress):
            self.optimiser.zero_grad()
            photos = [next(images) for _ in step]
            total += self._learn_list(step, photos) if self._ranks else self._learn_tuples(photos)
            self.optimiser.step()
        return sum(self._processes.gather(total)) / len(tuples)

    def try_tuple(self, images: Sequence[Image]) -> None:
        """The work of one tuple, of which nothing is kept: for measuring its time."""
        loss = self._loss(images, self._described([images])[0]) if self._ranks else self._loss(images)
        if loss.requires_grad:  # not where nothing learns
            loss.backward()
        self.optimiser.zero_grad()

    def set_learning_rate(self, epoch: int) -> float:
        """Exponential decay by epoch; returns the backbone's rate."""
        rate = self._config.learning_rate * self._config.learning_rate_decay**epoch
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["factor"]
        return rate

    @cached_property
    def _shared_loss(self) -> nn.Module:
        """The loss, whose gradients the processes sum if there are several."""
        if self._processes.world == 1:
            return self._loss
        on_gpu = self._processes.device.type == "cuda"
        return DistributedDataParallel(self._loss, device_ids=[self._processes.device] if on_gpu else None)

    def _learn_tuples(self, photos: Sequence[Sequence[Image]]) -> float:
        """Adds the gradients of a step's tuples, as HOW does; the sum of their losses."""
        return sum(float(loss) for loss in self._backward([(images,) for images in photos]))

    def _learn_list(self, step: Sequence[TrainingTuple], photos: Sequence[Sequence[Image]]) -> float:
        """The photos of a step query each other, in three stages (``DescriptorGradient``); the loss, once a tuple."""
        numbers = [i for t in step for i in (t.query, t.positive, *t.negatives)]
        everyone = self._processes.gather((numbers, [part.cpu() for part in self._described(photos)]))
        listed = np.array([i for of, _ in everyone for i in of])
        parts = [part for _, of in everyone for part in of]
        descriptors = torch.cat(parts).requires_grad_()
        scenes = self._photos.scenes[listed]
        loss = average_precision_loss(
            descriptors,
            torch.from_numpy(scenes[:, None] == scenes),
            torch.from_numpy(listed[:, None] != listed),  # a photo that two tuples have in common does not find itself
        )
        gradients = torch.autograd.grad(loss, descriptors)[0].split([len(part) for part in parts])
        first = sum(len(of) for _, of in everyone[: self._processes.rank])
        mine = (gradient.to(self._processes.device) for gradient in gradients[first : first + len(step)])
        self._backward(list(zip(photos, mine, strict=True)))
        return float(loss.detach()) * len(step)

    @torch.no_grad()
    def _described(self, photos: Sequence[Sequence[Image]]) -> list[Tensor]:
        """The descriptors of a step's tuples, [n, D] each."""
        return [describe_images(self._model, images) for images in photos]

    def _backward(self, parts: Sequence[tuple[Any, ...]]) -> list[Tensor]:
        """Adds the gradients of a step: the losses of this process's parts, of which each is what the loss is given.

        The processes exchange gradients with the last part. They wait for one that has none in a short last step, which
        therefore adds a zero gradient.
        """
        world, loss_of = self._processes.world, self._shared_loss
        if not parts:
            black = [np.zeros((MIN_SIDE, MIN_SIDE, 3), np.uint8)] * 3
            nothing = (black, self._described([black])[0]) if self._ranks else (black,)
            (0 * loss_of(*nothing)).backward()
        losses = []
        for position, part in enumerate(parts):
            wait = isinstance(loss_of, DistributedDataParallel) and position < len(parts) - 1
            with loss_of.no_sync() if wait else nullcontext():  # type: ignore[operator]
                loss = loss_of(*part)
                (loss * world).backward()  # gradients are summed; DDP divides by the number of processes
            losses.append(loss.detach())
        return losses

    def _images(self, tuples: Sequence[TrainingTuple], epoch: int) -> Iterator[list[Image]]:
        """The photos of each tuple as they are trained on: query, positive, negatives; read ahead."""
        reader = self._photos.read_all(i for t in tuples for i in (t.query, t.positive, *t.negatives))
        for t in tuples:
            images = []
            random = np.random.default_rng([self._config.seed, epoch, t.query])  # the same in any number of processes
            for index, image in islice(reader, 2 + len(t.negatives)):
                if image is None:
                    raise ImageError(f"{self._photos.names[index]}: could be read before, and now cannot")
                small = shrink(image, self._config.tuple_size)
                images.append(augmented(small, random) if random.random() < self._config.augmented else small)
            yield images


def build_optimiser(model: RetrievalModel, config: TrainingConfig) -> torch.optim.Adam:
    """Adam with the model's own groups of parameters, each at a multiple of the learning rate."""
    groups = [
        {**group, "lr": config.learning_rate * group["factor"]}
        for group in model.parameter_groups(config.new_module_factor)
    ]
    return torch.optim.Adam(groups, weight_decay=config.weight_decay)


def load_moments(optimiser: torch.optim.Adam, state: dict[int, Any]) -> None:
    """Restores what Adam has seen; its settings stay. Raises an error of ``ODDITIES`` if the state does not fit it."""
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    for parameter, seen in optimiser.state.items():
        step, moments = seen["step"], (seen["exp_avg"], seen["exp_avg_sq"])
        if step.shape != () or step.dtype != torch.float32 or not step >= 1:
            raise ValueError(f"the optimiser's step is {step}")
        if any(moment.shape != parameter.shape for moment in moments):
            shapes = [tuple(moment.shape) for moment in moments]
            raise ValueError(f"the optimiser's moments are {shapes}, of a parameter {tuple(parameter.shape)}")
