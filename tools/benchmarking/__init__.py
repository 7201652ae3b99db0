"""The parts of ``tools/benchmark.py``: whole queries stage by stage, the network by level, load, and the report."""
