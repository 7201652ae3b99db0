"""What a caller is told when a request fails: the status of every error, one line, and nothing of the inside."""

import os
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

from runtime.errors import (
    DuplicateIdError,
    HowlError,
    IdError,
    ImageError,
    MissingError,
    ReplacedError,
    ServiceError,
    StorageError,
    UnknownIdError,
    UsageError,
    WriterBusyError,
)

STATUSES: Mapping[type[HowlError], int] = {  # docs/search.md has the same table; all others are the server's fault
    UsageError: 400,
    ImageError: 400,
    IdError: 400,
    UnknownIdError: 404,
    DuplicateIdError: 409,
    WriterBusyError: 503,
    ReplacedError: 503,
    ServiceError: 503,
    StorageError: 507,
}
INSIDE = 500
CLOSED = 499  # the caller is gone: for the log, as nginx has it
RETRY_SECONDS = 1
OUTCOME = "howl.outcome"  # in a request's scope: the line for the log


class RefusedError(ServiceError):
    """A request that the server does not take.

    Attributes:
        status: of HTTP.
        headers: of the answer.
    """

    def __init__(self, status: int, line: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(line)
        self.status = status
        self.headers = dict(headers or {})


class NoIndexError(MissingError):
    """A server without an index: it is the caller who can add photos."""


def status_of(error: HowlError) -> int:
    """HTTP's status for an error."""
    if isinstance(error, RefusedError):
        return error.status
    if isinstance(error, NoIndexError):
        return 404
    return next((STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES), INSIDE)


def answer_to(error: HowlError, index: str) -> JSONResponse:
    """What the caller is told: the kind of error and its line; where it is the server's own, only that.

    Args:
        error: that ended the request.
        index: the path of the index, which lines begin with and no caller needs to know.
    """
    status = status_of(error)
    kind = next(each for each in type(error).__mro__ if each.__module__ == HowlError.__module__)
    line = without_path(str(error), index)
    if status in (INSIDE, STATUSES[StorageError]):
        line = "the server cannot do this at the moment; its log says why"
    headers = dict(error.headers) if isinstance(error, RefusedError) else {}
    if status == 503:
        headers.setdefault("Retry-After", str(RETRY_SECONDS))
    return JSONResponse({"error": kind.__name__, "detail": line}, status, headers)


def without_path(line: str, index: str) -> str:
    """A line that does not say where the index lies, whether it names its path as given or from the root on."""
    for path in sorted({index, os.path.abspath(index)} if index else (), key=len, reverse=True):
        line = line.removeprefix(f"{path}: ")
        if os.sep in path:  # a bare name tells nothing, and may be any word
            line = line.replace(path, "the index")
    return line


def describe_invalid(errors: list[Any]) -> UsageError:
    """The first thing that is wrong with a request's parameters, as pydantic describes them."""
    first = errors[0]
    where = [str(part) for part in first.get("loc", ()) if part not in ("query", "body", "path")]
    return UsageError(f"{'.'.join(where) or 'request'}: {first.get('msg', 'invalid')}")
