"""Re-ranking by activation maps: what agrees comes first, kept ellipses, and what an engine or an index lacks."""

import shutil
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest

from runtime import IncompatibleError, MissingError, Retriever, UsageError
from runtime.encoder import Encoder
from runtime.matching import EllipseDetector, KeypointStore
from runtime.matching.store import OF_ACTIVATIONS, keep
from runtime.rerank import Candidates, Dsm, Query

from ...conftest import draw_photo


def dsm_of(engine: Path) -> Dsm:
    return Dsm(EllipseDetector(Encoder(engine, device="cpu")), tolerance=8.0, chance=0)


def test_photos_of_the_same_thing_come_first(both_engine: Path, shots: list[str]) -> None:
    with Retriever(both_engine, device="cpu") as retriever:
        retriever.add(shots)
        first = {hit.id: hit.score for hit in retriever.search(shots[2])}
        hits = retriever.search(shots[2], rerank=Dsm(EllipseDetector(retriever.encoder), tolerance=8.0, chance=0))
        assert {hit.id: hit.first_score for hit in hits} == first
        assert [hit.id for hit in hits[:2]] == [shots[2], shots[3]]
        counts = [hit.inliers for hit in hits]
        assert counts == sorted(counts, reverse=True)
        assert all(type(hit.inliers) is int and hit.verified is None for hit in hits)
        named = retriever.search(shots[2], rerank="dsm")  # with a tolerance for photos of many times this size
        assert {hit.id for hit in named} == set(shots)
        assert all(hit.inliers for hit in named)


def test_a_shifted_view_agrees_by_its_map(both_engine: Path, tmp_path: Path) -> None:
    photo = draw_photo(5)
    cut, whole, other = (tmp_path / f"{name}.png" for name in ("cut", "whole", "other"))
    for path, image in ((cut, photo[16:, 24:]), (whole, photo), (other, draw_photo(6))):
        cv2.imwrite(str(path), image)
    answers = Candidates(np.zeros(2), [], ["other", "whole"], [other, whole])
    found = dsm_of(both_engine).rerank(Query(cut, None, {}), answers).inliers
    assert found is not None
    assert found[1] > 2 * found[0]


def test_a_query_whose_features_are_at_hand_is_not_read_again(both_engine: Path, shots: list[str]) -> None:
    """And it makes no difference where they come from, though a photo is larger than what the engine takes."""
    large = Path(shots[2]).with_name("large.png")
    cv2.imwrite(str(large), cv2.resize(draw_photo(2), None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC))
    encoder, dsm = Encoder(both_engine, device="cpu"), dsm_of(both_engine)
    answers = Candidates(np.zeros(len(shots)), [], shots, list(map(Path, shots)))
    at_hand = encoder.extract_loaded(encoder.load(large))
    found = dsm.rerank(Query("nowhere.jpg", None, {}, at_hand), answers)
    again = dsm.rerank(Query(large, None, {}), answers)
    np.testing.assert_array_equal(found.inliers, again.inliers)


def test_kept_ellipses_need_no_photos(both_engine: Path, shots: list[str], tmp_path: Path) -> None:
    with Retriever(both_engine, device="cpu") as retriever:
        retriever.add(shots)
        expected = retriever.search(shots[0], rerank="dsm")
        path = OF_ACTIVATIONS.path(retriever.index_path)
    detector = dsm_of(both_engine).detector
    with closing(KeypointStore(path, detector.fingerprint, OF_ACTIVATIONS, make=True)) as store:
        keep(store, {shot: Path(shot) for shot in shots}, detector)
    query = shutil.copy(shots[0], tmp_path / "query.png")
    for shot in shots:
        Path(shot).unlink()
    with Retriever(both_engine, device="cpu") as retriever:
        assert retriever.search(query, rerank="dsm") == expected


def test_photos_that_moved_are_an_error_with_the_remedies(both_engine: Path, shots: list[str], tmp_path: Path) -> None:
    query = shutil.copy(shots[2], tmp_path / "query.png")
    with Retriever(both_engine, device="cpu") as retriever:
        retriever.add(shots)
        Path(shots[0]).parent.rename(tmp_path / "elsewhere")
        with pytest.raises(MissingError, match=r"nor can any other answer.*ellipses are not kept.*--keep-features"):
            retriever.search(query, rerank="dsm")


def test_an_engine_without_activations_says_how_it_gets_some(engine: Path, photos: list[str]) -> None:
    with Retriever(engine, device="cpu") as retriever:
        retriever.add(photos)
        with pytest.raises(IncompatibleError, match=f"{engine}: gives no activation maps.*exported with --activations"):
            retriever.search(photos[0], rerank="dsm")


def test_what_agrees_beyond_chance_comes_before_the_first_stages_score() -> None:
    dsm = Dsm(None, chance=12)  # type: ignore[arg-type]
    scores = dsm.scores(np.array([0.9, 0.3, 0.2, 0.1]), np.array([-1, 12, 14, 13]))
    np.testing.assert_allclose(scores, [0.9, 0.3, 2.2, 1.1])


@pytest.mark.parametrize("wrong", [{"tolerance": 0.0}, {"tolerance": float("nan")}, {"chance": -1}], ids=str)
def test_values_that_matching_cannot_work_with_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Dsm(None, **wrong)  # type: ignore[arg-type]
