"""What the tests of re-ranking by matching share: photos, of which two show the same, and an engine for all."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.bundle import EngineFiles, Manifest, file_checksum
from runtime.first_stage import VECTORS

from ...conftest import GRAPH, draw_photo, write_graph

# Beside the local features every filter's responses, on a finer grid, and the mean of these.
GLOBAL_OUTPUTS = "int32[1] count, float[16] global_descriptor, float[16, a, b] activations)"
GLOBAL_NODES = """
    signed = Conv <kernel_shape = [8, 8], strides = [4, 4]> (full, filters)
    responses = Relu (signed)
    mean = GlobalAveragePool (responses)
    length = Constant <value_ints = [16]> ()
    vector = Reshape (mean, length)
    global_descriptor = LpNormalization <axis = 0, p = 2> (vector)
    activations = Squeeze (responses, first)
}"""


@pytest.fixture
def shots(tmp_path: Path) -> list[str]:
    """Three photos of different things, and the third one again, a little noisy."""
    folder = tmp_path / "shots"
    folder.mkdir()
    images = [draw_photo(seed) for seed in range(3)]
    noise = np.random.default_rng(0).integers(-8, 9, images[2].shape)
    images.append(np.clip(images[2] + noise, 0, 255).astype(np.uint8))
    paths = [str(folder / f"shot{i}.png") for i in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        cv2.imwrite(path, image)
    return paths


@pytest.fixture
def both_engine(engine: Path, filters: NDArray[np.float32]) -> Path:
    """An engine that searches by a global descriptor and gives local features too, as DELG's does, and activations."""
    outputs = GRAPH.replace("int32[1] count)", GLOBAL_OUTPUTS)
    write_graph(engine, outputs.rstrip().removesuffix("}") + GLOBAL_NODES, filters)
    path = EngineFiles.of(engine).manifest
    checksums = {engine.name: file_checksum(engine)}
    manifest = replace(Manifest.load(path), method=VECTORS, asmk=None, activations=True, checksums=checksums)
    manifest.save(path)
    return engine
