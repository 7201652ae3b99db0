"""What is learned once, before the first step, and then frozen: BatchNorm statistics and whitening."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from runtime.errors import HowlError
from train.backbones import Backbone
from train.config import TrainingConfig
from train.data.labelled import LabelledPhotos
from train.descriptors import agree_on_unreadable, as_batch, quiet
from train.distributed import ProcessGroup
from train.models.how import Network
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
        if image is not None and max(image.shape[:2]) > backbone.stride:  # one position alone has no statistics
            backbone(as_batch([image], device))
    for layer in layers:
        layer.eval()


@torch.no_grad()
def learn_whitening(network: Network, photos: LabelledPhotos, config: TrainingConfig, processes: ProcessGroup) -> None:
    """PCA whitening of the strongest refined features of training photos, at scale 1 (HOW, §4.1)."""
    network.eval()
    moments = Moments(network.backbone.channels)
    chosen = processes.share(sample(photos, config.whitening_photos, config.seed).tolist())
    images = photos.read_all(chosen)
    for _, image in tqdm(
        images, total=len(chosen), desc="whitening", unit="photo", leave=False, disable=quiet(processes)
    ):
        if image is not None:
            features, strengths = network.refined_features(as_batch([image], processes.device))
            moments.add(strongest(features[0], strengths[0], config.whitening_features).cpu().numpy())
    agree_on_unreadable(photos, processes)
    moments = Moments.total(processes.gather(moments))
    if moments.count == 0:
        raise HowlError("no readable training photo to learn whitening from")
    network.whitening.learn(moments)


def sample(photos: LabelledPhotos, count: int, seed: int) -> NDArray[np.int64]:
    """At most ``count`` usable photos, by chance, in order."""
    return np.sort(np.random.default_rng(seed).permutation(np.flatnonzero(photos.usable))[:count])


def strongest(features: Tensor, strengths: Tensor, count: int) -> Tensor:
    """The features [n, C] of the strongest positions of a map [C, h, w] with attention [h, w]."""
    chosen = strengths.flatten().topk(min(count, strengths.numel())).indices
    return features.flatten(1)[:, chosen].T
