"""A retriever that is elsewhere: ``Retriever``'s calls, answered by a server of howl's.

retriever = RemoteRetriever("http://127.0.0.1:8000")
hits = retriever.search("query.jpg", top=10)
"""

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from runtime import errors
from runtime.addition import AddReport
from runtime.arguments import finite_number, listed, one_of, place
from runtime.errors import DependencyError, DuplicateIdError, HowlError, ImageError, ServiceError, UsageError
from runtime.index import EXISTING, Hit, Hits
from runtime.index.ids import id_of_path, ids_of
from runtime.io.image import PhotoInput, describe, read_photo

try:
    import httpx2
except ModuleNotFoundError:
    raise DependencyError(
        "httpx2 is not installed, and a RemoteRetriever needs it: in howl's folder, pip install '.[serve]'"
    ) from None

SECONDS = 60.0  # that an answer may take
CALLERS = 8  # photos of search_many at a time
RETRIES = 5  # of a request that the server is too busy for
PAGE = 10_000  # ids of one request
FORM_PHOTOS, FORM_SHARE = 64, 0.9  # photos of a form, and the share of the largest body that they may fill


class RemoteRetriever:
    """Speaks to ``howl serve``. Hits equal those of a ``Retriever`` there, to the bit; errors are of the same classes.

    Any thread may use it. Searching and adding wait while the server says that it is busy.
    """

    def __init__(
        self, url: str, *, token: str | None = None, root: str | Path | None = None, timeout: float = SECONDS
    ) -> None:
        """Opens no connection yet.

        Args:
            url: of the server, such as ``http://127.0.0.1:8000``.
            token: that the server wants of writers, and of readers if it is private.
            root: a folder, from which the ids of photos that are added are seen: ``Retriever``.
            timeout: seconds that an answer may take.

        Raises:
            UsageError: the address or the timeout is none.
        """
        if not isinstance(url, str) or not url.startswith(("http://", "https://")):
            raise UsageError(f"{url!r}: the address of a server begins with http:// or https://")
        self.url = url.rstrip("/")
        self.root = None if root is None else Path(os.path.abspath(place("root", root)))
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        try:
            self._client = httpx2.Client(
                base_url=f"{self.url}/", headers=headers, timeout=finite_number("timeout", timeout)
            )
        except (httpx2.InvalidURL, ValueError) as error:
            raise UsageError(f"{url}: not the address of a server: {error}") from None

    def __enter__(self) -> "RemoteRetriever":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes its connections."""
        self._client.close()

    def __len__(self) -> int:
        return int(self._call("GET", "photos", params={"limit": 1})["photos"])

    def __contains__(self, id_: object) -> bool:
        """Whether a photo of this id, or at this path, is in the index."""
        if not isinstance(id_, str | os.PathLike):
            return False
        return self._knows(os.fspath(id_)) or self._knows(id_of_path(id_, self.root))

    def ids(self) -> list[str]:
        """The ids of all photos, in the order of their addition; what others remove meanwhile may hide some."""
        found: list[str] = []
        while True:
            page = self._call("GET", "photos", params={"offset": len(found), "limit": PAGE})["ids"]
            found += page
            if len(page) < PAGE:
                return found

    @property
    def stranger_score(self) -> float | None:
        """``Retriever.stranger_score`` of the server."""
        return self.info()["stranger_score"]

    def rerankers(self) -> list[str]:
        """The names that ``search(..., rerank=)`` takes there."""
        return list(self.info()["rerankers"])

    def info(self) -> dict[str, Any]:
        """What the server is and can do: ``GET /info``."""
        return self._call("GET", "info")

    def refresh(self) -> None:
        """Nothing: the server takes up what other processes commit by itself."""

    def search(
        self,
        photo: PhotoInput,
        top: int = 10,
        *,
        min_score: float | None = None,
        only: Iterable[str | os.PathLike[str]] | None = None,
        exclude: Iterable[str | os.PathLike[str]] = (),
        rerank: str | None = None,
        candidates: int | None = None,
    ) -> Hits:
        """``Retriever.search`` on the server; a re-ranker is named, not given.

        Raises:
            ServiceError: the server is not there, busy, or refuses the call.
            HowlError: as ``Retriever.search``.
        """
        fields: dict[str, Any] = {"top": top, "min_score": min_score, "rerank": rerank, "candidates": candidates}
        fields |= {"only": None if only is None else ids_of(only, "only"), "exclude": ids_of(exclude, "exclude")}
        if only is not None and not fields["only"]:
            return Hits()
        fields = {name: _text(value) for name, value in fields.items() if value not in (None, [])}
        files = [("photo", ("photo", encoded(photo), "application/octet-stream"))]
        answer = self._call("POST", "search", data=fields, files=files)
        return Hits((Hit(**hit) for hit in answer["hits"]), answer["missing"])

    def search_many(
        self, photos: Iterable[PhotoInput], top: int = 10, *, skipped: dict[int, str] | None = None, **how: Any
    ) -> list[Hits]:
        """``search`` for each of the photos, a few at a time.

        Args:
            photos: as ``search`` takes them.
            top: the maximum number of hits of each.
            skipped: takes the reason, by position, of every photo that cannot be read, which then has no hits; without
                it, the first such photo is an error.
            how: as in ``search``.
        """
        if skipped is not None and not isinstance(skipped, dict):
            raise UsageError(f"skipped: a dict is needed, not {type(skipped).__name__}")

        def ask(photo: PhotoInput) -> Hits | ImageError:
            try:
                return self.search(photo, top, **how)
            except ImageError as error:
                return error

        answers: list[Hits] = []
        with ThreadPoolExecutor(CALLERS) as pool:
            for found in pool.map(ask, listed(photos, "photos")):
                if not isinstance(found, ImageError):
                    answers.append(found)
                elif skipped is None:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise found
                else:
                    skipped[len(answers)] = str(found)
                    answers.append(Hits())
        return answers

    def add(
        self,
        photos: Iterable[PhotoInput],
        ids: Iterable[str | os.PathLike[str]] | None = None,
        *,
        existing: str = "error",
    ) -> AddReport:
        """``Retriever.add`` on the server, a commit for some photos at a time. Those reported are on its disk.

        Args:
            photos: paths, encoded bytes, or H×W×3 uint8 BGR arrays; they are sent.
            ids: one for each photo; None for paths that are their own ids, which the server takes if they are relative.
            existing: what becomes of ids that are in the index already: ``error``, ``skip`` or ``replace``.

        Raises:
            HowlError: as ``Retriever.add``; with ``existing="error"`` nothing is sent if one of the ids is there.
        """
        one_of("existing", existing, EXISTING)
        photos = listed(photos, "photos")
        names = self._ids(photos, ids)
        report = AddReport()
        if len(set(names)) < len(names):
            raise DuplicateIdError(f"{self.url}: an id is named twice")
        known = {name for name in names if self._knows(name)} if existing != "replace" else set()
        if known and existing == "error":
            raise DuplicateIdError(f"{self.url}: {next(name for name in names if name in known)} is there already")
        report.present.extend(name for name in names if name in known)
        new = [(photo, name) for photo, name in zip(photos, names, strict=True) if name not in known]
        for some in self._forms(new, report):
            files = [("photo", ("photo", data, "application/octet-stream")) for data, _ in some]
            fields = {"id": [name for _, name in some], "existing": existing}
            try:
                answer = self._call("POST", "photos", data=fields, files=files)
            except ImageError as error:
                report.skipped[some[0][1]] = str(error)
                continue
            report.added.extend(answer["added"])
            report.skipped.update(answer["skipped"])
            report.present.extend(answer["present"])
            report.aliases.update(answer["aliases"])
        return report

    def remove(self, ids: Iterable[str | os.PathLike[str]]) -> None:
        """Removes photos, by id, in one commit. Raises HowlError, and removes none, if one is not there."""
        self._call("POST", "photos/remove", json={"ids": list(dict.fromkeys(ids_of(ids)))})

    def _forms(self, new: Sequence[tuple[PhotoInput, str]], report: AddReport) -> Iterator[list[tuple[bytes, str]]]:
        """Encoded photos with their ids, as many at a time as a request may hold; the report takes the unreadable."""
        room = FORM_SHARE * self.info()["max_body"] if new else 0
        form: list[tuple[bytes, str]] = []
        for photo, name in new:
            try:
                data = encoded(photo)
            except ImageError as error:
                report.skipped[name] = str(error)
                continue
            if form and (len(form) == FORM_PHOTOS or sum(len(each) for each, _ in form) + len(data) > room):
                yield form
                form = []
            form.append((data, name))
        if form:
            yield form

    def _ids(self, photos: Sequence[PhotoInput], ids: Iterable[str | os.PathLike[str]] | None) -> list[str]:
        """The id of every photo: the ones given, or the paths."""
        if ids is None:
            nameless = [photo for photo in photos if not isinstance(photo, str | os.PathLike)]
            if nameless:
                raise UsageError(f"{describe(nameless[0])}: has no path to be its id; name it with ids=[...]")
            return [id_of_path(path, self.root) for path in ids_of(photos)]
        names = ids_of(ids)
        if len(names) != len(photos):
            raise UsageError(f"{len(names)} ids were given for {len(photos)} photos")
        return names

    def _knows(self, id_: str) -> bool:
        return bool(id_) and self._call("GET", "photos/known", params={"id": id_})["known"]

    def _call(self, method: str, path: str, **content: Any) -> Any:
        """The server's answer. While it is too busy, the call is made again, as often as RETRIES."""
        for attempt in range(RETRIES + 1):
            try:
                response = self._client.request(method, path, **content)
            except httpx2.TimeoutException:
                raise ServiceError(f"{self.url}: no answer in time; give it longer with timeout=") from None
            except httpx2.HTTPError as error:
                raise ServiceError(f"{self.url}: no server answers there: {error}") from None
            is_busy = response.status_code == 503 and attempt < RETRIES
            if not is_busy:
                break
            time.sleep(min(60.0, float(response.headers.get("retry-after", "1"))))
        if response.status_code != 200:
            raise error_of(self.url, response.status_code, response.content)
        try:
            return response.json()
        except ValueError:
            raise ServiceError(f"{self.url}: something else than howl serve answers there") from None


