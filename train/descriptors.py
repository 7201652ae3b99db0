"""Photos of any sizes at one scale, through the network: what the losses compare and mining ranks by."""

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from runtime.io.image import Image
from train.data.labelled import LabelledPhotos
from train.distributed import ProcessGroup
from train.models.how import LocalFeatures, Network, global_descriptor

BATCH = 16  # photos read together; those of one size go through the network together


class Describer(nn.Module):
    """Images of any sizes → HOW's training descriptors, or their local features."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Sequence[Image]) -> Tensor:
        """RGB uint8 images, each [H, W, 3] → L2-normalised descriptors [n, D], in order."""
        numbers, batches = zip(*self._by_shape(images), strict=True)
        described = torch.cat([global_descriptor(local) for local in batches])
        return described[torch.tensor([i for of in numbers for i in of], device=described.device).argsort()]

    def local_features(self, images: Sequence[Image]) -> list[LocalFeatures]:
        """RGB uint8 images, each [H, W, 3] → each one's descriptors [D, h, w] and strengths [h, w], in order."""
        found = {
            i: LocalFeatures(descriptors, strengths)
            for numbers, local in self._by_shape(images)
            for i, descriptors, strengths in zip(numbers, *local, strict=True)
        }
        return [found[i] for i in range(len(images))]

    def _by_shape(self, images: Sequence[Image]) -> Iterator[tuple[list[int], LocalFeatures]]:
        """Images of one shape go through the network together: pairs of their numbers and their batch."""
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for i, image in enumerate(images):
            by_shape.setdefault(image.shape, []).append(i)
        device = next(self.network.parameters()).device
        for numbers in by_shape.values():
            yield numbers, self.network(as_batch([images[i] for i in numbers], device))


def as_batch(images: Sequence[Image], device: torch.device) -> Tensor:
    """RGB uint8 images of one size, each [H, W, 3] → float [B, 3, H, W] in 0…255."""
    return torch.from_numpy(np.stack(images)).to(device).permute(0, 3, 1, 2).float()


@torch.no_grad()
def describe_photos(
    describer: Describer, photos: LabelledPhotos, indices: NDArray[np.int64], processes: ProcessGroup, label: str
) -> dict[int, NDArray[np.float32]]:
    """The descriptor [D] of every readable photo among ``indices``; the processes share the work.

    Unreadable photos are dropped from the set, in every process.
    """
    described: dict[int, NDArray[np.float32]] = {}
    share = processes.share(indices.tolist())
    mine = photos.read_all(share)
    with tqdm(total=len(share), desc=label, unit="photo", leave=False, disable=quiet(processes)) as bar:
        while batch := list(islice(mine, BATCH)):
            readable = [(index, image) for index, image in batch if image is not None]
            if readable:
                vectors = describer([image for _, image in readable]).cpu().numpy()
                described.update(zip([index for index, _ in readable], vectors, strict=True))
            bar.update(len(batch))
    everyone: dict[int, NDArray[np.float32]] = {}
    for part in processes.gather(described):
        everyone.update(part)
    agree_on_unreadable(photos, processes)
    return everyone


def agree_on_unreadable(photos: LabelledPhotos, processes: ProcessGroup) -> None:
    """Drops in every process what any has found unreadable: they must draw the same tuples."""
    for unreadable in processes.gather(dict(photos.unreadable)):
        photos.leave_out(unreadable)


def quiet(processes: ProcessGroup) -> bool | None:
    """For tqdm's ``disable``: silent in all processes but the first, and there unless it writes to a terminal."""
    return None if processes.is_first else True
