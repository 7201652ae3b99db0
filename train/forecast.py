"""How long a training run takes, from the times of its own work on a few of its photos."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from runtime.asmk.codebook import DESCRIPTORS_PER_WORD, KMEANS_SAMPLE, learn_codebook
from runtime.errors import ImageError
from runtime.first_stage import ASMK
from runtime.io.image import Image, shrink
from train.calibration import sample
from train.config import TrainingConfig
from train.data.labelled import LabelledPhotos
from train.descriptors import describe_images
from train.distributed import ProcessGroup
from train.learner import Learner
from train.log import EpochLog
from train.models.base import ExtractionConfig, RetrievalModel
from train.models.extractor import extract
from train.validation import DISTRACTORS, MAX_WORDS

TRIED_DESCRIPTORS, TRIED_WORDS = 8192, 128  # of a k-means that takes a moment


@dataclass(frozen=True)
class Forecast:
    """Seconds that the parts of a run take.

    Attributes:
        whitening: once, before the first epoch.
        epoch: mining, gradient steps, and whitening where it changes.
        validation: the untrained network's, and that of every ``validate_every``-th epoch.
        words: once, after the last epoch: the visual words of the best one.
        validate_every: as in ``TrainingConfig``.
    """

    whitening: float
    epoch: float
    validation: float
    words: float
    validate_every: int = 1

    def total(self, epochs: int) -> float:
        """Of a whole run."""
        return self.whitening + self.validation + self.left(epochs)

    def left(self, epochs: int) -> float:
        """Of a run that has so many epochs before it."""
        return epochs * self.epoch + -(-epochs // self.validate_every) * self.validation + self.words

    def corrected(self, record: EpochLog) -> "Forecast":
        """The forecast after an epoch whose time is known."""
        if record.epoch == 0:
            return replace(self, validation=record.seconds)
        validated = record.mean_average_precision is not None
        return replace(self, epoch=max(record.seconds - self.validation * validated, 0.0))


def in_words(duration: float) -> str:
    """Seconds, as precisely as a forecast is worth: ``about 2 h 10 min``."""
    minutes = round(duration / 60)
    if minutes < 1:
        return "less than a minute"
    if minutes >= 60:
        hours, minutes = divmod(10 * round(minutes / 10), 60)
        return f"about {hours} h {minutes} min" if minutes else f"about {hours} h"
    return f"about {minutes} min"


def forecast(
    model: RetrievalModel,
    learner: Learner,
    photos: LabelledPhotos,
    validation: LabelledPhotos,
    config: TrainingConfig,
    extraction: ExtractionConfig,
    processes: ProcessGroup,
) -> Forecast | None:
    """Tries each kind of work on a few photos and counts how often the run does it.

    The network is left as it was. Reading is counted as if nothing else went on meanwhile.

    Args:
        model: to train.
        learner: of the model.
        photos: to train on.
        validation: to validate on.
        config: how much there is to do.
        extraction: of validation.
        processes: among which mining and training are shared.

    Returns:
        None if fewer than three of the photos that were drawn can be read.
    """
    begin = time.perf_counter()
    images = list(those_readable(photos, sample(photos, 2 + config.negatives, config.seed).tolist()))
    if len(images) < 3:  # no tuple
        return None
    read = (time.perf_counter() - begin) / len(images)
    small = [shrink(image, config.tuple_size) for image in images]
    model.eval()
    at_one_scale, whole = model.extractor(replace(extraction, scales=(1.0,))), model.extractor(extraction)
    one_tuple = seconds(lambda: learner.try_tuple(small)) + len(images) * read
    with torch.no_grad():
        described = seconds(lambda: describe_images(model, small)) / len(images) + read
    at_scale_1 = seconds(lambda: extract(at_one_scale, images[0])) + read
    at_all_scales = seconds(lambda: extract(whole, images[0])) + read

    count, local = int(photos.usable.sum()), extraction.features or 0
    tuples = min(len(photos.queries()), config.tuples)
    from_views = config.whitening == "views"
    distractors, learned = min(count, DISTRACTORS), min(count, config.codebook_photos)
    pace = seconds_of_k_means(model.config.dimensions) if model.method == ASMK else 0.0
    whitening = (2 if from_views else 1) * min(count, config.whitening_photos) * at_scale_1
    relearned = config.relearns_whitening(type(model)) * whitening
    epoch = min(count, config.pool + 2 * tuples) * described + tuples * one_tuple + relearned
    return Forecast(
        whitening=whitening / processes.world,
        epoch=epoch / processes.world,
        validation=distractors * at_scale_1
        + 2 * int(validation.usable.sum()) * at_all_scales
        + pace * comparisons(distractors * local, MAX_WORDS),
        words=(learned * at_all_scales + pace * comparisons(learned * local, config.words)) if pace else 0.0,
        validate_every=config.validate_every,
    )


def seconds_of_k_means(dimensions: int) -> float:
    """Of a comparison of a descriptor with a word."""
    random = np.random.default_rng(0).normal(size=(TRIED_DESCRIPTORS, dimensions)).astype(np.float32)
    taken = seconds(lambda: learn_codebook(random, TRIED_WORDS, seed=0))
    return taken / comparisons(TRIED_DESCRIPTORS, TRIED_WORDS)


def comparisons(descriptors: int, words: int) -> float:
    """Of descriptors with words, in a round of the k-means that ``learn_codebook`` does."""
    learned = min(words, descriptors / DESCRIPTORS_PER_WORD)
    return min(descriptors, learned * KMEANS_SAMPLE) * learned


def those_readable(photos: LabelledPhotos, numbers: list[int]) -> Iterator[Image]:
    """Those of the photos that can be read; none is dropped from the set, whose processes would no longer agree."""
    for number in numbers:
        try:
            yield photos.load(number)
        except ImageError:
            continue


def seconds(work: Callable[[], object]) -> float:
    """How long something takes the second time: the first time memory is taken, and kernels are chosen."""
    for _ in range(2):
        begin = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    return time.perf_counter() - begin
