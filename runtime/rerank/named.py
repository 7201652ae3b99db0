"""Re-rankers by their names."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, cast

from runtime.arguments import place
from runtime.encoder import Encoder
from runtime.errors import HowlError, UsageError
from runtime.first_stage import Layout
from runtime.io.decoding import MAX_PIXELS
from runtime.matching import Detector, EllipseDetector, EngineDetector, KeypointStore, Matcher
from runtime.matching.matcher import DEFAULT
from runtime.matching.store import OF_ACTIVATIONS, OF_ENGINE, OF_MATCHER, Kind
from runtime.rerank.chain import Chain
from runtime.rerank.dsm import Dsm
from runtime.rerank.hits import HitOrder
from runtime.rerank.interface import Reranker
from runtime.rerank.lightglue import LightGlue
from runtime.rerank.ransac import CALIBRATED, Ransac
from runtime.rerank.similarity import Similarity
from runtime.rerank.spatial import Spatial


@dataclass
class Rerankers:
    """Makes each re-ranker when it is first named.

    Attributes:
        engine: whose answers they are.
        matcher: of ``lightglue``.
        index: beside which keypoints may be kept; None if there is none.
        encoder: of the engine, which ``ransac`` and ``dsm`` use; None to open it when that is first named.
        device, threads: of matcher and engine: ``Matcher``.
        max_pixels: of a photo.
    """

    engine: Path
    matcher: Path
    index: Path | None = None
    encoder: Encoder | None = None
    device: str | None = None
    threads: int | None = None
    max_pixels: int = MAX_PIXELS
    _made: dict[str, Reranker] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def beside(
        cls, engine: Path, matcher: str | Path | None = None, index: Path | None = None, **settings: Any
    ) -> Self:
        """Those of an engine: its matcher, if no other is named, is ``matcher.onnx`` beside it.

        ``settings`` are the attributes after ``index``. Paths stay what they are, whatever the current folder is later.
        """
        file = engine.with_name(DEFAULT) if matcher is None else place("matcher", matcher)
        beside = None if index is None else index.absolute()
        return cls(engine.absolute(), file.absolute(), beside, **settings)

    def of(self, rerank: "str | Reranker | None") -> Reranker | None:
        """The re-ranker that is meant: by its name, or the object itself.

        Raises:
            UsageError: it is none.
            HowlError: what it needs is missing.
        """
        if rerank is None or (isinstance(rerank, Reranker) and not isinstance(rerank, str | type)):
            return rerank
        if not isinstance(rerank, str) or rerank not in RERANKERS:
            names = ", ".join(RERANKERS)
            raise UsageError(f"rerank={rerank!r}: there is {names}, or give a Reranker (runtime.rerank)")
        if rerank not in self._made:  # two threads may both make it, and one of the two equal ones stays
            self._made.setdefault(rerank, RERANKERS[rerank](self))
        return self._made[rerank]

    def usable(self, path: Path, layout: Layout) -> list[str]:
        """The names of the re-rankers that an index or an engine of this layout, and the files here, suffice for."""
        names = []
        for name in RERANKERS:
            with suppress(HowlError):
                HitOrder(self.of(name)).check(path, layout)
                names.append(name)
        return names

    def lightglue(self) -> LightGlue:
        """Learned matching, with the keypoints that are kept beside the index, if there are any."""
        matcher = Matcher(self.matcher, device=self.device, threads=self.threads, max_pixels=self.max_pixels)
        return LightGlue(matcher, self._kept(matcher, OF_MATCHER))

    def ransac(self) -> Ransac:
        """The engine's own features, with those that are kept beside the index, if there are any.

        Of a system whose features it was not measured with, it says of no answer whether it is verified.
        """
        encoder = self._encoder()
        detector = EngineDetector(encoder)
        least = Ransac.least if encoder.manifest.system == CALIBRATED else None
        return Ransac(detector, self._kept(detector, OF_ENGINE), least=least)

    def dsm(self) -> Dsm:
        """The ellipses in the engine's activation maps, with those that are kept beside the index, if there are any."""
        detector = EllipseDetector(self._encoder())
        return Dsm(detector, self._kept(detector, OF_ACTIVATIONS))

    def chain(self, first: str, second: str) -> Chain:
        """One after the other, by their names."""
        return Chain(*(cast(Reranker, self.of(name)) for name in (first, second)))

    def _kept(self, detector: Detector, kind: Kind) -> KeypointStore | None:
        """What is kept beside the index of what the detector finds; None if there is none."""
        return None if self.index is None else KeypointStore.beside(self.index, detector.fingerprint, kind)

    def _encoder(self) -> Encoder:
        if self.encoder is not None:
            return self.encoder
        return Encoder(self.engine, device=self.device, threads=self.threads, max_pixels=self.max_pixels)


RERANKERS: Mapping[str, Callable[[Rerankers], Reranker]] = {
    "spatial": lambda rerankers: Spatial(),
    "similarity": lambda rerankers: Similarity(),
    "spatial+similarity": lambda rerankers: rerankers.chain("spatial", "similarity"),
    "ransac": Rerankers.ransac,
    "similarity+ransac": lambda rerankers: rerankers.chain("similarity", "ransac"),
    "dsm": Rerankers.dsm,
    "lightglue": Rerankers.lightglue,
}
