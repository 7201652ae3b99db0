"""Validation, as retrieval is used: extraction, the first stage, and the mean average precision of its rankings."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.asmk.codebook import Codebook, learn_codebook
from runtime.asmk.kernel import AsmkParameters
from runtime.errors import DataError, ImageError
from runtime.features import Features
from runtime.first_stage import ASMK, FirstStage
from train.calibration import sample
from train.config import TrainingConfig
from train.data.labelled import LabelledPhotos
from train.metrics import average_precision, positive_ranks
from train.models.base import ExtractionConfig, Extractor, RetrievalModel
from train.models.extractor import extract


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
    """Lets every validation query search all other validation photos; for ASMK it first learns the codebook.

    Args:
        model: set to eval mode.
        training: the photos that visual words are learned from, at scale 1.
        validation: the photos that query, and are searched.
        config: how many words from how many photos.
        extraction: of the validation photos.
        asmk: parameters of the search; None for another method.

    Raises:
        HowlError: there is no readable photo or no query.
    """
    model.eval()
    codebook = None
    if model.method == ASMK:
        codebook = codebook_of(
            model, training, extraction, count=config.codebook_photos, words=config.words, seed=config.seed
        )
    extractor = model.extractor(extraction)
    features = dict(extract_all(extractor, validation, np.flatnonzero(validation.usable), "validation"))
    return Validation(codebook, mean_average_precision(validation, features, model.first_stage(codebook, asmk)))


def codebook_of(
    model: RetrievalModel, photos: LabelledPhotos, extraction: ExtractionConfig, *, count: int, words: int, seed: int
) -> Codebook:
    """At most ``words`` visual words for a network: k-means on the descriptors of ``count`` photos at scale 1.

    Raises:
        HowlError: no photo can be read.
    """
    extractor = model.extractor(replace(extraction, scales=(1.0,)))
    chosen = sample(photos, count, seed)
    parts = [features.need_local().descriptors for _, features in extract_all(extractor, photos, chosen, "codebook")]
    if not parts:
        raise ImageError("no readable photo to learn a codebook from")
    return learn_codebook(np.concatenate(parts), words, seed=seed)


def extract_all(
    extractor: Extractor, photos: LabelledPhotos, indices: NDArray[np.int64], label: str
) -> Iterator[tuple[int, Features]]:
    """Pairs of photo number and its features; unreadable photos are left out."""
    images: Iterable = photos.read_all(indices.tolist())
    for index, image in tqdm(images, total=len(indices), desc=label, unit="photo", leave=False, disable=None):
        if image is not None:
            yield index, extract(extractor, image)


def mean_average_precision(photos: LabelledPhotos, features: Mapping[int, Features], first_stage: FirstStage) -> float:
    """Every query against all other photos, by their features; itself left out."""
    indices = np.array(sorted(features), np.int64)
    database = first_stage.build([first_stage.encode_database(features[i]) for i in indices.tolist()])
    precisions = []
    for query in photos.queries().tolist():
        scores = database.scores(first_stage.encode_query(features[query]))
        ranking = indices[np.argsort(-scores, kind="stable")]
        positives = photos.positives(query)
        precisions.append(average_precision(positive_ranks(ranking, positives, photos.junk(query)), len(positives)))
    if not precisions:
        raise DataError("no validation query: no scene has two readable photos")
    return float(np.mean(precisions))
