"""CUDA graphs of repeated image sizes: their work is recorded once, and from then on is launched as a whole."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from runtime.errors import HowlError

RECORDED_RUN = 2  # of a size: recording costs more than a run, and many sizes come only once

Work = Callable[[], None]  # queues copies and kernels, always the same, on the stream
Graph = Any  # of the recorder's own kind


class Recorder(Protocol):
    """A stream that can record what is queued on it: ``runtime.gpu.device.Device``, or PyTorch's."""

    def record(self, work: Work) -> Graph:
        """The graph of what ``work`` queues; none of it runs yet. Raises HowlError if it cannot be recorded."""
        ...

    def replay(self, graph: Graph) -> None:
        """Queues everything that was recorded."""
        ...

    def forget(self, graph: Graph) -> None:
        """Frees a graph that is not running."""
        ...

    def wait(self) -> None:
        """Returns when everything that is queued is done."""
        ...


@dataclass
class _Size:
    """The state of one image size.

    Attributes:
        runs: since the cache has known it.
        graph: None before it is recorded, and always if it cannot be.
        work: what was recorded; the graph is valid only while what it works with exists unchanged.
    """

    runs: int = 0
    graph: Graph | None = None
    work: Work | None = None


class GraphCache:
    """Runs work as graphs if it can."""

    def __init__(self, recorder: Recorder, sizes: int) -> None:
        """Keeps the `sizes` most recent image sizes; with 0, all work runs without graphs."""
        self._recorder = recorder
        self._limit = sizes
        self._sizes: OrderedDict[Hashable, _Size] = OrderedDict()

    def run(self, key: Hashable, work: Work, make_work: Callable[[], Work]) -> None:
        """Does the work for the image size `key`, and waits for its end.

        Args:
            key: of everything that the work depends on, except the buffers' content.
            work: does it without a graph.
            make_work: makes the same work with memory, and a TensorRT context, that nobody else uses.

        Raises:
            HowlError: the GPU fails. A graph that cannot be recorded is not an error: the size runs without one.
        """
        size = self._visit(key)
        if size.graph is not None:
            self._recorder.replay(size.graph)
        elif size.runs == RECORDED_RUN:
            self._run_and_record(size, work, make_work)
        else:
            work()
        self._recorder.wait()

    def clear(self) -> None:
        """Frees all graphs."""
        while self._sizes:
            self._forget_oldest()

    def _visit(self, key: Hashable) -> _Size:
        """The size, which is now the newest; drops the oldest if there are too many."""
        size = self._sizes.setdefault(key, _Size())
        self._sizes.move_to_end(key)
        if len(self._sizes) > self._limit:
            self._forget_oldest()
        size.runs += 1
        return size

    def _forget_oldest(self) -> None:
        _, size = self._sizes.popitem(last=False)
        if size.graph is not None:
            self._recorder.forget(size.graph)

    def _run_and_record(self, size: _Size, work: Work, make_work: Callable[[], Work]) -> None:
        try:
            own_work = make_work()
        except HowlError:  # no room for another context
            work()
            return
        own_work()  # the first run after a change of size does what cannot be recorded
        self._recorder.wait()
        with suppress(HowlError):
            size.graph = self._recorder.record(own_work)
            size.work = own_work
