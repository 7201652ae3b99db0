"""The visual words of an engine: the checkpoint's own, those of a file, or learned from photos.

HOW publishes networks without words, and any network's words can be learned anew, from the photos that it is to search.
"""

from pathlib import Path

from runtime.asmk.codebook import Codebook
from runtime.asmk_method.pickles import load_any_codebook
from runtime.errors import HowlError
from runtime.io.image import describe_unreadable, find_photos
from train.checkpoint import Checkpoint
from train.data import LabelledPhotos
from train.data.folder import folder_photos
from train.data.synthetic import synthetic_scenes
from train.validation import codebook_of

MAX_WORDS = 65_536  # HOW's number; fewer photos have fewer, 32 descriptors a word at least
PHOTOS = 400  # of a folder: some minutes of a CPU, and about 8,000 words
SYNTHETIC_SCENES, SYNTHETIC_VIEWS = 24, 4  # a minute or two of a CPU, and about 2,000 words
SEED = 0


def words_for(checkpoint: Checkpoint, source: str | None, most_photos: int | None) -> Codebook:
    """The visual words for a checkpoint's network; says what they were learned from.

    Args:
        checkpoint: with the settings that its engine is to have.
        source: a codebook's file, a folder of photos, or None for the checkpoint's own words, or, if
            there are none, synthetic scenes.
        most_photos: of the folder, that words are learned from; default: ``PHOTOS``.

    Raises:
        HowlError: there is no such file or folder, it holds no words and no photos, or words of other dimensions.
    """
    if source is None:
        return checkpoint.codebook or from_synthetic_scenes(checkpoint)
    if Path(source).is_dir():
        return from_folder(checkpoint, Path(source), most_photos or PHOTOS)
    return from_file(checkpoint, Path(source))


def from_file(checkpoint: Checkpoint, path: Path) -> Codebook:
    """Words of another engine's ``.codebook.npy``, or of what the asmk package saves: ``codebook.pkl``."""
    codebook = load_any_codebook(path)
    if codebook.dimensions != checkpoint.network.dimensions:
        raise HowlError(
            f"{path}: visual words of {codebook.dimensions} dimensions, the network's descriptors have "
            f"{checkpoint.network.dimensions}: name the codebook of this network, or a folder of photos"
        )
    return codebook


def from_folder(checkpoint: Checkpoint, folder: Path, most_photos: int) -> Codebook:
    """Words of at most so many of a folder's photos, which may lie in folders below it."""
    photos = folder_photos(folder, {"": find_photos([folder])}, checkpoint.extraction.image_size)
    codebook = learn_words(checkpoint, photos, most_photos)
    used = min(most_photos, len(photos)) - len(photos.unreadable)
    more = "--codebook-photos takes more of them" if len(photos) > most_photos else "more photos give more words"
    hint = f"; {more}" if len(codebook) < MAX_WORDS else ""
    print(f"{len(codebook)} visual words, learned from {used} of {len(photos)} photos in {folder}{hint}", flush=True)
    if photos.unreadable:
        print(describe_unreadable(photos.unreadable))
    return codebook


def from_synthetic_scenes(checkpoint: Checkpoint) -> Codebook:
    """Words of the program's own pictures, for want of better ones."""
    photos = synthetic_scenes(
        scenes=SYNTHETIC_SCENES, views=SYNTHETIC_VIEWS, image_size=checkpoint.extraction.image_size, seed=SEED
    )
    codebook = learn_words(checkpoint, photos, len(photos))
    print(
        f"{len(codebook)} visual words, learned from synthetic scenes, for the checkpoint has none: "
        "--codebook DIR, a folder of your own photos, ranks better",
        flush=True,
    )
    return codebook


def learn_words(checkpoint: Checkpoint, photos: LabelledPhotos, most_photos: int) -> Codebook:
    return codebook_of(
        checkpoint.build_model(), photos, checkpoint.extraction, count=most_photos, words=MAX_WORDS, seed=SEED
    )
