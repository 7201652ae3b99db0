"""The ``asmk`` package's public names on top of this engine: its users change one import."""

from runtime.asmk_method import io_helpers
from runtime.asmk_method.kernel import AsmkCodebook, ASMKKernel
from runtime.asmk_method.method import ASMKMethod, IvfBuilder

__all__ = ["ASMKKernel", "ASMKMethod", "AsmkCodebook", "IvfBuilder", "io_helpers"]
