"""The small checkpoints of the tests of `export` serve the tests of the tools too."""

from ..export.conftest import checkpoint, network

__all__ = ["checkpoint", "network"]
