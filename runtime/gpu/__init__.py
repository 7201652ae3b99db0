"""NVIDIA GPUs: which there are (``find_gpus``), and the one that howl computes on (``Device``)."""

from runtime.gpu.driver import Gpu, find_gpus

__all__ = ["Gpu", "find_gpus"]
