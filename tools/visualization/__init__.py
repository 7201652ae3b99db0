"""The pictures of ``tools/visualize.py``, and the canvas that they are drawn on.

They need matplotlib; those of a checkpoint need PyTorch too.
"""
