"""Re-ranking by the engine's own features: what is verified, kept features, and photos that are not there."""

import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from runtime import IncompatibleError, MissingError, Retriever, UsageError
from runtime.bundle import EngineFiles, Manifest
from runtime.encoder import Encoder
from runtime.first_stage import VECTORS
from runtime.matching import EngineDetector, KeypointStore
from runtime.matching.store import OF_ENGINE, keep
from runtime.rerank import Candidates, Query, Ransac

from ...conftest import draw_photo


def detector_of(engine: Path) -> EngineDetector:
    return EngineDetector(Encoder(engine, device="cpu"))


def test_photos_of_the_same_thing_are_verified_and_come_first(engine: Path, shots: list[str]) -> None:
    with Retriever(engine, device="cpu") as retriever:
        retriever.add(shots)
        first = {hit.id: hit.score for hit in retriever.search(shots[2])}
        hits = retriever.search(shots[2], rerank="ransac")
        assert {hit.id: hit.first_score for hit in hits} == first
        assert [hit.id for hit in hits[:2]] == [shots[2], shots[3]]
        assert [hit.verified for hit in hits] == [True, True] + [False] * (len(hits) - 2)
        assert all(type(hit.inliers) is int and type(hit.verified) is bool for hit in hits)
        assert retriever.search_many(shots[:3], 3, rerank="ransac") == [
            retriever.search(shot, 3, rerank="ransac") for shot in shots[:3]
        ]


def test_a_shifted_and_enlarged_view_agrees_by_its_map(engine: Path, tmp_path: Path) -> None:
    """By whole cells of the small network, so that its features move with the photo."""
    photo = draw_photo(5)
    cut, whole = tmp_path / "cut.png", tmp_path / "whole.png"
    cv2.imwrite(str(cut), photo[16:, 24:])
    cv2.imwrite(str(whole), photo)
    ransac = Ransac(detector_of(engine), tolerance=1.0)
    found = ransac.rerank(Query(cut, None, {}), Candidates(np.zeros(1), [], ["whole"], [whole]))
    assert found.inliers is not None
    assert found.inliers[0] >= 20


def test_a_global_first_stage_is_reranked_by_local_features_of_the_same_graph(
    both_engine: Path, shots: list[str]
) -> None:
    with Retriever(both_engine, device="cpu") as retriever:
        assert retriever.encoder.first_stage.layout.method == VECTORS
        retriever.add(shots)
        hits = retriever.search(shots[2], rerank="ransac")
        assert [hit.id for hit in hits[:2]] == [shots[2], shots[3]]
        assert [hit.verified for hit in hits] == [True, True, False, False]


def test_a_system_whose_inliers_were_not_measured_verifies_nothing(engine: Path, shots: list[str]) -> None:
    """But whoever measures them may say so."""
    path = EngineFiles.of(engine).manifest
    replace(Manifest.load(path), system="delg").save(path)
    with Retriever(engine, device="cpu") as retriever:
        retriever.add(shots)
        hits = retriever.search(shots[2], rerank="ransac")
        assert [hit.id for hit in hits[:2]] == [shots[2], shots[3]]
        assert all(hit.inliers is not None and hit.verified is None for hit in hits)
        own = retriever.search(shots[2], rerank=Ransac(EngineDetector(retriever.encoder), least=20))
        assert [hit.verified for hit in own] == [True, True, False, False]


def test_inliers_beyond_chance_come_before_the_first_stages_score() -> None:
    ransac = Ransac(None, chance=12)  # type: ignore[arg-type]
    before = np.array([0.9, 0.3, 0.2, 0.1, 0.05])
    scores = ransac.scores(before, np.array([-1, 12, 14, 13, 14]))
    np.testing.assert_allclose(scores, [0.9, 0.3, 2.2, 1.1, 2.05])


