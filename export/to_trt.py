"""A checkpoint → a proven engine.onnx, and engine.plan if there is a GPU: ``python export/to_trt.py ckpt.pt``."""

if __name__ == "__main__":
    import howl

    howl.run_script("export.to_trt")  # before the imports: howl.py says why

from collections.abc import Sequence

import tyro

from export.exporter import export_checkpoint
from export.options import SCRIPT, ExportOptions
from runtime.io.cli import program

DESCRIPTION = (
    "Exports a checkpoint as one whole graph, engine.onnx, proves it equal to the PyTorch network, and builds "
    "engine.plan if TensorRT and a GPU are present, or engine.pt2 if it is named or only PyTorch can use the GPU."
)


def main(arguments: Sequence[str] | None = None) -> None:
    export_checkpoint(parse(arguments))


def parse(arguments: Sequence[str] | None) -> ExportOptions:
    return tyro.cli(ExportOptions, prog=program(SCRIPT), description=DESCRIPTION, args=arguments)
