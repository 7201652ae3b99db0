"""The parts of ``tools/benchmark_asmk.py``: a made workload, both sides, what is measured, and the report."""
