"""The parts of ``tools/experiments/ablate.py``: runs, stages, figures, tables and the plot."""