def error_of(url: str, status: int, body: bytes) -> HowlError:
    """The error that a server tells: of the class that it names, with its line."""
    try:
        told: Mapping[str, str] = json.loads(body)
        kind, line = getattr(errors, told["error"], ServiceError), told["detail"]
    except (ValueError, KeyError, TypeError):
        kind, line = ServiceError, f"status {status}"
    if not (isinstance(kind, type) and issubclass(kind, HowlError)):
        kind = ServiceError
    return kind(f"{url}: {line}")


def encoded(photo: PhotoInput) -> bytes:
    """A photo as it is sent: a file or bytes as they are, an array without loss. Raises ImageError."""
    if isinstance(photo, str | os.PathLike):
        return read_photo(Path(photo))
    if isinstance(photo, bytes | bytearray | memoryview):
        return bytes(photo)
    if isinstance(photo, np.ndarray) and photo.dtype == np.uint8 and photo.ndim == 3 and photo.shape[2] == 3:
        return bytes(cv2.imencode(".png", photo)[1])
    raise ImageError(f"{describe(photo)}: a photo is a path, encoded bytes, or an H×W×3 uint8 array")


def _text(value: Any) -> Any:
    """A value of a form's field: numbers to the last bit."""
    return (
        [_text(each) for each in value] if isinstance(value, list) else value if isinstance(value, str) else repr(value)
    )
