"""retrieval-SfM-120k (Radenović et al., 2018) in its published layout.

ROOT/train/retrieval-SfM-120k/retrieval-SfM-120k.pkl                 cids, cluster, qidxs, pidxs of train and val
ROOT/train/retrieval-SfM-120k/retrieval-SfM-120k-val-eccv2020.pkl    HOW's validation: cids, qidx, gnd (ok, junk)
ROOT/train/retrieval-SfM-120k/ims/ef/cd/ab/…abcdef                   the photos, by the end of their cid
"""

from collections.abc import Mapping, Sequence, Sized
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.errors import DamagedError, MissingError
from runtime.io.image import Image, load_rgb
from runtime.io.unpickle import load_plain_pickle
from train.data.labelled import ALL, LabelledPhotos, Truth

SFM120K = "sfm120k"
FOLDER = Path("train/retrieval-SfM-120k")
LISTS = "retrieval-SfM-120k.pkl"
VALIDATION_LIST = "retrieval-SfM-120k-val-eccv2020.pkl"
PHOTOS_URL = "http://cmp.felk.cvut.cz/cnnimageretrieval/data/train/ims/ims.tar.gz"
LISTS_URL = "http://cmp.felk.cvut.cz/cnnimageretrieval/data/train/dbs/retrieval-SfM-120k.pkl"
VALIDATION_URL = f"http://ptak.felk.cvut.cz/personal/toliageo/share/how/dataset/{VALIDATION_LIST}"


def open_sfm120k(root: Path, split: str, image_size: int | None) -> LabelledPhotos:
    """The split ``train`` or ``val``: the published query–positive pairs, with 3D models as scenes.

    Args:
        root: folder that holds published data sets.
        split: ``train`` or ``val``.
        image_size: longest side, in pixels, that photos are shrunk to; None leaves them as they are.

    Raises:
        HowlError: the lists are missing or not as they were published; the line says what to put where.
    """
    path = _dataset(root) / LISTS
    lists = load_plain_pickle(path)
    try:
        part = lists[split]
        cids, clusters = list(part["cids"]), np.asarray(part["cluster"], np.int64)
        pairs = np.stack([np.asarray(part["qidxs"], np.int64), np.asarray(part["pidxs"], np.int64)], axis=1)
        _check(cids, clusters, pairs)
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedError(f"{path}: not in the published layout: {error}") from None
    truths = {query: Truth(positives) for query, positives in _positives_by_query(pairs).items()}
    return _labelled(path, cids, clusters, truths, image_size)


def open_sfm120k_validation(root: Path, image_size: int | None) -> LabelledPhotos:
    """HOW's validation set (val_eccv20) where its list is present, else the split ``val``; as ``open_sfm120k``."""
    path = _dataset(root) / VALIDATION_LIST
    if not path.exists():
        return open_sfm120k(root, "val", image_size)
    lists = load_plain_pickle(path)
    try:
        cids = list(lists["cids"])
        truths = {
            int(query): Truth(np.asarray(known["ok"], np.int64), np.asarray(known.get("junk", ()), np.int64))
            for query, known in zip(lists["qidx"], lists["gnd"], strict=True)
        }
        _check(cids, cids, np.concatenate([list(truths), *(numbers for truth in truths.values() for numbers in truth)]))
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedError(f"{path}: not in the published layout: {error}") from None
    return _labelled(path, cids, None, truths, image_size)


def _check(cids: list[str], scenes: Sized, pairs: NDArray[np.int64]) -> None:
    """Raises ValueError where the parts of a list do not go together."""
    if not all(isinstance(cid, str) for cid in cids):
        raise ValueError("cids must be names")
    if len(scenes) != len(cids):
        raise ValueError(f"{len(cids)} photos, but {len(scenes)} clusters")
    if pairs.size and not 0 <= pairs.min() <= pairs.max() < len(cids):
        raise ValueError(f"there are {len(cids)} photos, but pairs number {pairs.min()} to {pairs.max()}")


def _positives_by_query(pairs: NDArray[np.int64]) -> dict[int, NDArray[np.int64]]:
    pairs = np.unique(pairs, axis=0)
    queries, starts = np.unique(pairs[:, 0], return_index=True)
    return dict(zip(queries.tolist(), np.split(pairs[:, 1], starts[1:]), strict=True))


def _labelled(
    labels: Path,
    cids: Sequence[str],
    scenes: NDArray[np.int64] | None,
    truths: Mapping[int, Truth],
    image_size: int | None,
) -> LabelledPhotos:
    folder = labels.parent
    paths = [photo_path(folder, cid) for cid in cids]

    def read(number: int) -> Image:
        return load_rgb(paths[number], image_size)

    hint = f"unpack {PHOTOS_URL} into {folder / 'ims'}"
    return LabelledPhotos(cids, scenes, read, {ALL: truths}, paths=paths, source=SFM120K, labels=labels, hint=hint)


def photo_path(folder: Path, cid: str) -> Path:
    """Where a photo lies: three folders named by the last six characters of its cid, last pair first."""
    return folder / "ims" / cid[-2:] / cid[-4:-2] / cid[-6:-4] / cid


def _dataset(root: Path) -> Path:
    folder = root / FOLDER
    if not ((folder / LISTS).exists() and (folder / "ims").is_dir()):
        raise MissingError(
            f"{folder}: retrieval-SfM-120k is not here, or not whole: put {LISTS_URL} into it and, for HOW's "
            f"validation, {VALIDATION_URL}, and unpack {PHOTOS_URL} into its ims/, or name the folder that holds "
            f"train/ with --data-root"
        )
    return folder
