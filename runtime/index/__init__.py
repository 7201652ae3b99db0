"""The index on disk: immutable segments, and one catalogue that names the live ones and commits atomically."""

from runtime.index.directory import EXISTING, Index
from runtime.index.hits import Hit, Hits
from runtime.index.interface import AnyIndex
from runtime.index.opening import Part
from runtime.index.reading import IndexStats

__all__ = ["EXISTING", "AnyIndex", "Hit", "Hits", "Index", "IndexStats", "Part"]
