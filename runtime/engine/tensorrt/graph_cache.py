"""CUDA graphs of the image sizes that come again: their work is recorded once and from then on starts as a whole."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass

from runtime.engine.tensorrt.cuda import Cuda, Graph
from runtime.errors import HowlError

RECORDED_RUN = 2  # of a size: recording costs more than a run, and many sizes never come again

Work = Callable[[], None]  # queues copies and kernels, always the same, on the stream


@dataclass
class _Size:
    """What became of one image size.

    Attributes:
        runs: since it is known.
        graph: None before it is recorded, and for ever where it cannot be.
        work: what was recorded; a graph is valid only as long as the work's TensorRT context is, unchanged.
    """

    runs: int = 0
    graph: Graph | None = None
    work: Work | None = None


class GraphCache:
    """Runs work by graphs, where it can."""

    def __init__(self, cuda: Cuda, sizes: int) -> None:
        """Knows the `sizes` image sizes that came last; with 0, all work is queued as it comes."""
        self._cuda = cuda
        self._limit = sizes
        self._sizes: OrderedDict[Hashable, _Size] = OrderedDict()

    def run(self, key: Hashable, work: Work, make_work: Callable[[], Work]) -> None:
        """Does the work for the image size `key`, and waits for its end.

        Args:
            key: of all that the work depends on beside the buffers' content.
            work: how it is done without a graph.
            make_work: makes the same work with a TensorRT context that nobody else uses.

        Raises:
            HowlError: the GPU fails. That a graph cannot be had is none: the size goes on without.
        """
        size = self._visit(key)
        if size.graph is not None:
            self._cuda.launch(size.graph)
        elif size.runs == RECORDED_RUN:
            self._run_and_record(size, work, make_work)
        else:
            work()
        self._cuda.wait()

    def clear(self) -> None:
        """Frees all graphs."""
        while self._sizes:
            self._forget_oldest()

    def _visit(self, key: Hashable) -> _Size:
        """The size, which is now the newest, in place of the oldest where there are too many."""
        size = self._sizes.setdefault(key, _Size())
        self._sizes.move_to_end(key)
        if len(self._sizes) > self._limit:
            self._forget_oldest()
        size.runs += 1
        return size

    def _forget_oldest(self) -> None:
        _, size = self._sizes.popitem(last=False)
        if size.graph is not None:
            self._cuda.forget(size.graph)

    def _run_and_record(self, size: _Size, work: Work, make_work: Callable[[], Work]) -> None:
        try:
            own_work = make_work()
        except HowlError:  # no room for another context
            work()
            return
        own_work()  # TensorRT's first run after a change of size does what cannot be recorded
        self._cuda.wait()
        with suppress(HowlError):
            size.graph = self._cuda.record(own_work)
            size.work = own_work
