"""The parts of ``tools/experiments/benchmark_asmk.py``: workload, both sides, measurements and report."""
