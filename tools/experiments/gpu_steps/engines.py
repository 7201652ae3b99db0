"""The engines: ONNX Runtime, TensorRT and PyTorch, the same graphs, each against the CPU or PyTorch's own answer."""

import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from export.exporter import export_checkpoint
from export.options import ExportOptions
from export.parity import TOLERANCES, local_difference
from export.plan import build_plan
from export.tracing import EXAMPLE
from runtime.engine.onnxruntime import CUDA, OnnxRuntimeEngine, import_onnxruntime
from runtime.engine.pytorch import PyTorchEngine
from runtime.engine.schema import IMAGE
from runtime.engine.tensorrt.api import load_tensorrt
from runtime.engine.tensorrt.engine import TensorRTEngine
from runtime.features import Features
from runtime.io.image import MIN_SIDE, Image
from tools.experiments.gpu_steps.measuring import RUNS, Result, channels_last, milliseconds, recorded
from tools.experiments.gpu_steps.preparation import GRAPHS, HEIGHT, PROGRAMS, WIDTH, Prepared
from train.models.extractor import extract


def export(prepared: Prepared, result: Result) -> None:
    """What a user types on a machine with a GPU and without TensorRT: the engine is proven on that GPU."""
    with result.attempt(command="howl export efficientnet_lite0.pt --precision fp16 --out fp16.plan") as row:
        start = time.perf_counter()
        out = prepared.folder / "fp16.plan"
        options = ExportOptions(prepared.checkpoint, out=out, precision="fp16", photos=prepared.photos)
        exported = export_checkpoint(options, result.note)
        row["seconds"] = round(time.perf_counter() - start, 1)
        row["wrote"] = ", ".join(path.name for path in (exported.engine, exported.plan, exported.program) if path)


def onnxruntime(prepared: Prepared, result: Result) -> None:
    """ONNX Runtime on CUDA: the CPU's answers, latency with and without a CUDA graph, and a cold start."""
    runtime, image = import_onnxruntime(), prepared.image()
    if CUDA not in runtime.get_available_providers():
        result.note(f"onnxruntime {runtime.__version__} has no CUDA; install onnxruntime-gpu")
        return
    for graph in GRAPHS:
        with result.attempt(**named(graph)) as row:
            path = prepared.graph(*graph)
            start = time.perf_counter()
            engine = OnnxRuntimeEngine(path, "cuda")
            engine.extract(image)
            row["load and first run, s"] = round(time.perf_counter() - start, 2)
            row["ms"] = milliseconds(lambda engine=engine: engine.extract(image))  # type: ignore[misc]
            on_cpu = OnnxRuntimeEngine(path, "cpu").extract(image)
            row["against the CPU"] = compared(engine.extract(image), on_cpu, image, graph[2])
        with result.attempt(**named(graph), engine="with a CUDA graph") as row:
            row["ms"] = milliseconds(with_cuda_graph(runtime, path, image))


def with_cuda_graph(runtime: Any, path: Path, image: np.ndarray) -> partial[None]:
    """A run of a session that records its kernels: input and outputs stay where they are on the GPU."""
    options = [(CUDA, {"enable_cuda_graph": "1"})]
    session = runtime.InferenceSession(str(path), providers=options, enable_fallback=0)
    binding = session.io_binding()
    value = runtime.OrtValue.ortvalue_from_numpy(image, "cuda", 0)
    binding.bind_ortvalue_input(IMAGE, value)
    kept = []
    for output in session.get_outputs():
        dtype = np.int32 if "int32" in output.type else np.float32
        kept.append(runtime.OrtValue.ortvalue_from_shape_and_type(output.shape, dtype, "cuda", 0))
        binding.bind_ortvalue_output(output.name, kept[-1])
    session.run_with_iobinding(binding)
    return partial(session.run_with_iobinding, binding)


