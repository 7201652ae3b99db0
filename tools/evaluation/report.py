"""The figures of an engine on labelled photos: ``evaluate_engine`` measures them, ``Evaluation`` reports them."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.encoder import Encoder
from runtime.errors import UsageError
from runtime.first_stage import FirstStage
from runtime.index import Index
from runtime.io.image import describe_unreadable
from runtime.rerank import HitOrder, Rerankers
from tools.evaluation.distractors import open_distractors
from tools.evaluation.ranking import QueryResult, Summary, evaluate_set, means
from train.data.labelled import ALL
from train.data.sources import open_set

WORST_SHOWN = 5


@dataclass(frozen=True)
class Evaluation:
    """What an engine reached.

    Attributes:
        engine: path of the engine.
        provider: what ran it.
        first_stage: what searched with its features.
        rerank: by what the first answers were put into another order, and how many; None if they were not.
        distractors: as they were named.
        skipped: the reason, by path, of photos that could not be read and were left out.
        sets: what each set of labelled photos gave, in the order in which they were named.
    """

    engine: str
    provider: str
    first_stage: FirstStage
    rerank: tuple[str, int] | None
    distractors: str | None
    skipped: Mapping[str, str]
    sets: Sequence[Summary]

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON takes it, with every query's average precision."""
        return {
            "engine": self.engine,
            "provider": self.provider,
            "search": self.first_stage.settings,
            "rerank": None if self.rerank is None else dict(zip(("by", "candidates"), self.rerank, strict=True)),
            "distractors": self.distractors,
            "skipped": dict(self.skipped),
            "sets": [_as_dict(summary) for summary in self.sets],
        }

    def as_text(self) -> str:
        """The means of every set, its worst queries by name, and what was left out."""
        order = "" if self.rerank is None else f", the first {self.rerank[1]} re-ranked: {self.rerank[0]}"
        lines = [f"{self.engine}, {self.provider}, {self.first_stage}{order}"]
        for summary in self.sets:
            lines += _lines(summary)
        if self.skipped:
            lines.append(describe_unreadable(self.skipped))
        return "\n".join(lines)


def evaluate_engine(
    engine: Path,
    data: Sequence[str],
    *,
    distractors: str | None = None,
    index: Path | None = None,
    data_root: Path = Path("data"),
    device: str | None = None,
    threads: int | None = None,
    threshold: float | None = None,
    alpha: float | None = None,
    rerank: str | None = None,
    candidates: int | None = None,
    matcher: str | Path | None = None,
) -> Evaluation:
    """Searches labelled photos, and distractors if there are any, for every query, and evaluates the rankings.

    Args:
        engine: as ``Retriever`` takes it.
        data: ``roxford5k``, ``rparis6k``, ``sfm120k``, or folders with one folder a scene.
        distractors: a folder of photos of none of the scenes, or ``r1m`` for the published million, which stay in an
            index beside the engine.
        index: holds the photos, so that only queries are encoded; its other photos are distractors. None to encode all.
        data_root: folder that holds published data sets.
        device: ``cpu``, ``cuda``, or None for a GPU where there is one.
        threads: CPU threads that share the work of a photo; None for one per core.
        threshold: τ of the search; None for the engine's.
        alpha: α of the search; None for the engine's.
        rerank: a name in ``runtime.rerank.RERANKERS``, to put the first answers into a better order.
        candidates: answers that it looks at, the query's own photo among them; None for its own number.
        matcher: of ``lightglue``; None for ``matcher.onnx`` beside the engine.

    Raises:
        HowlError: engine, data or distractors are missing, damaged or not as they were published, or no query has a
            right answer.
    """
    if index is not None and distractors is not None:
        raise UsageError(f"{index}: its photos without a label are the distractors; leave {distractors} out")
    encoder = Encoder(engine, device=device, threads=threads, threshold=threshold, alpha=alpha)
    rerankers = Rerankers.beside(engine, matcher, index, encoder=encoder, device=device, threads=threads)
    order = HitOrder(rerankers.of(rerank), candidates)
    sets = [open_set(name, image_size=encoder.manifest.image_size, root=data_root) for name in data]
    paths = {path for labelled in sets for path in labelled.paths}
    skipped: dict[str, str] = {}
    with open_distractors(distractors, engine, device, data_root, paths, skipped) as indexes, ExitStack() as stack:
        held = None
        if index is not None:
            opened = Index.of_engine(index, engine, encoder.manifest.fingerprint, encoder.first_stage.layout)
            held = stack.enter_context(closing(opened))
        order.check(encoder.path, encoder.first_stage.layout)
        if held is not None:
            order.check(held.path, held.layout)
        summaries = [evaluate_set(encoder, labelled, indexes, index=held, order=order) for labelled in sets]
    for labelled in sets:
        unreadable = zip(labelled.paths, labelled.names, strict=True)
        skipped |= {str(path): labelled.unreadable[name] for path, name in unreadable if name in labelled.unreadable}
    by = None if rerank is None else (rerank, order.count)
    return Evaluation(str(engine), encoder.engine.provider, encoder.first_stage, by, distractors, skipped, summaries)


def _as_dict(summary: Summary) -> dict[str, Any]:
    about = {"data": summary.labelled.source, "photos": summary.photos, "queries": summary.queries}
    if summary.labelled.labels:
        about["labels"] = str(summary.labelled.labels)
    figures = {setting: _figures(results) for setting, results in summary.results.items()}
    return {**about, **figures.pop(ALL)} if ALL in figures else {**about, "settings": figures}


def _figures(results: Sequence[QueryResult]) -> dict[str, Any]:
    return {
        "queries": len(results),
        **means(results),
        "average_precisions": {result.query: result.average_precision for result in results},
    }


def _lines(summary: Summary) -> list[str]:
    """The worst are those of the last setting, which is the hardest."""
    labels = f" ({summary.labelled.labels})" if summary.labelled.labels else ""
    lines = [f"{summary.labelled.source}{labels}: {summary.queries} queries, each against {summary.against} photos"]
    for setting, results in summary.results.items():
        figures = "  ".join(f"{name} {value:.4f}" for name, value in means(results).items())
        lines.append(f"  {figures}" if setting == ALL else f"  {setting:8}{figures}  ({len(results)} queries)")
    setting, results = list(summary.results.items())[-1]
    lines.append("  worst queries:" if setting == ALL else f"  worst queries, {setting}:")
    worst = sorted(results, key=lambda result: result.average_precision)[:WORST_SHOWN]
    return lines + [f"    {result.average_precision:.4f}  {result.query}" for result in worst]
