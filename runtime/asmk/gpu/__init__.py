"""ASMK on a GPU, with the words and the hits of the CPU."""

from runtime.asmk.gpu.codebook import GpuCodebook
from runtime.asmk.gpu.kernel import GpuAsmkKernel
from runtime.asmk.gpu.scorer import GpuScorer

__all__ = ["GpuAsmkKernel", "GpuCodebook", "GpuScorer"]
