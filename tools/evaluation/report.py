"""What ``tools/evaluate.py`` prints: figures, and the worst queries by name."""

from collections.abc import Mapping, Sequence
from typing import Any

from runtime.encoder import Encoder
from tools.evaluation.datasets import ALL
from tools.evaluation.metrics import QueryResult, means
from tools.evaluation.ranking import Summary

WORST_SHOWN = 5


def for_people(encoder: Encoder, summaries: Sequence[Summary], skipped: Mapping[str, str]) -> str:
    """The means of every set, its worst queries by name, and what was left out."""
    lines = [f"{encoder.path}, {encoder.engine.provider}, {encoder.first_stage}"]
    for summary in summaries:
        lines += _lines(summary)
    if skipped:
        lines.append(f"skipped {len(skipped)} unreadable photos:")
        lines += [f"  {reason}" for reason in skipped.values()]
    return "\n".join(lines)


def _lines(summary: Summary) -> list[str]:
    """The worst are those of the last setting, which is the hardest."""
    labels = f" ({summary.labelled.labels})" if summary.labelled.labels else ""
    lines = [f"{summary.labelled.data}{labels}: {summary.queries} queries, each against {summary.against} photos"]
    for setting, results in summary.results.items():
        figures = "  ".join(f"{name} {value:.4f}" for name, value in means(results).items())
        lines.append(f"  {figures}" if setting == ALL else f"  {setting:8}{figures}  ({len(results)} queries)")
    setting, results = list(summary.results.items())[-1]
    lines.append("  worst queries:" if setting == ALL else f"  worst queries, {setting}:")
    worst = sorted(results, key=lambda result: result.average_precision)[:WORST_SHOWN]
    return lines + [f"    {result.average_precision:.4f}  {result.query}" for result in worst]


def for_machines(
    encoder: Encoder, distractors: str | None, summaries: Sequence[Summary], skipped: Mapping[str, str]
) -> dict[str, Any]:
    """All of it as JSON takes it, with every query's average precision."""
    return {
        "engine": str(encoder.path),
        "provider": encoder.engine.provider,
        "search": str(encoder.first_stage),
        "distractors": distractors,
        "skipped": dict(skipped),
        "sets": [_as_dict(summary) for summary in summaries],
    }


def _as_dict(summary: Summary) -> dict[str, Any]:
    about = {"data": summary.labelled.data, "photos": summary.photos, "queries": summary.queries}
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
