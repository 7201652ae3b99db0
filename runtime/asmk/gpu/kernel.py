"""ASMK on a GPU: queries are quantised there, and the index is searched there."""

from typing import Any

from runtime.asmk.codebook import Codebook
from runtime.asmk.gpu.codebook import GpuCodebook
from runtime.asmk.gpu.scorer import GpuScorer
from runtime.asmk.kernel import AsmkKernel, AsmkParameters
from runtime.gpu.device import Device


class GpuAsmkKernel(AsmkKernel):
    """``AsmkKernel`` with its words, and the indexes that it searches, in a GPU's memory."""

    def __init__(self, codebook: Codebook, parameters: AsmkParameters, device: Device) -> None:
        """Uploads the words. Raises HowlError if the GPU has no room for them, or cannot be used."""
        super().__init__(GpuCodebook(codebook.centroids, device), parameters)
        self._device = device

    def searcher(self, index: Any) -> GpuScorer:
        """What searches an index (``runtime.index.Index``): a copy on the GPU. Raises HowlError if it does not fit."""
        return GpuScorer(index, self._device)
