"""The index on disk: immutable segments, and one catalogue that names the live ones and commits atomically."""

from runtime.index.directory import Hit, Index, IndexStats, Part

__all__ = ["Hit", "Index", "IndexStats", "Part"]
