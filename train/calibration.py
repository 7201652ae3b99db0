"""What is learned once, before the first step, and then frozen: BatchNorm statistics and whitening."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from runtime.errors import ImageError
from train.backbones import Backbone
from train.data.labelled import LabelledPhotos
from train.descriptors import agree_on_unreadable, as_batch
from train.distributed import ProcessGroup
from train.models.base import RetrievalModel
from train.models.whitening import Moments

CALIBRATION_PHOTOS = 64


@torch.no_grad()
def calibrate_batch_norm(backbone: Backbone, photos: LabelledPhotos, seed: int) -> None:
    """Gives a backbone of random weights the statistics that its frozen BatchNorm layers would never learn."""
    layers = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    device = next(backbone.parameters()).device
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a plain average over the calibration photos
        layer.train()
    for _, image in photos.read_all(sample(photos, CALIBRATION_PHOTOS, seed).tolist()):
        if image is not None and max(image.shape[:2]) > backbone.stride:  # a single position has no statistics
            backbone(as_batch([image], device))
    for layer in layers:
        layer.eval()


@torch.no_grad()
def learn_whitening(
    model: RetrievalModel, photos: LabelledPhotos, processes: ProcessGroup, *, count: int, features: int, seed: int
) -> int:
    """PCA whitening of what the model takes it from (``whitening_samples``), over photos at scale 1.

    Args:
        model: whose whitening is learned.
        photos: of which some are drawn.
        processes: share the work.
        count: photos, at most.
        features: of each, at most.
        seed: of the draw.

    Returns:
        the number of directions in which the samples differ; where it is below D, the others are noise.

    Raises:
        HowlError: no photo can be read.
    """
    model.eval()
    moments = Moments(model.backbone.channels)
    chosen = processes.share(sample(photos, count, seed).tolist())
    images = photos.read_all(chosen)
    for _, image in tqdm(
        images, total=len(chosen), desc="whitening", unit="photo", leave=False, disable=processes.hides_progress
    ):
        if image is not None:
            samples = model.whitening_samples(as_batch([image], processes.device), features)
            moments.add(samples.cpu().numpy())
    agree_on_unreadable(photos, processes)
    moments = Moments.total(processes.gather(moments))
    if moments.count == 0:
        raise ImageError("no readable photo to learn whitening from")
    model.whitening.learn(moments, model.shrinkage)
    return moments.rank


def sample(photos: LabelledPhotos, count: int, seed: int) -> NDArray[np.int64]:
    """At most ``count`` usable photos, drawn at random, in order."""
    return np.sort(np.random.default_rng(seed).permutation(np.flatnonzero(photos.usable))[:count])
