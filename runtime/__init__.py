"""What is deployed: engines, first stages, re-ranking, the index, and the ``Retriever`` that puts them together.

Imports nothing of ``train`` or ``export``, and no PyTorch.
"""

from runtime.errors import (
    DamagedError,
    DataError,
    DependencyError,
    DeviceError,
    DuplicateIdError,
    HowlError,
    IdError,
    ImageError,
    IncompatibleError,
    MissingError,
    ParityError,
    ReplacedError,
    ServiceError,
    StorageError,
    UnknownIdError,
    UsageError,
    WriterBusyError,
)
from runtime.index import Hit, Hits, Index
from runtime.retriever import AddReport, Retriever

__all__ = [
    "AddReport",
    "DamagedError",
    "DataError",
    "DependencyError",
    "DeviceError",
    "DuplicateIdError",
    "Hit",
    "Hits",
    "HowlError",
    "IdError",
    "ImageError",
    "IncompatibleError",
    "Index",
    "MissingError",
    "ParityError",
    "ReplacedError",
    "Retriever",
    "ServiceError",
    "StorageError",
    "UnknownIdError",
    "UsageError",
    "WriterBusyError",
]
