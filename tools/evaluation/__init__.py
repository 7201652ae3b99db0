"""The parts of ``tools/evaluate.py``: labelled sets, distractors, searching, judging, and the report."""
