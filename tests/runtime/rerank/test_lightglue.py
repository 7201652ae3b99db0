"""Re-ranking by learned matching, with a small matcher: what is verified, and photos that are not there."""

import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from runtime import IncompatibleError, MissingError, Retriever, UsageError
from runtime.matching import KeypointStore, Matcher
from runtime.matching.store import OF_MATCHER, keep
from runtime.rerank import LightGlue

from ...conftest import draw_photo


def test_photos_of_the_same_thing_are_verified_and_come_first(engine: Path, matcher: Path, shots: list[str]) -> None:
    with Retriever(engine, matcher=matcher, device="cpu") as retriever:
        retriever.add(shots)
        first = {hit.id: hit.score for hit in retriever.search(shots[2])}
        hits = retriever.search(shots[2], rerank="lightglue")
        assert {hit.id: hit.first_score for hit in hits} == first
        assert [hit.id for hit in hits[:2]] == [shots[2], shots[3]]
        assert [hit.verified for hit in hits] == [True, True] + [False] * (len(hits) - 2)
        assert hits[1].inliers is not None
        assert hits[1].inliers >= 30
        assert all(type(hit.inliers) is int and type(hit.verified) is bool for hit in hits)
        weaker = Matcher(matcher, device="cpu")
        unmoved = retriever.search(shots[2], rerank=LightGlue(weaker, gain=0))
        assert [(hit.id, hit.score) for hit in unmoved] == list(first.items())
        assert retriever.search_many(shots[:3], 3, rerank="lightglue") == [
            retriever.search(shot, 3, rerank="lightglue") for shot in shots[:3]
        ]


def test_scores_add_what_agrees_beyond_chance() -> None:
    lightglue = LightGlue(None, keypoints=500, chance=15, gain=0.5)  # type: ignore[arg-type]
    before = np.array([0.3, 0.2, 0.1])
    np.testing.assert_allclose(lightglue.scores(before, np.array([0, 15, 115])), [0.3, 0.2, 0.2])


def test_kept_keypoints_need_no_photos(engine: Path, matcher: Path, shots: list[str], tmp_path: Path) -> None:
    """Nor do they change an answer."""
    with Retriever(engine, matcher=matcher, device="cpu") as retriever:
        retriever.add(shots)
        expected = retriever.search(shots[0], rerank="lightglue")
        path = OF_MATCHER.path(retriever.index_path)
    cells = Matcher(matcher, device="cpu")
    with closing(KeypointStore(path, cells.fingerprint, make=True)) as store:
        keep(store, {shot: Path(shot) for shot in shots}, cells)
    query = shutil.copy(shots[0], tmp_path / "query.png")
    for shot in shots:
        Path(shot).unlink()
    with Retriever(engine, matcher=matcher, device="cpu") as retriever:
        assert retriever.search(query, rerank="lightglue") == expected


def test_a_photo_that_is_gone_keeps_its_score_and_is_said(engine: Path, matcher: Path, shots: list[str]) -> None:
    with Retriever(engine, matcher=matcher, device="cpu") as retriever:
        retriever.add(shots)
        first = {hit.id: hit.score for hit in retriever.search(shots[2])}
        for damage in (lambda path: path.unlink(), lambda path: path.write_bytes(b"no image")):
            damage(Path(shots[3]))
            with pytest.warns(RuntimeWarning, match=rf"{shots[3]}: .*; 1 of 4 answers could not be matched"):
                hits = {hit.id: hit for hit in retriever.search(shots[2], rerank="lightglue")}
            lost = hits[shots[3]]
            assert (lost.score, lost.inliers, lost.verified) == (first[shots[3]], None, None)
            assert hits[shots[2]].verified


def test_photos_that_moved_are_an_error_with_the_remedies(
    engine: Path, matcher: Path, shots: list[str], tmp_path: Path
) -> None:
    query = shutil.copy(shots[2], tmp_path / "query.png")
    with Retriever(engine, matcher=matcher, device="cpu") as retriever:
        retriever.add(shots)
        Path(shots[0]).parent.rename(tmp_path / "elsewhere")
        with pytest.raises(MissingError, match=r"shot2.png: No such file.*nor can any other answer.*--root.*--matcher"):
            retriever.search(query, rerank="lightglue")


def test_a_photo_that_changed_is_read_again(engine: Path, matcher: Path, shots: list[str]) -> None:
    with Retriever(engine, matcher=matcher, device="cpu") as retriever:
        retriever.add(shots)
        assert retriever.search(shots[2], rerank="lightglue")[1].verified
        cv2.imwrite(shots[3], draw_photo(9))
        verified = [hit.id for hit in retriever.search(shots[2], rerank="lightglue") if hit.verified]
        assert verified == [shots[2]]


def test_without_a_matcher_it_says_so(engine: Path, shots: list[str]) -> None:
    with Retriever(engine, device="cpu") as retriever:
        retriever.add(shots)
        with pytest.raises(MissingError, match=rf"{engine.parent / 'matcher.onnx'}: no matcher here"):
            retriever.search(shots[0], rerank="lightglue")


def test_keypoints_of_another_matcher_are_refused(engine: Path, matcher: Path, shots: list[str]) -> None:
    with Retriever(engine, matcher=matcher, device="cpu") as retriever:
        retriever.add(shots)
        path = OF_MATCHER.path(retriever.index_path)
        KeypointStore(path, "another", make=True).close()
        with pytest.raises(IncompatibleError, match=f"{path}: keypoints of another matcher"):
            retriever.search(shots[0], rerank="lightglue")


@pytest.mark.parametrize(
    "wrong", [{"keypoints": 0}, {"least": 0}, {"tolerance": 0.0}, {"share": 1.5}, {"gain": float("nan")}]
)
def test_values_that_matching_cannot_work_with_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        replace(LightGlue(None), **wrong)  # type: ignore[arg-type]
