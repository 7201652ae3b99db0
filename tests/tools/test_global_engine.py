"""Retrieval by global descriptors, through the same ``Retriever`` and commands as ASMK's."""

from pathlib import Path

import numpy as np
import pytest

from runtime import IncompatibleError, Retriever, UsageError
from tools import evaluate, index, search


def test_photos_are_added_found_removed_and_found_again_after_reopening(global_engine: Path, photos: list[str]) -> None:
    with Retriever(global_engine) as retriever:
        assert retriever.add(photos).added == photos
        for photo in photos:
            hits = retriever.search(photo, top=len(photos))
            assert hits[0].id == photo
            assert hits[0].score == pytest.approx(1, abs=1e-3)
            assert len(hits) == len(photos)
        many = retriever.search_many(photos, top=3)
        assert many == [retriever.search(photo, top=3) for photo in photos]
        retriever.remove(photos[:1])
    with Retriever(global_engine) as reopened:
        assert len(reopened) == len(photos) - 1
        assert photos[0] not in [hit.id for hit in reopened.search(photos[0], top=100)]
        reopened.compact()
        assert reopened.search(photos[1], top=1)[0].id == photos[1]


def test_a_score_is_the_cosine(global_engine: Path, photos: list[str]) -> None:
    with Retriever(global_engine) as retriever:
        retriever.add(photos)
        vectors = [retriever.encoder.extract(photo).need_global() for photo in photos]
        scores = {hit.id: hit.score for hit in retriever.search(photos[2], top=100)}
    np.testing.assert_allclose([scores[photo] for photo in photos], np.stack(vectors) @ vectors[2], atol=1e-3)


def test_an_index_of_one_engine_is_none_of_another(global_engine: Path, engine: Path, photos: list[str]) -> None:
    with Retriever(global_engine) as retriever:
        retriever.add(photos)
    with pytest.raises(IncompatibleError, match="made with another engine"):
        Retriever(engine, retriever.index_path)


def test_parameters_of_asmk_are_refused(global_engine: Path) -> None:
    with pytest.raises(UsageError, match="searches by vectors, which has no threshold"):
        Retriever(global_engine, threshold=0.5)


def test_the_commands_index_search_and_evaluate(
    global_engine: Path, photos: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    index.main([str(global_engine), *photos, "--stats", "--verify"])
    printed = capsys.readouterr().out
    assert f"vectors         {len(photos)}\n" in printed
    assert "all well" in printed
    search.main([str(global_engine), photos[3], "--top", "2"])
    assert photos[3] in capsys.readouterr().out.splitlines()[0]
    root = global_engine.parent / "scenes"
    for number, photo in enumerate(photos):
        scene = root / f"scene{number // 2}"
        scene.mkdir(parents=True, exist_ok=True)
        (scene / Path(photo).name).write_bytes(Path(photo).read_bytes())
    evaluate.main([str(global_engine), str(root)])
    assert "inner product" in capsys.readouterr().out
