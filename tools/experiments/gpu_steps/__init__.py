"""The steps of ``gpu_report.py``: each measures one thing on a GPU and gives a ``Result``."""
