"""What every export shares: the name of its command, what it checks first, and how its files come to their place."""

import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

from runtime.asmk.codebook import Codebook
from runtime.bundle import EngineFiles, Manifest, file_checksum
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


@contextmanager
def draft_of(files: EngineFiles) -> Iterator[EngineFiles]:
    """Where the files of an engine are made and proven first: a failure leaves what was there before."""
    files.onnx.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=files.onnx.parent, prefix=".export-") as folder:
        yield EngineFiles.of(Path(folder) / files.onnx.name)


def publish(draft: EngineFiles, files: EngineFiles, manifest: Manifest, codebook: Codebook | None) -> Manifest:
    """Writes codebook and manifest beside the draft's graph, and moves all of them to their place.

    Returns:
        the manifest, with the checksums of the files.
    """
    written = [draft.onnx]
    if codebook is not None:
        codebook.save(draft.codebook)
        written.append(draft.codebook)
    manifest = replace(manifest, checksums={file.name: file_checksum(file) for file in written})
    manifest.save(draft.manifest)
    for file in (*written, draft.manifest):
        file.replace(files.onnx.parent / file.name)
    return manifest
