"""Labelled photos, and their sources: synthetic scenes, a folder of folders, SfM-120k, revisited Oxford and Paris."""

from train.data.labelled import LabelledPhotos, Truth
from train.data.sources import open_data, open_set

__all__ = ["LabelledPhotos", "Truth", "open_data", "open_set"]
