"""What is measured: an engine with an index, asked whole queries one step at a time."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from runtime.cores import available_cores
from runtime.encoder import Encoder
from runtime.errors import ImageError, MissingError
from runtime.first_stage import Searcher
from runtime.index import AnyIndex, Hit, Index
from runtime.io.image import decode, shrink_to_rgb
from runtime.retriever import Retriever

STAGES = ("decode", "resize", "network", "encode", "score + top-k")


@dataclass(frozen=True)
class SystemUnderTest:
    """An engine with an index.

    Attributes:
        encoder: the engine, its manifest and its first stage.
        index: what is searched.
        searcher: what searches it: itself, or a GPU.
        index_name: the folder that the user named; None if the index was made of the photos, for this measurement.
        threads: that share the descriptors of a query when they are encoded.
    """

    encoder: Encoder
    index: AnyIndex
    searcher: Searcher
    index_name: str | None
    threads: int

    def ask(self, photo: Path, top: int) -> tuple[list[Hit], dict[str, float]]:
        """The steps of ``Retriever.search``, and the milliseconds on the clock of each of STAGES.

        Any number of threads may ask at a time. Raises ImageError if the photo cannot be read.
        """
        watch = Stopwatch()
        bgr = decode(photo)
        watch.lap("decode")
        image = shrink_to_rgb(bgr, self.encoder.manifest.image_size)
        watch.lap("resize")
        features = self.encoder.engine.extract(image)
        watch.lap("network")
        query = self.encoder.encode_query(features, threads=self.threads)
        watch.lap("encode")
        hits = self.searcher.search(query, top)
        watch.lap("score + top-k")
        return hits, watch.laps


class Stopwatch:
    """Milliseconds on the clock from lap to lap; the laps add up to all of it."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, name: str) -> None:
        """Ends a lap and starts the next."""
        now = time.perf_counter()
        self.laps[name] = 1e3 * (now - self._since)
        self._since = now


@contextmanager
def open_system(
    engine: Path, index: Path | None, photos: Sequence[Path], *, device: str | None, threads: int | None
) -> Iterator[SystemUnderTest]:
    """An engine with an index, closed at the end of the block.

    Args:
        engine: as ``Retriever`` takes it.
        index: its folder; None for an index of the photos themselves, which goes with the end of the block.
        photos: readable ones.
        device: ``cpu``, ``cuda``, or None for a GPU if there is one.
        threads: that share the work of a photo on the CPU; None for one a core.

    Raises:
        HowlError: a file is missing or damaged, two do not belong together, or the device cannot be used.
    """
    if index is not None and not Index.exists(index):
        raise MissingError(f"{index}: no index here; make it with howl index, or leave it out to search the photos")
    with (
        TemporaryDirectory(prefix="howl-benchmark-") as folder,
        Retriever(engine, folder if index is None else index, device=device, threads=threads) as retriever,
    ):
        if index is None:
            retriever.add(photos)
        if retriever.index is None:
            raise ImageError(f"{engine}: no index could be made of the photos")
        yield SystemUnderTest(
            encoder=retriever.encoder,
            index=retriever.index,
            searcher=retriever.encoder.first_stage.searcher(retriever.index),
            index_name=None if index is None else str(index),
            threads=threads or available_cores(),
        )
