"""Matching on a GPU: the search of an index whose codes fit the GPU's memory, with the answers of ``Index.search``.

Needs CuPy, which is optional, and an NVIDIA GPU. An entry takes 18 bytes (D = 128), as on the disk.
"""

from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from runtime.asmk.codes import AsmkQuery, code_length
from runtime.asmk.gpu.device import ELSEWHERE, Device, load_cupy
from runtime.asmk.gpu.matcher import DeviceFile, Matcher, search_bytes, upload_bytes
from runtime.asmk.inverted_file import InvertedFile
from runtime.errors import DamagedError, DeviceError, IncompatibleError
from runtime.first_stage import ASMK
from runtime.index import Hit, Index, Part


class GpuScorer:
    """An index in a GPU's memory, at the commit that the index had loaded: ``refresh`` loads later ones.

    Hits are those of ``Index.search``, scores to the bit. Threads may search at the same time, but not while one of
    them refreshes. The GPU's memory is freed with the object.
    """

    def __init__(self, index: Index, device: Device | None = None) -> None:
        """Uploads the index, one segment at a time, each in pieces.

        Raises:
            HowlError: there is no NVIDIA GPU, CuPy is missing, or the index does not fit the free memory.
        """
        if index.layout.method != ASMK:
            raise IncompatibleError(f"{index.path}: holds {index.layout.method}, and a GPU matches ASMK's codes only")
        self._index = index
        self._device = device or Device(code_length(index.layout.dimensions), load_cupy())
        self._parts: list[Part] = []
        self._files: list[DeviceFile] = []
        self._matcher: Matcher | None = None
        self._upload(index.parts())

    def refresh(self) -> None:
        """Loads the last commit of the index, as ``Index.refresh`` does; only new segments are uploaded.

        Raises:
            HowlError: the index is damaged, or no longer fits; searches continue in the previous commit.
        """
        self._index.refresh()
        self._upload(self._index.parts())

    def search(self, query: AsmkQuery, top: int) -> list[Hit]:
        """The images most similar to a query, best first: ``Index.search``, with the same arguments."""
        return self.search_many([query], top)[0]

    def search_many(self, queries: Sequence[AsmkQuery], top: int) -> list[list[Hit]]:
        """``search`` for each of the queries, many of them in one launch."""
        if self._matcher is None:
            raise DeviceError(f"{self._index.path}: its last upload to the GPU failed; refresh it, or {ELSEWHERE}")
        ends = np.cumsum([len(part.live) for part in self._parts])
        return [
            [self._hit(ends, image, score) for score, image in hits.tolist()]
            for hits in self._matcher.search(queries, top)
        ]

    def _hit(self, ends: NDArray[np.int64], image: int, score: float) -> Hit:
        part = int(np.searchsorted(ends, image, side="right"))
        segment = self._parts[part].segment
        return Hit(segment.ids[image - int(ends[part]) + len(segment)], score)

    def _upload(self, parts: list[Part]) -> None:
        uploaded = {id(part.segment): file for part, file in zip(self._parts, self._files, strict=True)}
        known = {id(part.segment): uploaded.pop(id(part.segment), None) for part in parts}
        self._check_room(parts, known, sum(file.bytes for file in uploaded.values()))
        # Segments that are no longer in the index are freed before new ones take their room.
        self._matcher, self._parts, self._files = None, [], []
        uploaded.clear()
        files = [known[id(part.segment)] or self._upload_segment(part) for part in parts]
        self._matcher = Matcher(self._device, files, [part.live for part in parts])
        self._parts, self._files = parts, files

    def _upload_segment(self, part: Part) -> DeviceFile:
        try:
            return DeviceFile.upload(self._device, _inverted_file(part))
        except ValueError as error:
            raise DamagedError(
                f"{self._index.path}: damaged ({error}); restore it from a backup, or index again"
            ) from None

    def _check_room(self, parts: list[Part], known: dict[int, DeviceFile | None], dropped: int) -> None:
        """Raises HowlError if the new segments and one search do not fit into the memory that will be free."""
        images = sum(len(part.live) for part in parts)
        files = sum(upload_bytes(_inverted_file(part)) for part in parts if known[id(part.segment)] is None)
        needed, free = files + search_bytes(images), self._device.free_bytes() + dropped
        if needed > free:
            sizes = f"{needed / 1e9:.2f} GB of the GPU's memory, and {free / 1e9:.2f} GB are free"
            raise DeviceError(f"{self._index.path}: needs {sizes}: end what else uses the GPU, or {ELSEWHERE}")


def _inverted_file(part: Part) -> InvertedFile:
    return cast(InvertedFile, part.segment.store)
