"""What is deployed: engines, codebook, ASMK, the index, and the ``Retriever`` that puts them together.

Imports nothing of ``train`` or ``export``, and no PyTorch.
"""

from runtime.errors import HowlError, ImageError
from runtime.index import Hit, Index
from runtime.retriever import AddReport, Retriever

__all__ = ["AddReport", "Hit", "HowlError", "ImageError", "Index", "Retriever"]
