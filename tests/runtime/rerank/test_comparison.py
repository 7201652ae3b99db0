"""Two photos compared: what agrees is what spatial verification finds, in pixels of the photos."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from runtime import IncompatibleError, Retriever
from runtime.encoder import Encoder
from runtime.rerank.comparison import compare, frame_of, in_photo


@pytest.fixture
def encoder(engine: Path) -> Encoder:
    return Encoder(engine, device="cpu")


def test_what_agrees_is_what_a_search_finds(encoder: Encoder, engine: Path, photos: list[str], tmp_path: Path) -> None:
    with Retriever(engine, tmp_path / "index", device="cpu") as retriever:
        retriever.add(photos)
        hits = {hit.id: hit for hit in retriever.search(photos[0], rerank="spatial")}
    for photo in photos:
        if photo in hits:
            seen, hit = compare(encoder, photos[0], photo, 1000), hits[photo]
            assert (seen.inliers, seen.verified) == (hit.inliers, hit.verified)
            assert seen.score == hit.first_score
            assert seen.reranked == pytest.approx(hit.score, abs=1e-12)
            assert len(seen.weights) == seen.inliers <= seen.shared


def test_positions_are_in_pixels_of_the_photos_as_given(encoder: Encoder, make_photo: Callable) -> None:
    """The engine shrinks the larger photo to half its size."""
    small, large = make_photo(2), cv2.resize(make_photo(2), (256, 192), interpolation=cv2.INTER_NEAREST)
    seen = compare(encoder, small, large, 20)
    assert (seen.query_size, seen.image_size) == ((128, 96), (256, 192))
    assert len(seen.weights) == 20
    assert list(seen.weights) == sorted(seen.weights, reverse=True)
    apart = seen.image_ends - (2 * (seen.query_ends + 0.5) - 0.5)
    assert np.median(np.abs(apart), axis=0) == pytest.approx([0, 0], abs=1.0)
    assert seen.frame is not None
    corners = np.array([[-0.5, -0.5], [255.5, -0.5], [255.5, 191.5], [-0.5, 191.5]])
    assert np.abs(seen.frame[:4] - corners).max() < 2 * 2 * 48  # twice the tolerance, in pixels of the larger photo
    assert seen.frame[0] + seen.frame[2] == pytest.approx(seen.frame[1] + seen.frame[3])  # an affine map
    assert (seen.frame[0] == seen.frame[4]).all()


def test_with_another_alpha_nothing_is_said_to_be_verified(engine: Path, photos: list[str]) -> None:
    assert compare(Encoder(engine, device="cpu", alpha=2.0), photos[0], photos[0], 5).verified is None


def test_global_descriptors_cannot_be_compared(global_engine: Path, photos: list[str]) -> None:
    with pytest.raises(IncompatibleError, match="nothing to verify"):
        compare(Encoder(global_engine, device="cpu"), photos[0], photos[1], 5)


def test_the_frame_has_the_corners_pixels() -> None:
    image = np.zeros((10, 20, 3), np.uint8)
    assert frame_of(image)[:4, :2].tolist() == [[0, 0], [19, 0], [19, 9], [0, 9]]
    assert in_photo(frame_of(image), image, (20, 40))[2].tolist() == [38.5, 18.5]
