"""The index on disk: immutable segments, and one catalogue that names the live ones and commits atomically."""

from runtime.index.directory import EXISTING, Index
from runtime.index.opening import Part
from runtime.index.reading import Hit, IndexStats

__all__ = ["EXISTING", "Hit", "Index", "IndexStats", "Part"]
