"""PCA whitening and visual words of a third party's local descriptors, from a folder of photos."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from export.foreign.graph import Whitening
from runtime.asmk.codebook import LEARNED_PHOTOS, LEARNED_WORDS, Codebook, few_of_each, learn_codebook
from runtime.engine import Engine
from runtime.errors import DataError, ImageError
from runtime.io.finding import find_photos
from runtime.io.image import Image, describe_unreadable, load_rgb
from runtime.io.prefetch import prefetch_map

MIN_PHOTOS = 20  # of fewer, words know no more than what they happen to show
SEED = 0


def learn_from_folder(
    engine: Engine, folder: Path, image_size: int, *, whiten: bool, say: Callable[[str], None] = print
) -> tuple[Whitening | None, Codebook]:
    """Whitening, if it is asked for, and visual words of a folder's photos.

    Args:
        engine: that gives the descriptors as the network does.
        folder: of photos, flat or nested.
        image_size: longest side, in pixels, to which larger photos are shrunk.
        whiten: learn whitening, too.
        say: is told what was learned, from what.

    Raises:
        DataError: the folder has too few photos, or they show too little.
        HowlError: there is no such folder.
    """
    found = find_photos([folder])
    chosen = [found[number] for number in np.random.default_rng(SEED).permutation(len(found))[:LEARNED_PHOTOS]]
    say(f"learning from {len(chosen)} of {len(found)} photos in {folder} ...")
    unreadable: dict[str, str] = {}
    images = readable(chosen, image_size, unreadable)
    each = (engine.extract(image).need_local().descriptors for image in images)
    kept = few_of_each(each, len(chosen), LEARNED_WORDS, seed=SEED)
    if unreadable:
        say(describe_unreadable(unreadable))
    if len(kept) < MIN_PHOTOS:
        raise DataError(
            f"{folder}: {len(kept)} photos can be read, and at least {MIN_PHOTOS} are needed to learn from; name "
            "another folder for --learn"
        )
    descriptors, whitening = np.concatenate(kept), None
    if whiten:
        whitening = pca_whitening(descriptors, folder)
        descriptors = whitening(descriptors)
    codebook = learn_codebook(descriptors, LEARNED_WORDS, seed=SEED)
    say(f"{'whitening and ' if whiten else ''}{len(codebook)} visual words, learned from {len(kept)} photos")
    return whitening, codebook


def readable(paths: list[Path], image_size: int, unreadable: dict[str, str]) -> Iterator[Image]:
    """The photos that can be read, RGB uint8 [H, W, 3]; why the others cannot goes to ``unreadable``, by path."""

    def load(path: Path) -> Image | str:
        try:
            return load_rgb(path, image_size)
        except ImageError as error:
            return str(error)

    photos = prefetch_map(load, paths)
    for path, image in tqdm(photos, total=len(paths), desc="photos", unit="photo", leave=False, disable=None):
        if isinstance(image, str):
            unreadable[str(path)] = image
        else:
            yield image


def pca_whitening(descriptors: NDArray[np.float32], folder: Path) -> Whitening:
    """Mean 0, and variance 1 in every direction (Jégou and Chum, ECCV 2012), of descriptors float32 [n, D].

    Raises DataError if they do not differ in every direction.
    """
    mean = descriptors.mean(axis=0, dtype=np.float64)
    covariance = np.zeros((descriptors.shape[1],) * 2)
    for start in range(0, len(descriptors), 65_536):
        centred = descriptors[start : start + 65_536] - mean
        covariance += centred.T @ centred
    values, directions = np.linalg.eigh(covariance / max(1, len(descriptors)))
    if values[0] <= 1e-9 * values[-1]:
        raise DataError(
            f"{folder}: the descriptors of its photos do not differ in all of {len(values)} directions: add other "
            "photos, or leave whitening out: --no-whiten"
        )
    matrix = (directions / np.sqrt(values))[:, ::-1]
    return Whitening(mean.astype(np.float32), np.ascontiguousarray(matrix, np.float32))
