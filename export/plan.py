"""Builds a TensorRT plan, what a GPU runs, from an exported ONNX graph."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.bundle import EngineFiles
from runtime.engine.schema import IMAGE
from runtime.engine.tensorrt.api import TENSORRT, Messages, TensorRT, load_tensorrt
from runtime.errors import DeviceError, IncompatibleError, MissingError, UsageError
from runtime.gpu import Gpu, find_gpus
from runtime.io.files import atomic_write

_Shape = tuple[int, int, int]  # of an image: height, width, 3


@dataclass(frozen=True)
class PlanInfo:
    """What was built, for the record beside the plan.

    Attributes:
        flavour: "tensorrt" or "tensorrt_rtx": only the same flavour runs the plan.
        version: the version of TensorRT that built it, e.g. "11.4.0.106".
        compute_capability: (major, minor) of the only kind of GPU that runs the plan; None of TensorRT-RTX, whose
            plans serve several kinds.
        size: of the plan file, in bytes.
        seconds: that building took.
        warnings: what TensorRT warned of, one line each.
    """

    flavour: str
    version: str
    compute_capability: tuple[int, int] | None
    size: int
    seconds: float
    warnings: tuple[str, ...]


def build_plan(onnx_path: Path, plan_path: Path, *, smallest: int, typical: tuple[int, int], largest: int) -> PlanInfo:
    """Builds `plan_path` from `onnx_path`; the graph itself carries the precision.

    The plan takes RGB uint8 images [height, width, 3] with both sides from `smallest` to `largest` pixels,
    and is fastest at `typical`, (height, width) in pixels. It appears whole or, on failure, not at all: then
    what was at `plan_path` before stays. TensorRT-RTX builds on any machine; TensorRT needs a GPU, on which it
    measures: the measurements are kept in `engine.timing`, and later builds are faster by them.

    Raises HowlError if the sizes are not in order, TensorRT or its GPU is missing, TensorRT refuses the
    graph, or the plan cannot be written.
    """
    _check_sizes(smallest, typical, largest)
    if not onnx_path.is_file():
        raise MissingError(f"{onnx_path}: no such file: export the checkpoint first")
    trt = load_tensorrt()
    gpu = _find_gpu(trt, plan_path)

    timings = (
        EngineFiles.of(plan_path).timing if trt.flavour == TENSORRT else None
    )  # TensorRT-RTX measures nothing here

    start = time.perf_counter()
    shapes = ((smallest, smallest, 3), (*typical, 3), (largest, largest, 3))
    with trt.listen() as messages:
        plan = _build(trt, onnx_path, timings, shapes, messages)
    with atomic_write(plan_path) as file:
        file.write(plan)
    seconds = time.perf_counter() - start
    return PlanInfo(
        flavour=trt.flavour,
        version=trt.version,
        compute_capability=gpu.compute_capability if gpu else None,
        size=plan.nbytes,
        seconds=seconds,
        warnings=tuple(dict.fromkeys(messages.warnings)),
    )


def _check_sizes(smallest: int, typical: tuple[int, int], largest: int) -> None:
    if not 0 < smallest <= min(typical) <= max(typical) <= largest:
        height, width = typical
        raise UsageError(
            f"image sizes from {smallest} to {largest} pixels, typically {height}×{width}, are not in order: "
            "the smallest comes first, the typical within, the largest last"
        )


def _find_gpu(trt: TensorRT, plan_path: Path) -> Gpu | None:
    """The GPU that the plan is for; None where TensorRT needs none to build it."""
    if trt.flavour != TENSORRT:
        return None
    gpus = find_gpus()
    if not gpus:
        raise DeviceError(
            f"{plan_path}: {trt} needs an NVIDIA GPU to build it, none was found: "
            "build it on the machine that will run it"
        )
    return gpus[0]


def _build(
    trt: TensorRT, onnx_path: Path, timings: Path | None, shapes: tuple[_Shape, _Shape, _Shape], messages: Messages
) -> Any:
    """The serialised plan for images of the smallest, typical and largest of `shapes`."""
    builder = trt.module.Builder(trt.logger)
    strongly_typed = trt.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    network = builder.create_network(1 << int(strongly_typed))
    parser = trt.module.OnnxParser(network, trt.logger)  # owns the weights: must live until the plan is built
    _parse(trt, parser, onnx_path)
    _check_input(network, onnx_path)

    profile = builder.create_optimization_profile()
    profile.set_shape(IMAGE, *shapes)
    config = builder.create_builder_config()
    config.clear_flag(trt.module.BuilderFlag.TF32)  # its 10 bits would not pass for float32 after whitening
    if config.add_optimization_profile(profile) < 0:
        raise IncompatibleError(f"{onnx_path}: does not take images of these sizes: {messages.reason()}")
    if timings:
        _load_timings(config, timings, messages)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise DeviceError(f"{onnx_path}: {trt} cannot build a plan of it: {messages.reason()}")
    if timings:
        _save_timings(config, timings)
    return plan


def _load_timings(config: Any, path: Path, messages: Messages) -> None:
    """Gives the builder what an earlier build measured, or an empty cache where that was another TensorRT or GPU."""
    stored = path.read_bytes() if path.is_file() else b""
    for content in (stored, b""):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            break
    messages.errors.clear()  # that the timings do not fit is no reason why a build fails


def _save_timings(config: Any, path: Path) -> None:
    cache = config.get_timing_cache()
    if cache is not None:
        with atomic_write(path) as file:
            file.write(cache.serialize())


def _parse(trt: TensorRT, parser: Any, onnx_path: Path) -> None:
    # No supports_model_v2 first: it names no more than parsing does, and spoils the network for parsing.
    if not parser.parse_from_file(str(onnx_path)):
        problems = [_describe_problem(parser.get_error(i)) for i in range(parser.num_errors)]
        raise IncompatibleError(f"{onnx_path}: {trt} cannot read it: {'; '.join(problems)}")


def _describe_problem(error: Any) -> str:
    """One line such as "Unique (node 12) UNSUPPORTED_NODE: ..."."""
    where = f"{error.node_operator()} (node {error.node()}) " if error.node_operator() else ""
    why = " ".join(error.desc().split())
    return f"{where}{error.code().name}: {why}"


def _check_input(network: Any, onnx_path: Path) -> None:
    # An empty file, and many a text file, passes for an ONNX graph that has no nodes.
    if IMAGE not in [network.get_input(i).name for i in range(network.num_inputs)]:
        raise IncompatibleError(f"{onnx_path}: has no input '{IMAGE}': it is not an engine that howl exported")
