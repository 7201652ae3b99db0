"""The photos behind the ids: which files may be shown, their previews, and where photos of callers are kept."""

import hashlib
import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

from runtime.errors import ImageError, StorageError, UnknownIdError, UsageError
from runtime.index import AnyIndex
from runtime.index.ids import id_of_path
from runtime.io.decoding import media_type, preview
from runtime.io.files import atomic_write, sync_folder
from runtime.io.image import read_photo
from runtime.retriever import Retriever
from runtime.service.refusals import RefusedError

KEPT = "added"  # folder below that of the photos
CACHE_BYTES = 64_000_000
MAX_ID = 1000  # characters
NAME_LETTERS = 24  # of a checksum: no two photos share them
SUFFIXES = {  # of what is kept, by what it is
    "image/avif": ".avif",
    "image/bmp": ".bmp",
    "image/gif": ".gif",
    "image/heic": ".heic",
    "image/jp2": ".jp2",
    "image/jpeg": ".jpg",
    "image/png": ".png",
    "image/tiff": ".tif",
    "image/webp": ".webp",
    "image/x-portable-anymap": ".pnm",
}


class Photos:
    """The files of photos that the index holds, as far as they may be shown.

    No path of a caller's reaches the file system: an id is looked up in the index first, its image must have been made
    of a file there, and the file must lie in the folder that is shown, whatever links lead to it.
    """

    def __init__(self, retriever: Retriever, folder: Path | None, *, keeps_added: bool) -> None:
        """Looks at nothing yet.

        Args:
            retriever: whose index it is, and from whose root ids are seen.
            folder: whose photos may be shown; None to show none.
            keeps_added: whether ``keep`` writes.

        Raises:
            IdError: it does, and the folder lies outside the retriever's root, so that its photos have no ids.
        """
        self._retriever = retriever
        self._folder = None if folder is None else Path(os.path.realpath(folder))
        self._kept = None if self._folder is None else self._folder / KEPT
        if keeps_added and self._kept is not None:
            self.id_of(self._kept)
        self._previews: OrderedDict[tuple[str, int, int, int], bytes] = OrderedDict()
        self._lock = Lock()

    @property
    def are_shown(self) -> bool:
        """Whether there is a folder whose photos may be shown."""
        return self._folder is not None

    def find(self, id_: str) -> Path:
        """The file of a photo.

        Raises:
            UnknownIdError: the id is not in the index.
            RefusedError: there is no file of it, or none that may be shown (404).
        """
        index = self._index_with(id_)
        nothing = RefusedError(404, "there is no picture of this photo here")
        if self._folder is None or index.origins([id_]).get(id_) is None:
            raise nothing
        try:
            file = Path(os.path.realpath(Path(self._retriever.root or "", id_)))
        except (OSError, ValueError):
            raise nothing from None
        if not file.is_relative_to(self._folder) or not file.is_file():
            raise nothing
        return file

    def original(self, id_: str) -> tuple[Path, str]:
        """The file of a photo and its media type. Raises HowlError as ``find``, and for a file that is no image."""
        file = self.find(id_)
        kind = media_type(read_photo(file))
        if kind is None:
            raise RefusedError(404, "there is no picture of this photo here")
        return file, kind

    def preview(self, id_: str, side: int) -> bytes:
        """A photo as a JPEG of at most ``side`` pixels. Raises HowlError as ``find``, or if it cannot be read."""
        file = self.find(id_)
        status = file.stat()
        key = str(file), side, status.st_size, status.st_mtime_ns
        with self._lock:
            if key in self._previews:
                self._previews.move_to_end(key)
                return self._previews[key]
        made = preview(read_photo(file), id_, side, max_pixels=self._retriever.encoder.max_pixels)
        with self._lock:
            self._previews[key] = made
            while sum(map(len, self._previews.values())) > CACHE_BYTES:
                self._previews.popitem(last=False)
        return made

    def keep(self, photo: bytes) -> tuple[Path, bool]:
        """Writes a caller's photo under a name of the server's own, and says whether it is new.

        Raises:
            ImageError: it is no image.
            StorageError: it cannot be written.
        """
        if self._kept is None:
            raise StorageError("no folder of photos was named, so none is kept")
        folder = self._kept
        file = folder / self.name_for(photo)
        if file.exists():
            return file, False
        with atomic_write(file) as writing:
            writing.write(photo)
        for place in (folder, folder.parent):
            sync_folder(place)
        return file, True

    def id_of(self, file: Path) -> str:
        """The id of a photo that is kept. Raises IdError if it lies outside the retriever's root."""
        return id_of_path(file, self._retriever.root)

    @staticmethod
    def name_for(photo: bytes) -> str:
        """A name that only this photo has. Raises ImageError if it is no image."""
        kind = kind_of(photo)
        return hashlib.sha256(photo).hexdigest()[:NAME_LETTERS] + SUFFIXES.get(kind, ".jpg")

    def forget(self, id_: str) -> Path | None:
        """The file that is to go with a photo: only one that a caller has sent is the server's own."""
        try:
            file = self.find(id_)
        except (RefusedError, UnknownIdError):
            return None
        return file if file.parent == self._kept else None

    def _index_with(self, id_: str) -> AnyIndex:
        index = self._retriever.index
        if index is None or not index.existing([id_]):
            raise UnknownIdError(f"{id_[:MAX_ID]}: not in the index")
        return index


def kind_of(photo: bytes) -> str:
    """The media type of a photo, by its first bytes. Raises ImageError if it is no image."""
    kind = media_type(photo)
    if kind is None:
        raise ImageError(f"image of {len(photo)} bytes: not an image of a format that howl reads")
    return kind


def check_images(photos: Sequence[bytes]) -> None:
    """Raises ImageError, which tells which, if one of the photos of a form is no image."""
    for number, photo in enumerate(photos, 1):
        try:
            kind_of(photo)
        except ImageError as error:
            which = f"photo {number} of {len(photos)}: " if len(photos) > 1 else ""
            raise ImageError(f"{which}{error}; nothing was added") from None


def check_new_id(id_: str) -> str:
    """An id that a caller chose, if it leads nowhere but below the root when it is taken for a path.

    Raises:
        UsageError: it does.
    """
    parts = id_.split("/")
    if not 0 < len(id_) <= MAX_ID or not id_.isprintable():
        raise UsageError(f"id: between 1 and {MAX_ID} printable characters")
    if "\\" in id_ or any(part in ("", ".", "..") for part in parts) or id_ != id_of_path(id_):
        raise UsageError("id: must be relative, without empty parts, '.', '..' and backslashes")
    return id_
