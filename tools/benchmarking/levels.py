"""The network's time by level of the pyramid, from ONNX Runtime's profiler.

Every level of an exported graph has a copy of the network of its own, until Concat nodes join what the levels give:
descriptors, strengths and positions, or global descriptors. What only one level needs is that level's; the profiler
times every node.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.engine.onnxruntime import CPU, import_onnxruntime
from runtime.engine.schema import GLOBAL_OUTPUTS, IMAGE, LOCAL_OUTPUTS
from runtime.io.image import Image

JOINED = (*LOCAL_OUTPUTS[:-1], *GLOBAL_OUTPUTS)  # outputs that come of all levels; the last local one is a count
TIME_SUFFIX = "_kernel_time"  # of a node's name, in a profile


def profile_levels(engine: Path, levels: int, images: Iterable[Image], threads: int | None) -> NDArray | None:
    """Milliseconds of every level, and of the rest: casting, selecting, and what levels share.

    Nodes run one after the other on the CPU, so that their times add up.

    Args:
        engine: ``engine.onnx``.
        levels: how many the pyramid has.
        images: RGB uint8 [H, W, 3], of the engine's size; the first goes twice, to warm up.
        threads: that share the work of an image; None for one a core.

    Returns:
        float64 [images, levels + 1]; None if the package onnx is not installed or the graph is of another kind.
    """
    try:
        import onnx
    except ImportError:
        return None
    runtime = import_onnxruntime()
    with TemporaryDirectory(prefix="howl-profile-") as folder:
        optimised = Path(folder) / "optimised.onnx"
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads or 0
        options.optimized_model_filepath = str(optimised)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = runtime.InferenceSession(str(engine), options, providers=[CPU])
        level_of = levels_of_nodes(onnx.load(optimised).graph, levels)
        if level_of is None:
            return None
        for number, image in enumerate(images):
            for _ in range(2 if number == 0 else 1):
                session.run(None, {IMAGE: image})
        events = json.loads(Path(session.end_profiling()).read_text())
    return _by_level(events, level_of, levels)[1:]


def levels_of_nodes(graph: Any, levels: int) -> dict[str, int] | None:
    """The level of every node, by name, that only one level needs; None if the graph does not join that many.

    Args:
        graph: an onnx.GraphProto.
        levels: how many the pyramid has.
    """
    maker = {value: node for node in graph.node for value in node.output}
    joins = [_nearest_join(maker, output.name, levels) for output in graph.output if output.name in JOINED]
    if not joins or any(join is None for join in joins):
        return None
    needed = [{node.name for join in joins for node in _makers(maker, join.input[level])} for level in range(levels)]
    return {
        name: level
        for level, names in enumerate(needed)
        for name in names
        if not any(name in others for other, others in enumerate(needed) if other != level)
    }


def _nearest_join(maker: dict[str, Any], output: str, levels: int) -> Any:
    """The first Concat of as many values as there are levels, on the way back from an output; None without one."""
    concats = (node for node in _makers(maker, output) if node.op_type == "Concat")
    return next((node for node in concats if len(node.input) == levels), None)


def _makers(maker: dict[str, Any], value: str) -> Iterator[Any]:
    """The nodes that a value comes of, the nearest first."""
    values = [value]
    seen = {value}
    for value in values:  # the list grows meanwhile
        node = maker.get(value)
        if node is not None:
            yield node
            values += [new for new in dict.fromkeys(node.input) if new not in seen]
            seen.update(node.input)


def _by_level(events: Sequence[dict[str, Any]], level_of: dict[str, int], levels: int) -> NDArray:
    """Milliseconds, float64 [runs, levels + 1], from the events of a profile; the last is what no level has."""
    runs = [event for event in events if event["name"] == "model_run"]
    starts = np.array([run["ts"] for run in runs])
    taken = np.zeros((len(runs), levels + 1))
    taken[:, levels] = [run["dur"] for run in runs]
    for event in events:
        level = level_of.get(event["name"].removesuffix(TIME_SUFFIX))
        if event["cat"] == "Node" and level is not None:
            run = int(np.searchsorted(starts, event["ts"], side="right")) - 1
            taken[run, level] += event["dur"]
            taken[run, levels] -= event["dur"]
    return taken / 1e3
