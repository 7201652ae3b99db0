"""What a server is to do and what it refuses, settled and checked before it starts."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from runtime.arguments import finite_number, whole_number_above_0
from runtime.engine.interface import PHOTO_BATCH
from runtime.errors import MissingError, UsageError
from runtime.io.files import read_file

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
MAX_BODY = 20_000_000  # bytes; the photos of phones have up to 15 MB
SERVER_PIXELS = 50_000_000  # of a photo that comes over the network: more than phones take
QUEUE = 32  # requests that wait: with MAX_BODY each, some 600 MB at worst
SECONDS, REFRESH_SECONDS = 30.0, 2.0
# While the engine has as many photos as it takes, one more is decoded, or searched with.
WORKERS = PHOTO_BATCH + 1
MIN_TOKEN, MAX_TOKEN = 16, 4096  # characters


@dataclass(frozen=True)
class ServiceOptions:
    """What a server is to do.

    Attributes:
        photos: the folder whose photos may be shown; None to show none.
        keeps_added: whether photos that callers add are kept in its folder ``added``, so that they can be shown.
        token: that writers name; None for none.
        is_private: whether readers name it, too.
        may_write: whether photos can be added and removed at all.
        hosts: the names by which the server may be called (HTTP's Host); None for any.
        max_body: bytes of a request.
        workers: requests that are worked on at a time.
        queue: requests that wait for them; more are told to come back later.
        timeout: seconds, for a request to arrive and then for it to be answered.
        refresh: seconds from one look for commits of other processes to the next.
    """

    photos: Path | None = None
    keeps_added: bool = False
    token: str | None = None
    is_private: bool = False
    may_write: bool = True
    hosts: frozenset[str] | None = None
    max_body: int = MAX_BODY
    workers: int = WORKERS
    queue: int = QUEUE
    timeout: float = SECONDS
    refresh: float = REFRESH_SECONDS

    def __post_init__(self) -> None:
        """Raises HowlError if a value is none that a server can work with, or two contradict each other."""
        for name in ("max_body", "workers", "queue"):
            whole_number_above_0(name, getattr(self, name))
        for name in ("timeout", "refresh"):
            if finite_number(name, getattr(self, name)) <= 0:
                raise UsageError(f"{name}={getattr(self, name)}: must be a number of seconds above 0")
        if self.photos is not None and not self.photos.is_dir():
            raise MissingError(f"{self.photos}: no such folder; --photos names the one whose photos may be shown")
        if self.keeps_added and self.photos is None:
            raise UsageError("--keep-added: name the folder with --photos")
        if self.is_private and self.token is None:
            raise UsageError("--private: readers need a token; name a file that holds one with --token-file")


def read_token(path: Path) -> str:
    """The token in a file: its only line.

    Raises:
        MissingError: the file cannot be read.
        UsageError: it holds no token that would do, or other users of the machine can read it.
    """
    try:
        text, mode = read_file(path).decode("ascii").strip(), os.stat(path).st_mode
    except UnicodeDecodeError:
        raise UsageError(f"{path}: a token is a line of ASCII") from None
    except OSError as error:
        raise MissingError(f"{path}: {error.strerror or error}") from None
    if not text.isprintable() or " " in text or not MIN_TOKEN <= len(text) <= MAX_TOKEN:
        raise UsageError(
            f"{path}: a token is one line of {MIN_TOKEN} characters or more, without blanks; openssl "
            "rand -hex 32 makes one"
        )
    if os.name == "posix" and mode & stat.S_IROTH:
        raise UsageError(f"{path}: every user of this machine can read it; chmod o-r {path}")
    return text


def access(host: str, allowed: frozenset[str], token: str | None) -> tuple[frozenset[str] | None, bool]:
    """By which names a server may be called, and whether photos can be added and removed.

    On loopback it is called by its own names, so that no page elsewhere reaches it by a name that it has led there (DNS
    rebinding), and everybody on the machine may write. Where others may reach it, only a token lets them write.

    Args:
        host: that it listens on.
        allowed: names besides, as of a proxy before it.
        token: that writers name; None for none.
    """
    is_local = host in LOOPBACK
    hosts = allowed | LOOPBACK if is_local or allowed else None
    return hosts, token is not None or (is_local and not allowed)
