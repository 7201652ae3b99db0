"""How good an engine is on labelled photos: rankings, distractors, and the report."""

from tools.evaluation.report import Evaluation, evaluate_engine

__all__ = ["Evaluation", "evaluate_engine"]
