"""What the steps work on: made photos, a network that learned whitening and words from them, and its graphs.

It needs no GPU, and may be made on another machine beforehand.
"""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from export.learning import learn, untrained
from export.tracing import export_onnx, export_program, fold
from runtime.cores import available_cores
from runtime.io.image import decode, shrink_to_rgb
from train.checkpoint import Checkpoint
from train.data.synthetic import write_scenes
from train.models.base import HOW_SCALES, PYRAMID, ExtractionConfig, Extractor

Name = tuple[str, int, str]  # of a graph: network, levels, precision

HEIGHT, WIDTH = 768, 1024
SCENES, VIEWS = 16, 4
FEATURES = 1000
NETWORKS = ("efficientnet_lite0", "resnet18")  # ours, and HOW's smaller one
PYRAMIDS = {7: HOW_SCALES, 3: PYRAMID[:3], 1: (1.0,)}
GRAPHS: tuple[Name, ...] = (
    ("efficientnet_lite0", 7, "fp32"),
    ("efficientnet_lite0", 7, "fp16"),
    ("efficientnet_lite0", 3, "fp16"),
    ("resnet18", 7, "fp16"),
)
PROGRAMS = (*GRAPHS, ("resnet18", 7, "fp32"), ("resnet18", 1, "fp16"))  # of PyTorch's, which can be compared in float32


@dataclass(frozen=True)
class Prepared:
    """The folder of what was prepared."""

    folder: Path

    @property
    def photos(self) -> Path:
        """A folder of made photos, 1024×768 or upright."""
        return self.folder / "photos"

    @property
    def checkpoint(self) -> Path:
        """EfficientNet-Lite0 with ImageNet weights, whitening and words."""
        return self.folder / "efficientnet_lite0.pt"

    def graph(self, network: str, levels: int, precision: str) -> Path:
        """An ONNX graph."""
        return self.folder / f"{network}-{levels}-{precision}.onnx"

    def program(self, network: str, levels: int, precision: str) -> Path:
        """The same for PyTorch."""
        return self.folder / f"{network}-{levels}-{precision}.pt2"

    def image(self) -> NDArray[np.uint8]:
        """A photo as an engine takes it: RGB uint8 [768, 1024, 3]."""
        paths = sorted(self.photos.rglob("*.jpg"))
        images = (shrink_to_rgb(decode(path), WIDTH) for path in paths)
        return next(image for image in images if image.shape[:2] == (HEIGHT, WIDTH))

    def network(self, name: str) -> Checkpoint:
        """The prepared network, or one with random weights, which take as long."""
        if name == "efficientnet_lite0":
            return Checkpoint.load(self.checkpoint)
        torch.manual_seed(0)
        return untrained(name, "random")

    def extractor(self, name: str, levels: int, precision: str) -> Extractor:
        """A network as it is exported, on the CPU."""
        extraction = ExtractionConfig(WIDTH, PYRAMIDS[levels], FEATURES)
        model = replace(self.network(name), extraction=extraction).build_model()
        return fold(model, precision).extractor(extraction).eval()


def prepare(folder: Path, say: Callable[[str], None] = print) -> Prepared:
    """Makes what is not there yet."""
    prepared = Prepared(folder)
    if not prepared.photos.exists():
        say(f"drawing {SCENES * VIEWS} photos ...")
        write_scenes(prepared.photos, scenes=SCENES, views=VIEWS, image_size=WIDTH, seed=0)
    if not prepared.checkpoint.exists():
        learn(untrained("efficientnet_lite0"), prepared.photos, say).save(prepared.checkpoint)
    missing = [name for name in GRAPHS if not prepared.graph(*name).exists()]
    missing_programs = [name for name in PROGRAMS if not prepared.program(*name).exists()]
    if missing or missing_programs:
        say(f"tracing {len(missing)} graphs and {len(missing_programs)} programs, some minutes on few cores ...")
        with ProcessPoolExecutor(available_cores(), get_context("spawn")) as pool:
            traced = [pool.submit(trace, prepared, name) for name in missing]
            traced += [pool.submit(trace_program, prepared, name) for name in missing_programs]
            for each in traced:
                each.result()
    return prepared


def trace(prepared: Prepared, name: Name) -> None:
    """Writes a graph."""
    torch.set_num_threads(1)  # the processes share the cores
    export_onnx(prepared.extractor(*name), prepared.graph(*name), {})


def trace_program(prepared: Prepared, name: Name) -> None:
    """Writes a program."""
    torch.set_num_threads(1)
    export_program(prepared.extractor(*name), prepared.program(*name))
