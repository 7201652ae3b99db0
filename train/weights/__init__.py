"""Weights from files: read safely, ImageNet's, and each published layout."""
