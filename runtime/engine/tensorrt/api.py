"""Access to TensorRT: finds which of its two flavours is installed, and collects its messages."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any

from runtime.errors import DependencyError

TENSORRT = "tensorrt"
TENSORRT_RTX = "tensorrt_rtx"


@dataclass
class Messages:
    """What TensorRT said during one piece of work, one line per message, in order."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def hear(self, severity: str, message: str) -> None:
        """Keeps errors and warnings; drops the rest. `severity` is a name of TensorRT's ILogger.Severity."""
        line = " ".join(message.split())
        if severity in ("INTERNAL_ERROR", "ERROR"):
            self.errors.append(line)
        elif severity == "WARNING":
            self.warnings.append(line)

    def reason(self) -> str:
        """Why the work failed, in TensorRT's words: its first errors, which cause the later ones."""
        said = dict.fromkeys(self.errors or self.warnings)
        return "; ".join(list(said)[:3]) or "TensorRT gave no reason"


@dataclass(frozen=True)
class TensorRT:
    """An installed TensorRT.

    Attributes:
        flavour: the module's name, TENSORRT or TENSORRT_RTX.
        version: e.g. "11.4.0.106".
        module: the module itself; only what TensorRT 10, TensorRT 11 and TensorRT-RTX share is used.
        logger: the trt.ILogger to give to every Builder, Runtime and OnnxParser.
    """

    flavour: str
    version: str
    module: Any
    logger: Any

    def __str__(self) -> str:
        return product_name(self.flavour, self.version)

    @contextmanager
    def listen(self) -> Iterator[Messages]:
        """Collects what TensorRT says while the block runs (in all threads: TensorRT works in several)."""
        messages = Messages()
        self.logger.listeners[id(messages)] = messages
        try:
            yield messages
        finally:
            del self.logger.listeners[id(messages)]


def product_name(flavour: str, version: str) -> str:
    """For people, e.g. "TensorRT-RTX 1.7.1.116"."""
    return f"{'TensorRT-RTX' if flavour == TENSORRT_RTX else 'TensorRT'} {version}"


@cache
def load_tensorrt() -> TensorRT:
    """The installed TensorRT; if both flavours are installed, TensorRT itself.

    Cached, because TensorRT uses only the first logger that a process gives it.
    Raises DependencyError if neither flavour can be imported.
    """
    reasons = []
    for flavour in (TENSORRT, TENSORRT_RTX):
        try:
            module = import_module(flavour)
        except (ImportError, OSError) as error:  # OSError: installed, but its libraries do not load
            reasons.append(" ".join(str(error).split()))
        else:
            return TensorRT(flavour, module.__version__, module, _create_logger(module))
    raise DependencyError(
        f"TensorRT cannot be loaded ({'; '.join(reasons)}): pip install tensorrt, or tensorrt-rtx-cu13"
    )


def has_tensorrt() -> bool:
    """Whether either flavour can be imported."""
    try:
        load_tensorrt()
    except DependencyError:
        return False
    return True


def _create_logger(module: Any) -> Any:
    class Logger(module.ILogger):
        """Passes TensorRT's messages to every listener; silent if there is none."""

        def __init__(self) -> None:
            module.ILogger.__init__(self)  # by name: the bindings do not support super()
            self.listeners: dict[int, Messages] = {}  # by id(): two with the same messages compare equal

        def log(self, severity: Any, msg: str) -> None:
            for listener in tuple(self.listeners.values()):
                listener.hear(severity.name, msg)

    return Logger()
