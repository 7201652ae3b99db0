"""A checkpoint → a proven engine.onnx, and engine.plan if there is a GPU: ``python export/to_trt.py ckpt.pt``.

A third party's network becomes an engine, too: ``python export/to_trt.py their.onnx --global``, or ``--local``.
"""

if __name__ == "__main__":
    import howl

    howl.run_script("export.to_trt")  # before the imports: howl.py says why

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import tyro

from export.files import SCRIPT
from export.foreign.options import GLOBAL, LOCAL, ForeignOptions
from runtime.errors import UsageError
from runtime.io.cli import program

if TYPE_CHECKING:
    from export.options import ExportOptions

DESCRIPTION = (
    "Exports a checkpoint as one whole graph, engine.onnx, proves it equal to the PyTorch network, and builds "
    "engine.plan if TensorRT and a GPU are present, or engine.pt2 if it is named or only PyTorch can use the GPU. "
    f"A third party's network becomes an engine with {GLOBAL} or {LOCAL}: NETWORK.onnx {GLOBAL} --help says how."
)
FOREIGN_DESCRIPTION = (
    "Makes an engine of a third party's network: one ONNX file that takes one RGB image and gives a global descriptor, "
    "or local descriptors with positions. The engine takes photos as all engines do, and is proven equal to the file."
)


def main(arguments: Sequence[str] | None = None) -> None:
    words = sys.argv[1:] if arguments is None else arguments
    if GLOBAL in words or LOCAL in words:
        from export.foreign.exporter import export_foreign  # needs no PyTorch

        export_foreign(parse_foreign(words))
    else:
        options = parse(words)
        if options.checkpoint.suffix == ".onnx":
            raise UsageError(
                f"{options.checkpoint}: a third party's network? say what it gives, {GLOBAL} or {LOCAL}; a checkpoint "
                "is a .pt file"
            )
        from export.exporter import export_checkpoint

        export_checkpoint(options)


def parse(arguments: Sequence[str] | None) -> "ExportOptions":
    """The options of a checkpoint's export."""
    from export.options import ExportOptions  # late: PyTorch, which a third party's network does without

    return tyro.cli(ExportOptions, prog=program(SCRIPT), description=DESCRIPTION, args=arguments)


def parse_foreign(arguments: Sequence[str]) -> ForeignOptions:
    """The options of a third party's network."""
    return tyro.cli(ForeignOptions, prog=program(SCRIPT), description=FOREIGN_DESCRIPTION, args=arguments)
