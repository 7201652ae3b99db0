"""Learned matching: the keypoints of photos, and which of two photos show the same points."""

from runtime.matching.geometry import Agreement, agreement
from runtime.matching.keypoints import Keypoints
from runtime.matching.matcher import Matcher, MatcherFiles
from runtime.matching.store import KeypointStore

__all__ = ["Agreement", "KeypointStore", "Keypoints", "Matcher", "MatcherFiles", "agreement"]
