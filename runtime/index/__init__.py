"""The index on disk: immutable segments, and one catalogue that names the live ones and commits atomically."""

from runtime.index.directory import EXISTING, Hit, Index, IndexStats
from runtime.index.opening import Part

__all__ = ["EXISTING", "Hit", "Index", "IndexStats", "Part"]
