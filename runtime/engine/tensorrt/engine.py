"""Runs a TensorRT plan of the exported graph on an NVIDIA GPU."""

import threading
import weakref
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.bundle import EngineFiles, Manifest
from runtime.engine.graph_cache import GraphCache, Work
from runtime.engine.schema import features_of
from runtime.engine.tensorrt.api import Messages, TensorRT, load_tensorrt, product_name
from runtime.engine.tensorrt.execution import Context, Plan, records_graphs
from runtime.errors import DeviceError, MissingError, UsageError
from runtime.features import Features
from runtime.gpu import Gpu, find_gpus
from runtime.gpu.device import Device
from runtime.io.files import read_file

GRAPHS = 8  # kept at a time: photos usually have no more shapes
_REBUILD = "build the plan again on this machine with howl export"


class TensorRTEngine:
    """An Engine that runs `engine.plan` on the first GPU that CUDA sees (CUDA_VISIBLE_DEVICES chooses it).

    Repeated image sizes run as CUDA graphs. Threads may share the engine: they take turns. Its memory is freed by
    `close`, at the end of a `with` block, or when the engine is garbage-collected.
    """

    provider: str

    def __init__(self, path: Path) -> None:
        """Loads the plan, and allocates all the memory that its largest image needs.

        Raises:
            HowlError: there is no GPU or too little memory on it; TensorRT or cuda-bindings is missing; or the plan
                was built by another TensorRT or for another kind of GPU.
        """
        gpu = _first_gpu(path)  # before TensorRT is touched: without a driver it can crash the process
        trt = load_tensorrt()
        _check_record(path, trt, gpu)
        engine = _load_plan(path, trt, gpu)
        device = Device(path)
        self._graphs = GraphCache(device, 0 if records_graphs(trt) else GRAPHS)
        self._free = weakref.finalize(self, _release, self._graphs, device)
        self._plan: Plan | None = Plan(path, trt, engine, device)
        self._context: Context | None = Context(self._plan)
        self._turn = threading.Lock()
        self._path = path
        self.provider = f"{trt} on {gpu.name}"

    def extract(self, image: NDArray[np.uint8]) -> Features:
        """The features of an RGB uint8 image [H, W, 3].

        Raises:
            HowlError: the image has another type, or a size that the plan was not built for; or the GPU fails.
            ValueError: the engine is closed.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise UsageError(f"{self._path}: takes uint8 images [H, W, 3], not {image.dtype} {list(image.shape)}")
        with self._turn:
            if self._plan is None or self._context is None:
                raise ValueError(f"{self._path}: the engine is closed")
            _check_size(self._plan, image.shape)
            self._plan.write_image(image)
            self._graphs.run(
                image.shape, partial(_run, self._context, image.shape), partial(_make_work, self._plan, image.shape)
            )
            return features_of({name: output.copy() for name, output in self._plan.outputs.items()})

    def close(self) -> None:
        """Frees the memory; the engine cannot be used afterwards. Closing twice is harmless."""
        with self._turn:
            self._context = self._plan = None
            self._free()

    def __enter__(self) -> "TensorRTEngine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _run(context: Context, shape: tuple[int, ...]) -> None:
    context.set_image_shape(shape)
    context.queue()


def _make_work(plan: Plan, shape: tuple[int, ...]) -> Work:
    """The work that a graph records, in a context of its own, which must not change while the graph is in use."""
    context = Context(plan)
    context.set_image_shape(shape)
    return context.queue


def _release(graphs: GraphCache, device: Device) -> None:
    graphs.clear()
    device.close()


def _first_gpu(path: Path) -> Gpu:
    gpus = find_gpus()
    if not gpus:
        raise DeviceError(f"{path}: needs an NVIDIA GPU, none was found: use {_onnx(path)}, which runs on a CPU too")
    return gpus[0]


def _onnx(path: Path) -> str:
    return path.with_suffix(".onnx").name


def _check_record(path: Path, trt: TensorRT, gpu: Gpu) -> None:
    """Raises HowlError if there is a manifest that says that the plan was built for something else."""
    manifest = EngineFiles.of(path).manifest
    record = Manifest.load(manifest).plan if manifest.exists() else None
    if record is None:
        return
    is_same_tensorrt = (record["flavour"], record["version"]) == (trt.flavour, trt.version)
    capability = record.get("compute_capability")
    if is_same_tensorrt and (capability is None or tuple(capability) == gpu.compute_capability):
        return
    builder = product_name(record["flavour"], record["version"])
    target = f" for compute capability {'.'.join(map(str, capability))}" if capability else ""
    raise DeviceError(
        f"{path}: was built by {builder}{target}, but here is {trt} on {gpu}: {_REBUILD}, or use {_onnx(path)}"
    )


def _load_plan(path: Path, trt: TensorRT, gpu: Gpu) -> Any:
    """The plan as a trt.ICudaEngine. Raises HowlError if this TensorRT or this GPU cannot run it."""
    try:
        plan = read_file(path)
    except OSError as error:
        raise MissingError(f"{path}: cannot be read: {error.strerror}") from error
    with trt.listen() as messages:
        runtime = trt.module.Runtime(trt.logger)
        if hasattr(runtime, "get_engine_validity"):  # TensorRT-RTX, whose plans serve several kinds of GPU
            _check_validity(path, trt, gpu, runtime.get_engine_validity(plan), messages)
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise _unfit(path, trt, gpu, messages.reason())
    return engine


def _check_validity(path: Path, trt: TensorRT, gpu: Gpu, answer: tuple[Any, int], messages: Messages) -> None:
    validity, diagnostics = answer
    if validity != trt.module.EngineValidity.INVALID:
        return
    known = trt.module.EngineInvalidityDiagnostics.__members__
    found = [name.lower().replace("_", " ") for name, bit in known.items() if diagnostics & int(bit)]
    raise _unfit(path, trt, gpu, ", ".join(found) or messages.reason())


def _unfit(path: Path, trt: TensorRT, gpu: Gpu, reason: str) -> DeviceError:
    return DeviceError(f"{path}: {trt} cannot run it on {gpu}: {reason.rstrip('.')}: {_REBUILD}, or use {_onnx(path)}")


def _check_size(plan: Plan, shape: tuple[int, ...]) -> None:
    """Raises HowlError if the plan was not built for images of this shape."""
    (least_height, least_width, _), (most_height, most_width, _) = plan.smallest, plan.largest
    height, width, _ = shape
    if not (least_height <= height <= most_height and least_width <= width <= most_width):
        raise UsageError(
            f"{plan.path}: takes images from {least_width}×{least_height} to {most_width}×{most_height} "
            f"pixels, not {width}×{height}: resize the image, use {_onnx(plan.path)}, "
            "or build the plan with another --image-size"
        )
