"""The pictures of ``tools/visualize.py``, a file each, and the canvas that they are drawn on.

They need matplotlib; those of a checkpoint need PyTorch too.
"""
