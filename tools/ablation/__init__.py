"""The parts of ``tools/ablate.py``: what is compared, its stages, several at a time, figures, tables and the plot."""
