"""What is learned without gradients: BatchNorm statistics, whitening, and what else starts from a photo's features."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from runtime.errors import ImageError, UsageError
from runtime.io.image import Image, to_original_pixels
from train.augmentation import same_points, second_view
from train.backbones import Backbone
from train.data.labelled import LabelledPhotos
from train.descriptors import agree_on_unreadable, as_batch, batch_for
from train.distributed import ProcessGroup
from train.models.base import RetrievalModel, WhiteningSamples
from train.models.whitening import Moments

CALIBRATION_PHOTOS = 64
MIN_PAIRS = 1  # a channel; with fewer, whitening would prefer the directions that no pair has shown to change


class WhiteningData(NamedTuple):
    """What whitening was learned from.

    Attributes:
        directions: in which the features differ; where they are fewer than D, the others are noise.
        longest_side: pixels, of the largest photo as it was described.
        by_pairs: whether pairs decided, of points or of photos; if not, it is PCA's.
    """

    directions: int
    longest_side: int
    by_pairs: bool


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
    model: RetrievalModel,
    photos: LabelledPhotos,
    processes: ProcessGroup,
    *,
    kind: str,
    count: int,
    features: int,
    seed: int,
) -> WhiteningData:
    """Whitening from what the model takes it from (``whitening_samples``), over photos at scale 1; no labels.

    Args:
        model: whose whitening is learned.
        photos: of which some are drawn.
        processes: share the work.
        kind: ``pca``, as HOW, or ``views``: learned from pairs of features of the same point, in a photo and in a
            second view made from it; or ``pairs``: from pairs of photos of the same place (Lw of Radenović et al.,
            TPAMI 2018). Where these are fewer than ``MIN_PAIRS`` a channel, PCA takes their place.
        count: photos, at most.
        features: of each, at most.
        seed: of the draw and of the views.

    Returns:
        what it was learned from.

    Raises:
        HowlError: no photo can be read.
    """
    model.eval()
    moments, differences = Moments(model.backbone.channels), Moments(model.backbone.channels)
    drawn = sample_of_pairs(photos, count, seed) if kind == "pairs" else sample(photos, count, seed)
    chosen = processes.share(drawn.tolist())
    descriptors: dict[int, NDArray[np.float32]] = {}
    images, longest_side = photos.read_all(chosen), 0
    for index, image in tqdm(
        images, total=len(chosen), desc="whitening", unit="photo", leave=False, disable=processes.hides_progress
    ):
        if image is not None:
            longest_side = max(longest_side, *image.shape[:2])
            samples = model.whitening_samples(batch_for(model, [image]), features)
            moments.add(samples.features.cpu().numpy())
            if kind == "views":
                differences.add(differences_between_views(model, image, samples, features, (seed, index)))
            elif kind == "pairs":
                (descriptors[index],) = samples.features.cpu().numpy()
    agree_on_unreadable(photos, processes)
    moments = Moments.total(processes.gather(moments))
    differences = Moments.total(processes.gather(differences))
    for own in processes.gather(descriptors):
        descriptors |= own
    for of_query in differences_of_pairs(photos, descriptors):
        differences.add(of_query)
    if moments.count == 0:
        raise ImageError("no readable photo to learn whitening from")
    by_pairs = differences.count >= MIN_PAIRS * model.backbone.channels
    model.whitening.learn(moments, model.shrinkage, differences if by_pairs else None)
    # The first process decides: the last bit of a sum can turn a direction.
    model.whitening.load_state_dict(processes.from_first(model.whitening.state_dict()))
    return WhiteningData(moments.rank, max(processes.gather(longest_side)), by_pairs)


@torch.no_grad()
def learn_start(model: RetrievalModel, photos: LabelledPhotos, processes: ProcessGroup, seed: int) -> None:
    """Has the model's ``calibrated`` part start from the features of some photos at scale 1, if it has such a part.

    Raises:
        HowlError: no photo can be read.
    """
    if model.calibrated is None:
        return
    model.eval()
    moments: Moments | None = None
    chosen = processes.share(sample(photos, max(CALIBRATION_PHOTOS, processes.world), seed).tolist())
    for _, image in photos.read_all(chosen):
        if image is not None:
            features = model.calibration_samples(batch_for(model, [image]))
            moments = moments or Moments(features.shape[1])
            moments.add(features.cpu().numpy())
    agree_on_unreadable(photos, processes)
    parts = [part for part in processes.gather(moments) if part is not None]
    if not parts:
        raise ImageError(f"no readable photo for the {model.calibrated} to start from")
    model.start_from(Moments.total(parts))
    part = getattr(model, model.calibrated)
    part.load_state_dict(processes.from_first(part.state_dict()))


def differences_between_views(
    model: RetrievalModel, image: Image, samples: WhiteningSamples, features: int, seed: tuple[int, int]
) -> NDArray[np.float32]:
    """What changes in features when a photo is taken from another side and in another light: x − y, [n, C].

    Args:
        model: whose features they are.
        image: the photo, RGB uint8 [H, W, 3].
        samples: of the photo.
        features: of its second view, at most.
        seed: of the view.
    """
    view, homography = second_view(image, np.random.default_rng(seed))
    batch = batch_for(model, [view])
    of_view = model.whitening_samples(batch, features)
    here, there = (in_photo(each.positions, batch, image) for each in (samples, of_view))
    i, j = same_points(here, there, homography, distance=model.backbone.stride / 2)
    return (samples.features[i] - of_view.features[j]).cpu().numpy()


def differences_of_pairs(
    photos: LabelledPhotos, descriptors: Mapping[int, NDArray[np.float32]]
) -> Iterator[NDArray[np.float32]]:
    """What changes in the descriptors, [C] by photo, of two photos of one place: x − y, [n, C] for each photo x."""
    for query, own in descriptors.items():
        matches = [descriptors[match] for match in photos.positives(query).tolist() if match in descriptors]
        if matches:
            yield own - np.array(matches)


def in_photo(positions: Tensor | None, batch: Tensor, image: Image) -> NDArray[np.floating]:
    """Positions [n, 2] in the pixels of a photo before it became a batch of aligned sides."""
    if positions is None:
        raise UsageError("--whitening views needs local features: take --whitening pca")
    x, y = positions.cpu().numpy().T
    (height, width), (rows, columns) = image.shape[:2], batch.shape[2:]
    return np.stack([to_original_pixels(x, width, columns), to_original_pixels(y, height, rows)], axis=1)


def sample_of_pairs(photos: LabelledPhotos, count: int, seed: int) -> NDArray[np.int64]:
    """At most ``count`` usable photos, in order: queries drawn at random, and for each a photo of the same place."""
    random = np.random.default_rng(seed)
    chosen: set[int] = set()
    for query in random.permutation(photos.queries()).tolist():
        if len(chosen) + 2 > count:
            break
        chosen |= {query, int(random.choice(photos.positives(query)))}
    return np.array(sorted(chosen), np.int64)


def sample(photos: LabelledPhotos, count: int, seed: int) -> NDArray[np.int64]:
    """At most ``count`` usable photos, drawn at random, in order."""
    return np.sort(np.random.default_rng(seed).permutation(np.flatnonzero(photos.usable))[:count])