def test_a_query_whose_features_are_at_hand_is_not_read_again(engine: Path, shots: list[str]) -> None:
    """And it makes no difference where they come from, though a photo is larger than what the engine takes."""
    large = Path(shots[2]).with_name("large.png")
    cv2.imwrite(str(large), cv2.resize(draw_photo(2), None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC))
    encoder = Encoder(engine, device="cpu")
    ransac = Ransac(EngineDetector(encoder))
    answers = Candidates(np.zeros(len(shots)), [], shots, list(map(Path, shots)))
    at_hand = encoder.engine.extract(encoder.load(large))
    found = ransac.rerank(Query("nowhere.jpg", None, {}, at_hand), answers)
    again = ransac.rerank(Query(large, None, {}), answers)
    np.testing.assert_array_equal(found.inliers, again.inliers)


def test_kept_features_need_no_photos(engine: Path, shots: list[str], tmp_path: Path) -> None:
    """Nor do they change an answer: float16 keeps which descriptors are nearest."""
    with Retriever(engine, device="cpu") as retriever:
        retriever.add(shots)
        expected = retriever.search(shots[0], rerank="ransac")
        path = OF_ENGINE.path(retriever.index_path)
    detector = detector_of(engine)
    with closing(KeypointStore(path, detector.fingerprint, OF_ENGINE, make=True)) as store:
        keep(store, {shot: Path(shot) for shot in shots}, detector)
    query = shutil.copy(shots[0], tmp_path / "query.png")
    for shot in shots:
        Path(shot).unlink()
    with Retriever(engine, device="cpu") as retriever:
        assert retriever.search(query, rerank="ransac") == expected


def test_a_photo_that_is_gone_keeps_its_score_and_is_said(engine: Path, shots: list[str]) -> None:
    with Retriever(engine, device="cpu") as retriever:
        retriever.add(shots)
        first = {hit.id: hit.score for hit in retriever.search(shots[2])}
        Path(shots[3]).unlink()
        with pytest.warns(RuntimeWarning, match=rf"{shots[3]}: .*; 1 of 4 answers could not be matched"):
            hits = {hit.id: hit for hit in retriever.search(shots[2], rerank="ransac")}
        lost = hits[shots[3]]
        assert (lost.score, lost.inliers, lost.verified) == (first[shots[3]], None, None)
        assert hits[shots[2]].verified


def test_photos_that_moved_are_an_error_with_the_remedies(engine: Path, shots: list[str], tmp_path: Path) -> None:
    query = shutil.copy(shots[2], tmp_path / "query.png")
    with Retriever(engine, device="cpu") as retriever:
        retriever.add(shots)
        Path(shots[0]).parent.rename(tmp_path / "elsewhere")
        remedies = r"shot2.png: No such file.*nor can any other answer.*features are not kept.*--root.*--keep-features"
        with pytest.raises(MissingError, match=remedies):
            retriever.search(query, rerank="ransac")


def test_an_engine_without_local_features_says_so(global_engine: Path, photos: list[str]) -> None:
    with Retriever(global_engine, device="cpu") as retriever:
        retriever.add(photos)
        with pytest.raises(IncompatibleError, match=f"{global_engine}: gives a global descriptor only, and matching"):
            retriever.search(photos[0], rerank="ransac")


def test_features_that_another_engine_gave_are_refused(engine: Path, shots: list[str]) -> None:
    with Retriever(engine, device="cpu") as retriever:
        retriever.add(shots)
        path = OF_ENGINE.path(retriever.index_path)
        KeypointStore(path, "another", OF_ENGINE, make=True).close()
        with pytest.raises(IncompatibleError, match=f"{path}: features of another engine; .* --keep-features makes it"):
            retriever.search(shots[0], rerank="ransac")


@pytest.mark.parametrize(
    "wrong", [{"keypoints": 0}, {"least": 0}, {"trials": 0}, {"tolerance": 0.0}, {"distance": -1.0}, {"chance": -1}]
)
def test_values_that_matching_cannot_work_with_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        replace(Ransac(None), **wrong)  # type: ignore[arg-type]


def test_a_search_can_be_ended_between_two_candidates(engine: Path, shots: list[str]) -> None:
    stages: list[str] = []

    def end(stage: str) -> None:
        stages.append(stage)
        if stages.count("rerank") == 2:
            raise InterruptedError

    with Retriever(engine) as retriever:
        retriever.add(shots)
        with pytest.raises(InterruptedError):
            retriever.search(shots[0], rerank="ransac", progress=end)
    assert stages == ["decode", "extract", "encode", "search", "rerank", "rerank"]
