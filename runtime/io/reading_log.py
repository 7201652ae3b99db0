"""What a process is decoding at the moment, in a file that outlives it.

A file that crashes a decoder takes the whole process with it, and would take the next one, too. The next one therefore
looks at what was being decoded when a process died, each in a process of its own, which may die: only those that kill
it are left out. A power cut or a kill leaves the same traces, and its photos pass.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows: no log, and no photo is suspected
    fcntl = None  # type: ignore[assignment]

SLOT = 8192  # bytes of one name
SLOTS = 64  # photos that are decoded at a time, at most
PATIENCE = 120.0  # seconds; the slowest photo that the limits allow takes a tenth of it
DECODE = """
import sys
sys.path[:] = sys.argv[2:]
from runtime.io.decoding import decode_photo
try:
    decode_photo(sys.stdin.buffer.read(), "photo", max_pixels=int(sys.argv[1]))
except BaseException:
    pass
"""


class ReadingLog:
    """The names of the photos that are being decoded. It is the process's own as long as it lives."""

    def __init__(self, base: Path) -> None:
        """Opens a new log, if there can be one.

        Args:
            base: how the paths of all logs of one kind begin.
        """
        self.path = base.with_name(f"{base.name}.{os.getpid()}.{id(self):x}")
        self._file: BinaryIO | None = None
        self._free: SimpleQueue[int] = SimpleQueue()
        self._kept = 0
        if fcntl is None:
            return
        with suppress(OSError):  # without a log all works, but a photo that kills is not known the next time
            self._file = self.path.open("xb", buffering=0)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for slot in range(SLOTS):
            self._free.put(slot)

    def __enter__(self) -> "ReadingLog":
        return self

    def __exit__(self, *_: object) -> None:
        """Deletes the log, unless names are to be kept."""
        if self._file is not None:
            self._file.close()
            if not self._kept:
                self.path.unlink(missing_ok=True)

    @contextmanager
    def reading(self, name: str) -> Iterator[None]:
        """A block that decodes a photo."""
        if self._file is None:
            yield
            return
        slot = self._free.get()
        self._write(slot, name)
        try:
            yield
        finally:
            self._write(slot, None)
            self._free.put(slot)

    def keep(self, name: str) -> None:
        """Keeps a name for the processes after this one."""
        if self._file is not None:
            self._write(SLOTS + self._kept, name)
            self._kept += 1

    def _write(self, slot: int, name: str | None) -> None:
        text = json.dumps(name).encode()
        if self._file is not None and len(text) <= SLOT:
            with suppress(OSError):  # the disk is full: the commit says so
                os.pwrite(self._file.fileno(), text.ljust(SLOT), slot * SLOT)


@contextmanager
def left_behind(base: Path) -> Iterator[set[str]]:
    """The names in the logs of processes that died; the logs are deleted at the end of the block, unless it fails."""
    names: set[str] = set()
    with ExitStack() as stack:
        logs = []
        for path in base.parent.glob(f"{base.name}.*") if fcntl is not None else ():
            with suppress(OSError, ValueError):
                file = stack.enter_context(path.open("rb"))
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its process lives
                logs.append(path)
                data = file.read()
                slots = (data[start : start + SLOT].strip(b"\0 ") for start in range(0, len(data), SLOT))
                names.update(name for name in (json.loads(slot) for slot in slots if slot) if isinstance(name, str))
        yield names
        for path in logs:
            path.unlink(missing_ok=True)


def kills_its_decoder(data: bytes, max_pixels: int) -> bool:
    """Whether decoding a photo ends the process that does it, or does not end at all."""
    command = [sys.executable, "-c", DECODE, str(max_pixels), *sys.path]
    try:
        return subprocess.run(command, input=data, capture_output=True, timeout=PATIENCE).returncode != 0
    except subprocess.TimeoutExpired:
        return True
