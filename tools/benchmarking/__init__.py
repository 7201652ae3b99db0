"""The parts of ``tools/benchmark.py``: the system under test, what is measured of it, and the report."""
