"""The errors that mean "the user's input or machine is at fault", as a tree: a caller can tell them apart by class.

    HowlError
    ├── UsageError             the call, an option or a value is wrong
    ├── ImageError             a photo cannot be read
    ├── IdError
    │   ├── DuplicateIdError   an id is in the index already, or is named twice
    │   └── UnknownIdError     an id is not in the index
    ├── DataError              photos or labels do not suffice for what is asked of them
    ├── MissingError           there is no such file, folder, engine or index
    ├── DamagedError           a file is not what was written
    ├── StorageError           the disk refuses: it is full or read-only, or something is in the way
    ├── IncompatibleError      two files do not belong together, or one has a format that this howl does not read
    ├── ParityError            an engine does not give what its network gives
    ├── ReplacedError          the index on the disk is another one than was opened
    ├── WriterBusyError        another process is writing to the index
    ├── ServiceError           a server is not there, busy, or refuses the call
    ├── DeviceError            a GPU is missing, full or failed
    └── DependencyError        a package is not installed

``str(error)`` is one line: what is at fault and how to fix it. Commands print that line and exit with 2 for a
UsageError, with 1 otherwise; library users may catch any branch.
"""

MAX_LENGTH = 2000  # characters


class HowlError(Exception):
    """Something outside the program is wrong. Whatever names it quotes, it is one line, and not an endless one."""

    def __init__(self, line: str = "") -> None:
        line = "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in line)
        if len(line) > MAX_LENGTH:
            line = f"{line[: MAX_LENGTH // 2]} … {line[-MAX_LENGTH // 2 :]}"
        super().__init__(line)


class UsageError(HowlError):
    """A call, an option or a value is wrong, whatever the files are."""


class ImageError(HowlError):
    """A photo that cannot be read: missing, empty, truncated or not an image."""


class IdError(HowlError):
    """An id of an image cannot be used."""


class DuplicateIdError(IdError):
    """An id is in the index already, or is named twice."""


class UnknownIdError(IdError):
    """An id is not in the index."""


class DataError(HowlError):
    """Photos or labels do not suffice for what is asked of them: too few scenes, no matches, one photo in two roles."""


class MissingError(HowlError):
    """There is no such file, folder, engine or index."""


class DamagedError(HowlError):
    """A file is not what was written: restore it, or make it again."""


class StorageError(HowlError):
    """The disk refuses: it is full or read-only, there is no permission, or something else is in the way."""


class IncompatibleError(HowlError):
    """Two files do not belong together, or one has a format that this howl does not read."""


class ParityError(HowlError):
    """An engine does not give what the network gives that it was exported from."""


class ReplacedError(HowlError):
    """What lies at the path of an open index is not what was opened: it was replaced, moved or deleted since."""


class WriterBusyError(HowlError):
    """Another process is writing to the index."""


class ServiceError(HowlError):
    """A server of howl's is not there, does not answer in time, has too much to do, or refuses the call."""


class DeviceError(HowlError):
    """A GPU is missing, full or failed, or does not run what it was asked to."""


class DependencyError(HowlError):
    """A package that the call needs is not installed."""
