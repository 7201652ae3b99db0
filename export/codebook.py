"""The visual words of an engine: the checkpoint's own, those of a file, or learned from photos.

HOW publishes networks without words, and any network's words can be learned from the photos that it is to search.
"""

from collections.abc import Callable
from pathlib import Path

from runtime.asmk.codebook import LEARNED_PHOTOS, LEARNED_WORDS, Codebook
from runtime.asmk_method.pickles import load_any_codebook
from runtime.bundle import EngineFiles, Manifest
from runtime.errors import IncompatibleError
from runtime.io.finding import find_photos
from runtime.io.image import describe_unreadable
from train.checkpoint import Checkpoint
from train.data import LabelledPhotos
from train.data.folder import folder_photos
from train.data.synthetic import synthetic_scenes
from train.validation import codebook_of

MAX_WORDS = 65_536  # of more photos, HOW's number; there are 32 descriptors a word at least
SYNTHETIC_SCENES, SYNTHETIC_VIEWS = 24, 4  # a minute or two of a CPU, and about 2,000 words
SEED = 0


def codebook_for(
    checkpoint: Checkpoint,
    source: Path | None,
    max_photos: int | None = None,
    say: Callable[[str], None] = print,
    *,
    scenes: int = SYNTHETIC_SCENES,
) -> Codebook:
    """The visual words for a checkpoint's network, of a system that searches by ASMK.

    Args:
        checkpoint: with the settings that its engine is to have.
        source: a codebook's file, a folder of photos, or None for the checkpoint's own words, or, if it has none, for
            words of synthetic scenes.
        max_photos: of the folder, that words are learned from; default: ``LEARNED_PHOTOS``.
        say: is told what the words were learned from.
        scenes: synthetic ones to learn from.

    Raises:
        HowlError: there is no such file or folder, it holds no words and no photos, or words of other dimensions.
    """
    if source is None:
        return checkpoint.codebook or learn_from_scenes(checkpoint, scenes, say)
    if source.is_dir():
        return learn_from_folder(checkpoint, source, max_photos or LEARNED_PHOTOS, say)
    return load_codebook(checkpoint, source)


def load_codebook(checkpoint: Checkpoint, path: Path) -> Codebook:
    """Words of another engine's ``.codebook.npy``, or of what the asmk package saves: ``codebook.pkl``.

    Raises:
        HowlError: there are none, or they are of other descriptors: of another system, or of other dimensions.
    """
    codebook = load_any_codebook(path)
    beside = EngineFiles.of_codebook(path)
    if beside is not None and beside.manifest.exists():
        system = Manifest.load(beside.manifest).system
        if system != checkpoint.system:
            raise IncompatibleError(
                f"{path}: visual words of {system}, whose descriptors are not those of {checkpoint.system}: name the "
                f"codebook of an engine of {checkpoint.system}, or a folder of photos"
            )
    if codebook.dimensions != checkpoint.network.dimensions:
        raise IncompatibleError(
            f"{path}: visual words of {codebook.dimensions} dimensions, the network's descriptors have "
            f"{checkpoint.network.dimensions}: name the codebook of this network, or a folder of photos"
        )
    return codebook


def learn_from_folder(checkpoint: Checkpoint, folder: Path, max_photos: int, say: Callable[[str], None]) -> Codebook:
    """Words of a folder's photos, or of ``max_photos`` of them; they may lie in folders below it."""
    photos = folder_photos(folder, {"": find_photos([folder])}, checkpoint.extraction.image_size)
    codebook = learn_words(checkpoint, photos, max_photos)
    used = min(max_photos, len(photos)) - len(photos.unreadable)
    more = "--codebook-photos takes more of them" if len(photos) > max_photos else "more photos give more words"
    hint = f"; {more}" if len(codebook) < MAX_WORDS else ""
    say(f"{len(codebook)} visual words, learned from {used} of {len(photos)} photos in {folder}{hint}")
    if photos.unreadable:
        say(describe_unreadable(photos.unreadable))
    return codebook


def learn_from_scenes(checkpoint: Checkpoint, scenes: int, say: Callable[[str], None]) -> Codebook:
    """Words of the program's own pictures, for want of better ones."""
    size = checkpoint.extraction.image_size
    photos = synthetic_scenes(scenes=scenes, views=SYNTHETIC_VIEWS, image_size=size, seed=SEED)
    codebook = learn_words(checkpoint, photos, len(photos))
    say(
        f"{len(codebook)} visual words, learned from synthetic scenes, because the checkpoint has none: "
        "--codebook DIR, a folder of your own photos, ranks better"
    )
    return codebook


def learn_words(checkpoint: Checkpoint, photos: LabelledPhotos, max_photos: int) -> Codebook:
    """The words of at most so many photos."""
    words = LEARNED_WORDS if max_photos <= LEARNED_PHOTOS else MAX_WORDS
    return codebook_of(
        checkpoint.build_model(), photos, checkpoint.extraction, count=max_photos, words=words, seed=SEED
    )
