"""What a step gives, and how long work takes on a GPU."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch

M = TypeVar("M", bound=torch.nn.Module)

WARM_UP = 5  # runs that are not counted: the first ones load kernels and choose algorithms
RUNS = 30


@dataclass
class Result:
    """What a step found.

    Attributes:
        rows: of its table, by column.
        notes: sentences below it.
        keep: is called whenever there is more, so that nothing is lost if the process dies.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    keep: Callable[[], None] = lambda: None

    def add(self, **row: Any) -> None:
        """A row of the table."""
        self.rows.append(row)
        self.keep()

    def note(self, sentence: str) -> None:
        """A sentence below the table."""
        self.notes.append(sentence)
        self.keep()

    @contextmanager
    def attempt(self, **row: Any) -> Iterator[dict[str, Any]]:
        """A row of the table, to be filled in the block; if the block fails, the row says why, and the step goes on.

        A row to which the block adds nothing is left out: the block has added its own.
        """
        given = len(row)
        try:
            yield row
        except Exception as error:
            row["failed"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        if len(row) > given:
            self.add(**row)


def milliseconds(run: Callable[[], object], runs: int = RUNS) -> str:
    """How long a caller waits for ``run`` and all that it queued: median (least–most)."""
    for _ in range(WARM_UP):
        run()
    taken = []
    for _ in range(runs):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        taken.append(1e3 * (time.perf_counter() - start))
    return spread(taken)


def spread(values: Sequence[float]) -> str:
    """Median (least–most)."""
    return f"{np.median(values):.3g} ({min(values):.3g}–{max(values):.3g})"


def channels_last(module: M) -> M:
    """The module, its weights laid out as tensor cores want them."""
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


@torch.no_grad()
def recorded(work: Callable[[], object]) -> Callable[[], None]:
    """The work as a CUDA graph: running it again costs the host nearly nothing, so that the GPU's own time is left."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        kept = work()  # its outputs, which belong to the graph

    def replay() -> None:
        graph.replay()
        _ = kept

    return replay
