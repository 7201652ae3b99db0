"""Engines for photos that nobody labelled: whitening and visual words of the user's own photos, and no training.

The backbone keeps its weights. Whitening and words are learned at the size, and the words at the scales, at which the
engine will run.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from export.codebook import SEED, learn_words
from runtime.asmk.codebook import LEARNED_PHOTOS, LEARNED_WORDS
from runtime.asmk.kernel import AsmkParameters
from runtime.errors import DataError, UsageError
from runtime.io.finding import find_photos
from runtime.io.image import describe_unreadable
from train.backbones import BUILDERS
from train.calibration import learn_whitening
from train.checkpoint import Checkpoint
from train.config import FOLDER_SCALE
from train.data.folder import folder_photos
from train.distributed import ProcessGroup
from train.models.how import HowConfig, HowNetwork
from train.weights.init import init_weights

MIN_PHOTOS = 20  # of fewer, whitening knows no more than what they happen to show
WHITENED_PHOTOS = 400  # that whitening is learned from, at most; of more, it is no better


def untrained(backbone: str, init: str = "imagenet") -> Checkpoint:
    """HOW with a backbone's published weights, before it has whitening and words.

    Args:
        backbone: a name in ``train.backbones.BUILDERS``.
        init: its weights, as ``init_weights`` takes them.

    Raises:
        UsageError: there is no such backbone.
        HowlError: its weights are not on this machine.
    """
    model = HowNetwork(HowConfig(backbone=backbone))
    init_weights(model, init)
    return Checkpoint("how", model.config, model.state_dict(), FOLDER_SCALE.extraction, AsmkParameters(), None, {})


def learn(checkpoint: Checkpoint, folder: Path, say: Callable[[str], None] = print) -> Checkpoint:
    """The checkpoint with whitening, and visual words if it searches by ASMK, of a folder's photos.

    Args:
        checkpoint: with the settings that its engine is to have.
        folder: of photos, flat or nested; labels play no part.
        say: is told what was learned, from what.

    Raises:
        DataError: the folder has too few photos, or too few that can be read, or they are all alike.
        HowlError: there is no such folder.
    """
    photos = folder_photos(folder, {"": find_photos([folder])}, checkpoint.extraction.image_size)
    require(len(photos), folder, f"there are {len(photos)} photos")
    searches_by_words = checkpoint.asmk is not None
    used = min(LEARNED_PHOTOS if searches_by_words else WHITENED_PHOTOS, len(photos))
    whitened = min(WHITENED_PHOTOS, used)
    say(f"learning from {used} of {len(photos)} photos in {folder} ...")
    model = checkpoint.build_model()
    alone = ProcessGroup(0, 1, torch.device("cpu"))
    kind = model.whitenings[0]
    data = learn_whitening(
        model,
        photos,
        alone,
        kind=kind,
        count=WHITENED_PHOTOS,
        features=FOLDER_SCALE.whitening_features,
        seed=SEED,
    )
    unreadable = dict(photos.unreadable)
    readable = whitened - len(unreadable)
    if unreadable:
        say(describe_unreadable(unreadable))
    require(readable, folder, f"of {whitened} photos {readable} can be read")
    if data.directions < model.whitening.projection.out_channels:
        raise DataError(
            f"{folder}: the photos differ in {data.directions} directions only, a descriptor has "
            f"{model.whitening.projection.out_channels}: are they all alike? add others"
        )
    if kind == "views" and not data.by_pairs:
        say("few points of the photos are found again in their second views: whitening by PCA; more photos do better")
    size = checkpoint.extraction.image_size
    if data.longest_side < size:
        say(
            f"no photo has {size} pixels, the largest has {data.longest_side}: none is enlarged, and --image-size "
            f"{data.longest_side} would give the same"
        )
    learned = replace(checkpoint, weights=model.state_dict(), codebook=None)
    if searches_by_words:
        learned = replace(learned, codebook=learn_words(learned, photos, LEARNED_PHOTOS))
        if more := {path: why for path, why in photos.unreadable.items() if path not in unreadable}:
            say(describe_unreadable(more))
        words = len(learned.codebook or ())
        fewer = "; more photos give more words" if words < LEARNED_WORDS and used < LEARNED_PHOTOS else ""
        say(f"whitening and {words} visual words, learned from {used - len(photos.unreadable)} photos{fewer}")
    return learned


def require(photos: int, folder: Path, found: str) -> None:
    """Raises DataError, with what was found, if whitening cannot be learned from so few photos."""
    if photos < MIN_PHOTOS:
        raise DataError(
            f"{folder}: {found}, and at least {MIN_PHOTOS} are needed to learn from; name another folder for --learn"
        )


def is_backbone(name: Path) -> bool:
    """Whether an argument names a backbone, and no file."""
    return str(name) in BUILDERS and not name.exists()


def open_checkpoint(name: Path, learn_from: Path | None) -> Checkpoint:
    """A checkpoint, or an untrained network by the name of its backbone.

    Raises:
        UsageError: whitening or words are to be learned, and no photos are named to learn from.
        HowlError: as ``Checkpoint.load`` and ``untrained``.
    """
    if not is_backbone(name):
        checkpoint = Checkpoint.load(name)
        if learn_from is None and not checkpoint.is_whitened:
            raise UsageError(f"{name}: a network without whitening; name photos to learn it from: --learn DIR")
        return checkpoint
    if learn_from is None:
        raise UsageError(f"{name}: a backbone without whitening and words; name photos to learn them from: --learn DIR")
    return untrained(str(name))
