"""Photos of any sizes at one scale, through a network: what the losses compare and mining ranks by."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from runtime.io.image import Image
from train.data.labelled import LabelledPhotos
from train.distributed import ProcessGroup
from train.models.base import FeatureMap, RetrievalModel
from train.models.extractor import exact, resize

BATCH = 16  # photos read together; those of one size go through the network together

# RGB uint8 images, each [H, W, 3] → their global descriptors, [n, D], in order.
Describe: TypeAlias = Callable[[Sequence[Image]], Tensor]


def describe_images(model: RetrievalModel, images: Sequence[Image]) -> Tensor:
    """RGB uint8 images of any sizes, each [H, W, 3] → L2-normalised descriptors [n, D], in order."""
    numbers, batches = zip(*by_shape(images, model), strict=True)
    described = torch.cat([model.describe(batch) for batch in batches])
    return described[torch.tensor([i for of in numbers for i in of], device=described.device).argsort()]


def compared_images(model: RetrievalModel, images: Sequence[Image]) -> list[tuple[Tensor, ...]]:
    """RGB uint8 images of any sizes, each [H, W, 3] → what the model's own losses compare, of each, in order."""
    found: dict[int, tuple[Tensor, ...]] = {}
    for numbers, batch in by_shape(images, model):
        found.update(zip(numbers, zip(*model.compared(batch), strict=True), strict=True))
    return [found[i] for i in range(len(images))]


def feature_maps(model: RetrievalModel, images: Sequence[Image]) -> list[FeatureMap]:
    """RGB uint8 images of any sizes, each [H, W, 3] → the map of each, without a batch axis, in order.

    Positions that may not become local features are cut off: a loss would else teach what no search sees.
    """
    found: dict[int, FeatureMap] = {}
    for numbers, batch in by_shape(images, model):
        descriptors, strengths = model.feature_maps(batch)
        eligible = model.eligible(strengths, batch)
        rows, columns = eligible.any(dim=1), eligible.any(dim=0)
        inside = FeatureMap(descriptors[:, :, rows][:, :, :, columns], strengths[:, rows][:, :, columns])
        found.update((i, FeatureMap(*maps)) for i, maps in zip(numbers, zip(*inside, strict=True), strict=True))
    return [found[i] for i in range(len(images))]


def by_shape(images: Sequence[Image], model: RetrievalModel) -> Iterator[tuple[list[int], Tensor]]:
    """Batches of images that share a shape: pairs of their numbers and the batch, as ``batch_for`` makes it."""
    numbers: dict[tuple[int, ...], list[int]] = {}
    for i, image in enumerate(images):
        numbers.setdefault(image.shape, []).append(i)
    for of_shape in numbers.values():
        yield of_shape, batch_for(model, [images[i] for i in of_shape])


def batch_for(model: RetrievalModel, images: Sequence[Image]) -> Tensor:
    """``as_batch`` on the network's device, at sides that fit its backbone, as the extractor has them."""
    return resize(as_batch(images, device_of(model)), exact(1.0), model.backbone.alignment)


def as_batch(images: Sequence[Image], device: torch.device) -> Tensor:
    """RGB uint8 images of one size, each [H, W, 3] → float [B, 3, H, W] in 0…255."""
    return torch.from_numpy(np.stack(images)).to(device).permute(0, 3, 1, 2).float()


def device_of(model: RetrievalModel) -> torch.device:
    """The device that a network computes on."""
    return next(model.parameters()).device


@torch.no_grad()
def describe_photos(
    describe: Describe, photos: LabelledPhotos, indices: NDArray[np.int64], processes: ProcessGroup, label: str
) -> dict[int, NDArray[np.float32]]:
    """The descriptor [D] of every readable photo among ``indices``; the processes share the work.

    Unreadable photos are dropped from the set, in every process.
    """
    described: dict[int, NDArray[np.float32]] = {}
    share = processes.share(indices.tolist())
    mine = photos.read_all(share)
    with tqdm(total=len(share), desc=label, unit="photo", leave=False, disable=processes.hides_progress) as bar:
        while batch := list(islice(mine, BATCH)):
            readable = [(index, image) for index, image in batch if image is not None]
            if readable:
                vectors = describe([image for _, image in readable]).cpu().numpy()
                described.update(zip([index for index, _ in readable], vectors, strict=True))
            bar.update(len(batch))
    everyone: dict[int, NDArray[np.float32]] = {}
    for part in processes.gather(described):
        everyone.update(part)
    agree_on_unreadable(photos, processes)
    return everyone


def agree_on_unreadable(photos: LabelledPhotos, processes: ProcessGroup) -> None:
    """Drops in every process what any of them found unreadable, so that all draw the same tuples."""
    for unreadable in processes.gather(dict(photos.unreadable)):
        photos.leave_out(unreadable)
