"""Matching on a GPU, with the answers of ``Index.search``."""

from runtime.asmk.gpu.scorer import GpuScorer

__all__ = ["GpuScorer"]
