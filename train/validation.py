"""Validation as the product is used: codebook, ASMK, and the mean average precision of leave-one-out queries."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.asmk.codebook import Codebook, learn_codebook
from runtime.asmk.kernel import AsmkKernel, AsmkParameters
from runtime.errors import HowlError
from train.calibration import sample
from train.config import TrainingConfig
from train.data.labelled import LabelledPhotos
from train.metrics import average_precision, positive_ranks
from train.models.extractor import ExtractionConfig, Extractor
from train.models.how import Network


@dataclass(frozen=True)
class Validation:
    """The codebook learned for a network, and what it reaches.

    Attributes:
        codebook: visual words.
        mean_average_precision: over all queries, in [0, 1].
    """

    codebook: Codebook
    mean_average_precision: float


def validate(
    network: Network,
    training: LabelledPhotos,
    validation: LabelledPhotos,
    config: TrainingConfig,
    extraction: ExtractionConfig,
    asmk: AsmkParameters,
) -> Validation:
    """Learns the codebook on training photos at scale 1, then lets every validation query search all the others."""
    network.eval()
    codebook = codebook_of(
        network, training, extraction, count=config.codebook_photos, words=config.words, seed=config.seed
    )
    extractor = Extractor.of(network, extraction)
    described = dict(extract_descriptors(extractor, validation, np.flatnonzero(validation.usable), "validation"))
    return Validation(codebook, mean_average_precision(validation, described, codebook, asmk))


def codebook_of(
    network: Network, photos: LabelledPhotos, extraction: ExtractionConfig, *, count: int, words: int, seed: int
) -> Codebook:
    """At most ``words`` visual words for a network: k-means on the descriptors of ``count`` photos at scale 1."""
    extractor = Extractor.of(network, replace(extraction, scales=(1.0,)))
    chosen = sample(photos, count, seed)
    parts = [descriptors for _, descriptors in extract_descriptors(extractor, photos, chosen, "codebook")]
    if not parts:
        raise HowlError("no readable photo to learn a codebook from")
    return learn_codebook(np.concatenate(parts), words, seed=seed)


@torch.no_grad()
def extract_descriptors(
    extractor: Extractor, photos: LabelledPhotos, indices: NDArray[np.int64], label: str
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Pairs of photo number and its descriptors [n, D]; unreadable photos are left out."""
    device = next(extractor.parameters()).device
    images: Iterable = photos.read_all(indices.tolist())
    for index, image in tqdm(images, total=len(indices), desc=label, unit="photo", leave=False, disable=None):
        if image is not None:
            descriptors, _, _, count = extractor(torch.from_numpy(image).to(device))
            yield index, descriptors[: int(count)].cpu().numpy()


def mean_average_precision(
    photos: LabelledPhotos, described: dict[int, NDArray[np.float32]], codebook: Codebook, asmk: AsmkParameters
) -> float:
    """Every query against all other described photos, itself left out."""
    indices = np.array(sorted(described), np.int64)
    kernel = AsmkKernel(codebook, asmk)
    database = kernel.build([kernel.encode(described[i], 1) for i in indices.tolist()])
    precisions = []
    for query in photos.queries().tolist():
        scores = database.scores(kernel.query(kernel.encode(described[query], asmk.multiple_assignment)))
        ranking = indices[np.argsort(-scores, kind="stable")]
        positives = photos.positives(query)
        precisions.append(average_precision(positive_ranks(ranking, positives, photos.junk(query)), len(positives)))
    if not precisions:
        raise HowlError("no validation query: no scene has two readable photos")
    return float(np.mean(precisions))
