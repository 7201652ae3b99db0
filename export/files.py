"""What every export shares: the name of its command, and what it checks before it writes an engine's files."""

from contextlib import closing
from pathlib import Path

from runtime.bundle import EngineFiles
from runtime.errors import HowlError, UsageError
from runtime.index import Index
from runtime.index.ids import is_unicode

SCRIPT = "export/to_trt.py"  # the command


def check_unicode_name(path: Path) -> None:
    """Raises UsageError if ONNX Runtime could not open a file of this name."""
    if not is_unicode(str(path)):
        raise UsageError(f"{path}: the name is not valid Unicode; name another --out")


def orphaned_index(files: EngineFiles, fingerprint: str) -> str | None:
    """A line if the index beside the engine is not one of the engine that is about to be written, else None.

    Args:
        files: where the engine goes.
        fingerprint: of the engine that is to be written.
    """
    if not Index.exists(files.index):
        return None
    try:
        with closing(Index(files.index)) as index:
            if index.fingerprint == fingerprint:
                return None
    except HowlError as error:  # it is no worse for this export
        return str(error)
    return (
        f"{files.index}: its photos are indexed with the engine that is replaced here, and the new one will refuse it: "
        f"index them again, or export to another --out; exporting the earlier checkpoint again leads back"
    )
