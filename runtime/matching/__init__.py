"""Matching: the keypoints of photos, learned or the engine's own, and which of two photos show the same points."""

from runtime.matching.ellipse_detector import EllipseDetector
from runtime.matching.ellipses import Ellipses, agreeing_ellipses, find_ellipses
from runtime.matching.engine_detector import EngineDetector
from runtime.matching.geometry import Agreement, affine_agreement, agreement
from runtime.matching.keypoints import Detector, Keypoints
from runtime.matching.matcher import Matcher, MatcherFiles
from runtime.matching.nearest import mutual_nearest
from runtime.matching.photos import PhotoKeypoints
from runtime.matching.store import KeypointStore

__all__ = [
    "Agreement",
    "Detector",
    "EllipseDetector",
    "Ellipses",
    "EngineDetector",
    "KeypointStore",
    "Keypoints",
    "Matcher",
    "MatcherFiles",
    "PhotoKeypoints",
    "affine_agreement",
    "agreeing_ellipses",
    "agreement",
    "find_ellipses",
    "mutual_nearest",
]