def tensorrt(prepared: Prepared, result: Result) -> None:
    """TensorRT, or TensorRT-RTX: does this GPU run its plans, and how fast?"""
    trt, image = load_tensorrt(), prepared.image()
    result.note(str(trt))
    with TemporaryDirectory() as folder:
        for graph in GRAPHS:
            with result.attempt(**named(graph)) as row:
                plan = Path(folder) / "engine.plan"
                sizes = {"smallest": MIN_SIDE, "typical": (HEIGHT, WIDTH), "largest": WIDTH}
                built = build_plan(prepared.graph(*graph), plan, **sizes)  # type: ignore[arg-type]
                row["built, s"] = round(built.seconds, 1)
                if hasattr(trt.module.Runtime, "get_engine_validity"):
                    validity = trt.module.Runtime(trt.logger).get_engine_validity(plan.read_bytes())
                    row["validity"] = str(validity)
                with TensorRTEngine(plan) as engine:
                    row["ms"] = milliseconds(lambda engine=engine: engine.extract(image))  # type: ignore[misc]
                    on_cpu = OnnxRuntimeEngine(prepared.graph(*graph), "cpu").extract(image)
                    row["against the CPU"] = compared(engine.extract(image), on_cpu, image, graph[2])


@torch.no_grad()
def pytorch(prepared: Prepared, result: Result) -> None:
    """PyTorch by itself, and engine.pt2: eager, channels last, recorded; then one level compiled in two ways."""
    image = prepared.image()
    on_gpu = torch.from_numpy(image).cuda()
    with torch.backends.cudnn.flags(allow_tf32=False):
        for graph in PROGRAMS:
            extractor = prepared.extractor(*graph).cuda()
            with result.attempt(**named(graph), engine="eager") as row:
                row["ms"] = milliseconds(lambda extractor=extractor: extract(extractor, image))  # type: ignore[misc]
            with result.attempt(**named(graph), engine="eager, recorded") as row:
                row["ms"] = milliseconds(recorded(partial(extractor, on_gpu)))
            with result.attempt(**named(graph), engine="engine.pt2") as row:
                start = time.perf_counter()
                engine = PyTorchEngine(prepared.program(*graph), "cuda")
                engine.extract(image)
                row["load and first run, s"] = round(time.perf_counter() - start, 2)
                row["ms"] = milliseconds(lambda engine=engine: engine.extract(image))  # type: ignore[misc]
                reference = prepared.extractor(*graph[:2], "fp32").cuda()
                wanted = extract(reference, image)
                row["against fp32 in PyTorch"] = compared(engine.extract(image), wanted, image, graph[2])


@torch.no_grad()
def compilers(prepared: Prepared, result: Result) -> None:
    """One level, compiled by torch.compile for its size and by AOTInductor for any."""
    graph = ("resnet18", 1, "fp16")
    extractor = prepared.extractor(*graph)
    on_gpu = torch.from_numpy(prepared.image()).cuda()
    with TemporaryDirectory() as folder:
        channels_last(extractor.cuda())
        with result.attempt(**named(graph), engine="eager, channels last, recorded") as row:
            row["ms"] = milliseconds(recorded(partial(extractor, on_gpu)))
        with result.attempt(**named(graph), engine="torch.compile, recorded") as row:
            start = time.perf_counter()
            compiled = torch.compile(extractor, dynamic=False)
            compiled(on_gpu)
            row["made, s"] = round(time.perf_counter() - start, 1)
            row["ms"] = milliseconds(recorded(partial(compiled, on_gpu)))
        with result.attempt(**named(graph), engine="AOTInductor, any size, recorded") as row:
            start = time.perf_counter()
            any_size = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
            example = (torch.zeros(EXAMPLE, dtype=torch.uint8, device="cuda"),)
            traced = torch.export.export(
                extractor, example, dynamic_shapes=(any_size,), prefer_deferred_runtime_asserts_over_guards=True
            )
            package = torch._inductor.aoti_compile_and_package(traced, package_path=f"{folder}/aoti.pt2")
            row["made, s"] = round(time.perf_counter() - start, 1)
            row["ms"] = milliseconds(recorded(partial(torch._inductor.aoti_load_package(package), on_gpu)), RUNS)


def compared(got: Features, wanted: Features, image: Image, precision: str) -> str:
    """How far two answers are apart."""
    difference = local_difference(got.need_local(), wanted.need_local(), image, TOLERANCES[precision])
    verdict = "beyond the tolerance" if difference.exceeds(TOLERANCES[precision]) else "within the tolerance"
    return (
        f"{verdict}: matched {difference.matched:.1%}, median {difference.median:.1e}, largest {difference.largest:.1e}"
    )


def named(graph: tuple[str, int, str]) -> dict[str, Any]:
    """A graph's columns."""
    return {"network": graph[0], "levels": graph[1], "precision": graph[2]}
