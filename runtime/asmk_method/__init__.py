"""The ``asmk`` package's public names on top of this engine: its users change one import."""

from runtime.asmk_method.method import AsmkCodebook, ASMKKernel, ASMKMethod, IvfBuilder

__all__ = ["ASMKKernel", "ASMKMethod", "AsmkCodebook", "IvfBuilder"]
