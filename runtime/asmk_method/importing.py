"""Indexes of asmk's images, which have numbers instead of names, and the import of what asmk saved."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import cast

from runtime.asmk.codebook import Codebook
from runtime.asmk.inverted_file import InvertedFile
from runtime.asmk_method.pickles import AsmkIvf, load_asmk_codebook, load_asmk_ivf
from runtime.bundle import EngineFiles
from runtime.errors import IncompatibleError, StorageError, UsageError
from runtime.first_stage import ASMK, Layout
from runtime.index import Index

DISTRACTOR = "distractor "  # and its number: the id of a distractor
NUMBERS = 2**63  # that images can have: int64


@dataclass(frozen=True)
class AsmkImport:
    """The result of importing two of asmk's pickles.

    Attributes:
        images: how many are in the index, with their numbers as ids.
        distractors: how many are in the index as well, as ``distractor 0``…
        entries: of the index.
        words: of the codebook.
        index: the folder.
        codebook: the .npy file beside it.
    """

    images: int
    distractors: int
    entries: int
    words: int
    index: Path
    codebook: Path


def import_asmk(codebook_pickle: Path, ivf_pickle: Path, index: Path) -> AsmkImport:
    """Makes an index, and ``INDEX.codebook.npy`` beside it, from what asmk saved. A failure leaves nothing behind.

    Args:
        codebook_pickle: the ``cache_path`` of asmk's ``train_codebook``.
        ivf_pickle: the ``cache_path`` of asmk's ``build_ivf``.
        index: a new folder.

    Raises:
        HowlError: a pickle is not as asmk saves it, the two do not belong together, or an output exists already.
    """
    if index.exists():
        raise UsageError(f"{index}: is there already; name a new folder")
    codebook = load_asmk_codebook(codebook_pickle)
    codebook_npy = EngineFiles.of(index).codebook
    had_codebook = codebook_npy.exists()
    if had_codebook and fingerprint_of(Codebook.load(codebook_npy)) != fingerprint_of(codebook):
        raise UsageError(f"{codebook_npy}: another codebook is there already; give the index another name")
    ivf = load_asmk_ivf(ivf_pickle, codebook.dimensions)
    check_words(ivf, codebook, str(codebook_pickle))
    try:
        with new_index(index, codebook) as new:
            for numbers, images in ivf.blocks():
                new.add([id_of(number) for number in numbers.tolist()], images)
            entries = new.stats().entries
            codebook.save(codebook_npy)
    except BaseException:
        if not had_codebook:
            codebook_npy.unlink(missing_ok=True)
        raise
    return AsmkImport(ivf.images, ivf.distractors, entries, len(codebook), index, codebook_npy)


def check_words(ivf: AsmkIvf, codebook: Codebook, name: str) -> None:
    """Raises HowlError if an IVF was not built with a codebook of this many words."""
    if ivf.words != len(codebook):
        raise IncompatibleError(
            f"{ivf.path} has lists of {ivf.words} visual words, {name} has {len(codebook)}: they do not belong together"
        )


def fingerprint_of(codebook: Codebook) -> str:
    """The fingerprint of a codebook that has no engine, for its indexes: a checksum."""
    shape = "×".join(map(str, codebook.centroids.shape))
    return hashlib.sha256(f"asmk codebook {shape} ".encode() + codebook.centroids.tobytes()).hexdigest()


def id_of(number: int) -> str:
    """The id of image ``number``; of distractor j for ~j."""
    return str(number) if number >= 0 else f"{DISTRACTOR}{~number}"


def number_of(identifier: str) -> int:
    """The number in an id. Raises ValueError if it is not one that ``id_of`` gives."""
    number = ~int(identifier.removeprefix(DISTRACTOR)) if identifier.startswith(DISTRACTOR) else int(identifier)
    if id_of(number) != identifier or not -NUMBERS <= number < NUMBERS:
        raise ValueError(identifier)
    return number


def open_index(path: Path, codebook: Codebook) -> Index:
    """An index of asmk's images. Raises HowlError if it is not an index, or belongs to another codebook."""
    index = Index(path)
    if index.fingerprint != fingerprint_of(codebook):
        index.close()
        raise IncompatibleError(f"{path}: made with another codebook than this; load that one, or name a new folder")
    return index


@contextmanager
def new_index(path: Path, codebook: Codebook) -> Iterator[Index]:
    """An empty index that is moved to ``path`` at the end of the block; if the block fails, it is deleted.

    A file at ``path`` (asmk's pickle, whose images are now in the index) is kept as ``path.asmk``.
    """
    partial, aside = path.with_name(f".{path.name}.{os.getpid()}.partial"), path.with_name(f"{path.name}.asmk")
    if path.exists() and aside.exists():
        raise UsageError(f"{aside}: is in the way of an index at {path}; move it away")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        index = Index.create(partial, fingerprint=fingerprint_of(codebook), layout=Layout(ASMK, codebook.dimensions))
        try:
            yield index
        finally:
            index.close()
        if path.exists():
            path.rename(aside)
        partial.rename(path)
    except OSError as error:
        raise StorageError(f"{path}: cannot make an index here: {error.strerror or error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def inverted_files(index: Index) -> Iterator[tuple[list[str], InvertedFile]]:
    """The images of an index, in order, a segment at a time: their ids, and their inverted file."""
    for segment, live in index.parts():
        whole = cast(InvertedFile, segment.store)
        file = whole if live.all() else InvertedFile.merge([whole], [live])
        yield list(compress(segment.ids, live.tolist())), file
