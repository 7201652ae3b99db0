"""The parts of ``tools/experiments/compare.py``: the systems, what they cost, the table and the plot."""
