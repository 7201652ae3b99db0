"""Validation, as retrieval is used: extraction, the first stage, and the mean average precision of its rankings.

What is to be found must be hard, or no epoch can be told from another: photos of one place are mostly alike, and found
before the first step. So each photo queries twice, as it is and as it might look from another side in another light
(``train.augmentation``), and training photos are searched, too. Of four networks, the mean of both chose the one that
was best on other scenes; photos as they are chose one that had got worse than it was untrained (docs/experiments.md).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.asmk.codebook import Codebook, few_of_each, learn_codebook
from runtime.asmk.kernel import AsmkParameters
from runtime.errors import DataError, ImageError
from runtime.features import Features
from runtime.first_stage import ASMK, FirstStage
from runtime.io.image import Image
from train.augmentation import augmented
from train.calibration import sample
from train.config import TrainingConfig
from train.data.labelled import LabelledPhotos
from train.metrics import average_precision, positive_ranks
from train.models.base import ExtractionConfig, Extractor, RetrievalModel
from train.models.extractor import extract

DISTRACTORS = 200  # training photos that are searched beside those of validation
MAX_WORDS = 1024  # of validation: seconds of k-means


@dataclass(frozen=True)
class Validation:
    """What a network reaches, and the codebook that was learned for it.

    Attributes:
        codebook: visual words; None if the system does not search by ASMK.
        mean_average_precision: over all queries, in [0, 1].
    """

    codebook: Codebook | None
    mean_average_precision: float


def validate(
    model: RetrievalModel,
    training: LabelledPhotos,
    validation: LabelledPhotos,
    config: TrainingConfig,
    extraction: ExtractionConfig,
    asmk: AsmkParameters | None,
) -> Validation:
    """Lets every validation query search all other validation photos, among training photos as distractors.

    Args:
        model: set to eval mode.
        training: the photos that distract, and that visual words are learned from, at scale 1.
        validation: the photos that query, and are searched.
        config: its seed draws the distractors.
        extraction: of the validation photos.
        asmk: parameters of the search; None for another method.

    Raises:
        HowlError: there is no readable photo or no query.
    """
    model.eval()
    at_one_scale, extractor = model.extractor(replace(extraction, scales=(1.0,))), model.extractor(extraction)
    drawn = sample(training, DISTRACTORS, config.seed)
    distractors = list(extract_all(at_one_scale, training, drawn, "validation: distractors"))
    codebook = None
    if model.method == ASMK:
        codebook = words_of(distractors, len(distractors), MAX_WORDS, config.seed)
    database: dict[int, Features] = {}
    queries: list[tuple[int, Features]] = []
    wanted = set(validation.queries().tolist())
    for number, image in readable(validation, np.flatnonzero(validation.usable), "validation"):
        database[number] = extract(extractor, image)
        if number in wanted:
            seen = augmented(image, np.random.default_rng([config.seed, number]))
            queries += [(number, database[number]), (number, extract(extractor, seen))]
    others = () if training is validation else distractors
    first_stage = model.first_stage(codebook, asmk)
    return Validation(codebook, mean_average_precision(validation, queries, database, others, first_stage))


def codebook_of(
    model: RetrievalModel, photos: LabelledPhotos, extraction: ExtractionConfig, *, count: int, words: int, seed: int
) -> Codebook:
    """At most ``words`` visual words: k-means on the descriptors of ``count`` photos, those of all levels.

    Raises:
        HowlError: no photo can be read.
    """
    chosen = sample(photos, count, seed)
    features = extract_all(model.extractor(extraction), photos, chosen, "visual words")
    return words_of(features, len(chosen), words, seed)


def words_of(features: Iterable[Features], number: int, words: int, seed: int) -> Codebook:
    """At most ``words`` visual words of at most ``number`` photos. Raises ImageError if there is no photo."""
    descriptors = (of_photo.need_local().descriptors for of_photo in features)
    kept = few_of_each(descriptors, number, words, seed=seed)
    if not kept:
        raise ImageError("no readable photo to learn a codebook from")
    return learn_codebook(np.concatenate(kept), words, seed=seed)


def extract_all(
    extractor: Extractor, photos: LabelledPhotos, numbers: NDArray[np.int64], label: str
) -> Iterator[Features]:
    """The features of each photo; unreadable photos are left out."""
    for _, image in readable(photos, numbers, label):
        yield extract(extractor, image)


def readable(photos: LabelledPhotos, numbers: NDArray[np.int64], label: str) -> Iterator[tuple[int, Image]]:
    """Pairs of number and photo, under a progress bar; unreadable photos are left out."""
    images: Iterable = photos.read_all(numbers.tolist())
    for number, image in tqdm(images, total=len(numbers), desc=label, unit="photo", leave=False, disable=None):
        if image is not None:
            yield number, image


def mean_average_precision(
    photos: LabelledPhotos,
    queries: Sequence[tuple[int, Features]],
    database: Mapping[int, Features],
    distractors: Sequence[Features],
    first_stage: FirstStage,
) -> float:
    """Of all queries, each against all photos but the one that it shows.

    Args:
        photos: that queries and database are of.
        queries: pairs of a photo's number and features.
        database: the features of the photos that are searched, by number.
        distractors: features of photos that are searched, too, and that are wrong answers to all.
        first_stage: that searches.

    Raises:
        DataError: there is no query that has an answer.
    """
    numbers = np.array([*sorted(database), *range(len(photos), len(photos) + len(distractors))], np.int64)
    searched = [*(database[i] for i in sorted(database)), *distractors]
    store = first_stage.build([first_stage.encode_database(features) for features in searched])
    precisions = []
    for number, features in queries:
        positives = photos.positives(number)
        if len(positives):
            scores = store.scores(first_stage.encode_query(features))
            ranking = numbers[np.argsort(-scores, kind="stable")]
            precisions.append(
                average_precision(positive_ranks(ranking, positives, photos.junk(number)), len(positives))
            )
    if not precisions:
        raise DataError("no validation query: no scene has two readable photos")
    return float(np.mean(precisions))
