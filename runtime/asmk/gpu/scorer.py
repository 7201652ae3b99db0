"""Matching on a GPU: the search of an index whose codes fit the GPU's memory, with the answers of ``Index.search``.

Needs an NVIDIA GPU and cuda-bindings. An entry takes 18 bytes (D = 128), as on the disk.
"""

import os
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from runtime.arguments import whole_number_above_0
from runtime.asmk.codes import AsmkQuery, code_length
from runtime.asmk.gpu.matcher import DeviceFile, Matcher, Scoring, search_bytes, upload_bytes
from runtime.asmk.inverted_file import InvertedFile
from runtime.errors import DamagedError, DeviceError, IncompatibleError
from runtime.first_stage import ASMK
from runtime.gpu.device import Device
from runtime.index import Hit, Hits, Index, Part


@dataclass(frozen=True)
class _Commit:
    """One commit of an index in the GPU's memory.

    Attributes:
        parts: of the index, with the images that were not removed.
        files: of each part.
        matcher: that searches them.
    """

    parts: Sequence[Part]
    files: Sequence[DeviceFile]
    matcher: Matcher


class GpuScorer:
    """An index in a GPU's memory. It follows the index: a search sees the commit that the index has loaded.

    Hits are those of ``Index.search``, scores to the bit. Any thread may search. The GPU's memory is freed with the
    object.
    """

    def __init__(self, index: Index, device: Device | None = None) -> None:
        """Uploads the index, one segment at a time, each in pieces.

        Args:
            index: that is searched.
            device: the GPU, if it is open already.

        Raises:
            HowlError: there is no NVIDIA GPU, cuda-bindings is missing, or the index does not fit the free memory.
        """
        if index.layout.method != ASMK:
            raise IncompatibleError(f"{index.path}: holds {index.layout.method}, and a GPU matches ASMK's codes only")
        self.index = index
        self._device = device or Device(f"{index.path}: matching")
        self._scoring = Scoring(self._device, code_length(index.layout.dimensions))
        self._lock = threading.Lock()
        self._commit: _Commit | None = None
        self._follow()

    def search(
        self,
        query: AsmkQuery,
        top: int,
        *,
        only: Iterable[str | os.PathLike[str]] | None = None,
        exclude: Iterable[str | os.PathLike[str]] = (),
    ) -> Hits:
        """The images most similar to a query, best first: ``Index.search``, with the same arguments and errors.

        Raises:
            DeviceError: the index has grown beyond the GPU's memory, or the GPU fails.
        """
        return self.search_many([query], top, only=only, exclude=exclude)[0]

    def search_many(
        self,
        queries: Sequence[AsmkQuery],
        top: int,
        *,
        only: Iterable[str | os.PathLike[str]] | None = None,
        exclude: Iterable[str | os.PathLike[str]] = (),
    ) -> list[Hits]:
        """``search`` for each of the queries, many of them in one launch."""
        top = whole_number_above_0("top", top)
        commit = self._follow()
        parts, competing = self.index.narrowed(commit.parts, only, exclude), None
        if not _are_same(parts, commit.parts):
            competing = commit.matcher.competing([part.live for part in parts])
        ends = np.cumsum([len(part.live) for part in commit.parts])
        return [
            Hits(_hit(commit.parts, ends, image, score) for score, image in hits.tolist())
            for hits in commit.matcher.search(queries, top, competing)
        ]

    def _follow(self) -> _Commit:
        """The commit that the index has loaded; what is not in the GPU's memory yet is uploaded."""
        with self._lock:
            parts = self.index.parts()
            if self._commit is None or not _are_same(parts, self._commit.parts):
                in_place = self._files_in_place(parts)  # after a failure the next search tries again
                files = [file or self._upload_segment(part) for part, file in zip(parts, in_place, strict=True)]
                matcher = Matcher(self._scoring, files, [part.live for part in parts])
                self._commit = _Commit(parts, files, matcher)
            return self._commit

    def _files_in_place(self, parts: Sequence[Part]) -> list[DeviceFile | None]:
        """Those of the parts that were uploaded before; None for the others, for which room is made.

        Raises DeviceError if there is too little.
        """
        before, self._commit = self._commit, None
        known: dict[int, DeviceFile] = {}
        if before is not None:
            known = {id(part.segment): file for part, file in zip(before.parts, before.files, strict=True)}
        files = [known.pop(id(part.segment), None) for part in parts]
        # What is still in ``known`` is freed at the end, before new segments take the room.
        self._check_room(parts, files, dropped=sum(file.bytes for file in known.values()))
        return files

    def _upload_segment(self, part: Part) -> DeviceFile:
        try:
            return DeviceFile.upload(self._device, _inverted_file(part))
        except ValueError as error:
            raise DamagedError(
                f"{self.index.path}: damaged ({error}); restore it from a backup, or index again"
            ) from None

    def _check_room(self, parts: Sequence[Part], files: Sequence[DeviceFile | None], dropped: int) -> None:
        """Raises DeviceError if the new segments and one search do not fit into the memory that will be free."""
        images = sum(len(part.live) for part in parts)
        missing = [part for part, file in zip(parts, files, strict=True) if file is None]
        uploads = sum(upload_bytes(_inverted_file(part)) for part in missing)
        needed, free = uploads + search_bytes(images), self._device.free_bytes() + dropped
        if needed > free:
            sizes = f"{needed / 1e9:.2f} GB of the GPU's memory, and {free / 1e9:.2f} GB are free"
            raise DeviceError(f"{self.index.path}: needs {sizes}: end what else uses the GPU, or search on the CPU")


def _are_same(some: Sequence[Part], others: Sequence[Part]) -> bool:
    """Whether two commits of an index are the same one. Parts are never changed, only replaced."""
    return len(some) == len(others) and all(a is b for a, b in zip(some, others, strict=True))


def _hit(parts: Sequence[Part], ends: NDArray[np.int64], image: int, score: float) -> Hit:
    number = int(np.searchsorted(ends, image, side="right"))
    segment = parts[number].segment
    return Hit(segment.ids[image - int(ends[number]) + len(segment)], score)


def _inverted_file(part: Part) -> InvertedFile:
    return cast(InvertedFile, part.segment.store)
