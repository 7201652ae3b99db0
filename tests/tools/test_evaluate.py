"""Evaluation: leave one out, distractors, names of the worst, and the arithmetic against a plain count."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from runtime import Retriever
from runtime.encoder import Encoder
from runtime.errors import HowlError, UsageError
from runtime.first_stage import Layout
from runtime.index import Index
from runtime.io.finding import find_photos
from runtime.rerank import Candidates, HitOrder, Query, Reranking, Spatial
from tools import evaluate
from tools.evaluation import evaluate_engine
from tools.evaluation.distractors import Distractors, open_distractors
from tools.evaluation.ranking import Encoded, Indexed, evaluate_set, ranked
from tools.index import main as keep
from train.data.sources import open_set


@pytest.fixture
def labelled(tmp_path: Path, photos: list[str]) -> Path:
    """Three scenes: two with a photo and a slightly noisy copy of it, one with a single photo."""
    root = tmp_path / "labelled"
    for scene in range(3):
        folder = root / f"scene{scene}"
        folder.mkdir(parents=True)
        shutil.copy(photos[scene], folder / "a.png")
        if scene < 2:
            noise = np.random.default_rng(scene).integers(-3, 4, cv2.imread(photos[scene]).shape)
            cv2.imwrite(str(folder / "b.png"), np.clip(cv2.imread(photos[scene]) + noise, 0, 255).astype(np.uint8))
    return root


@pytest.fixture
def others(tmp_path: Path, photos: list[str]) -> Path:
    """A folder of three photos of none of the scenes."""
    folder = tmp_path / "others"
    folder.mkdir()
    for photo in photos[3:]:
        shutil.copy(photo, folder)
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict:
    evaluate.main([*map(str, arguments), "--json"])
    return json.loads(capsys.readouterr().out)


def test_a_near_copy_is_found_and_a_lone_photo_is_no_query(
    engine: Path, labelled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(capsys, engine, labelled)["sets"][0]
    assert (result["photos"], result["queries"]) == (5, 4)
    assert result["mAP"] == 1
    assert result["mP@1"] == 1
    assert set(result["average_precisions"]) == {str(labelled / f"scene{s}" / f"{n}.png") for s in (0, 1) for n in "ab"}


def test_reranking_finds_near_copies_wherever_the_photos_lie(
    engine: Path, labelled: Path, others: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Encoded for this, in an index, and beside distractors; the index among them has removed photos."""
    for arguments in ([], ["--distractors", others], ["--candidates", 2]):
        result = run(capsys, engine, labelled, "--rerank", "spatial", *arguments)["sets"][0]
        assert result["mAP"] == 1
    index = tmp_path / "all.index"
    with Retriever(engine, index, device="cpu") as retriever:
        photos = sorted(map(str, find_photos([others, labelled])))
        retriever.add(photos)
        retriever.remove([str(find_photos([others])[0])])
    assert run(capsys, engine, labelled, "--index", index, "--rerank", "spatial")["sets"][0]["mAP"] == 1


def test_learned_matching_finds_near_copies_wherever_the_photos_lie(
    engine: Path, matcher: Path, labelled: Path, others: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    by = ["--rerank", "lightglue", "--matcher", matcher]
    for arguments in ([], ["--distractors", others]):
        result = run(capsys, engine, labelled, *by, *arguments)
        assert result["sets"][0]["mAP"] == 1
        assert result["rerank"] == {"by": "lightglue", "candidates": 20}
    index = tmp_path / "all.index"
    with Retriever(engine, index, device="cpu") as retriever:
        retriever.add(sorted(map(str, find_photos([others, labelled]))))
    assert run(capsys, engine, labelled, "--index", index, *by)["sets"][0]["mAP"] == 1


def test_own_features_find_near_copies_though_the_photos_of_an_index_are_gone(
    engine: Path, labelled: Path, others: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kept by the ids of the index, which are seen from a root."""
    assert run(capsys, engine, labelled, "--rerank", "ransac")["sets"][0]["mAP"] == 1
    index = tmp_path / "all.index"
    with Retriever(engine, index, root=tmp_path, device="cpu") as retriever:
        retriever.add(sorted(find_photos([others, labelled])))
    keep([str(engine), "--index", str(index), "--root", str(tmp_path), "--keep-features"])
    capsys.readouterr()
    for photo in find_photos([others]):
        photo.unlink()
    result = run(capsys, engine, labelled, "--index", index, "--rerank", "ransac")
    assert result["sets"][0]["mAP"] == 1
    assert result["rerank"] == {"by": "ransac", "candidates": 100}


def test_the_reranked_order_does_not_depend_on_where_photos_lie(
    exported: Path, photos: list[str], tmp_path: Path
) -> None:
    encoder, order = Encoder(exported / "engine.onnx", device="cpu"), HitOrder(Spatial(), 3)
    images = [encoder.encode_database(encoder.extract(photo)) for photo in photos]
    asked = encoder.encode_query(encoder.extract(photos[1]))
    query = Query(photos[1], asked, {})
    stage = encoder.first_stage
    n = len(photos)
    paths = list(map(Path, photos))
    whole = Encoded([stage.build(images)], np.ones(n, bool), paths, {})
    expected = ranked(order, query, whole.scores(asked), [whole])
    assert expected[0] == 1
    assert sorted(expected) == list(range(n))

    readable = np.insert(np.ones(n, bool), 2, False)  # one photo cannot be read
    parts = [stage.build(images[:2]), stage.build(images[2:])]
    split = Encoded(parts, readable, [*paths[:2], Path("broken"), *paths[2:]], {})
    numbers = np.insert(np.arange(n), 2, -1)
    got = numbers[ranked(order, query, split.scores(asked), [split])]
    np.testing.assert_array_equal(got[got >= 0], expected)

    index = Index.create(tmp_path / "index", fingerprint="x", layout=stage.layout)
    index.add(["gone", *photos], [images[0], *images])
    index.remove(["gone"])
    positions = np.array([n - 1, -1, *range(n - 1)])  # the last comes first, and one is not there
    indexed = Indexed(index, positions, [paths[-1], Path("elsewhere"), *paths[:-1]], {})
    got = positions[ranked(order, query, indexed.scores(asked), [indexed])]
    np.testing.assert_array_equal(got[got >= 0], expected)

    first = Encoded([stage.build(images[:3])], np.ones(3, bool), paths[:3], {})
    rest = Index.create(tmp_path / "rest", fingerprint="x", layout=stage.layout)
    rest.add(photos[3:], images[3:])
    second = Distractors(rest, paths[3:])
    scores = np.concatenate([first.scores(asked), second.scores(asked)])
    np.testing.assert_array_equal(ranked(order, query, scores, [first, second]), expected)


class Noting:
    """A re-ranker that keeps the order, and notes the files of its candidates."""

    candidates = 4

    def check(self, path: Path, layout: Layout) -> None: ...

    def rerank(self, query: Query, candidates: Candidates) -> Reranking:
        self.query, self.photos = query, list(candidates.photos)
        return Reranking(candidates.scores)


def test_a_reranker_is_given_the_files_of_photos(engine: Path, labelled: Path, others: Path, tmp_path: Path) -> None:
    """Of the labelled ones but the query's own, of distractors, and of those that an index holds besides."""
    encoder, noting = Encoder(engine, device="cpu"), Noting()
    own = find_photos([labelled])[3]  # that of the last query
    everything = set(find_photos([labelled, others])) - {own}
    evaluate_set(encoder, open_set(str(labelled), image_size=64, root=tmp_path), order=HitOrder(noting, 100))
    assert noting.query.photo == own
    assert set(noting.photos) == set(find_photos([labelled])) - {own}
    with open_distractors(str(others), engine, "cpu", tmp_path, [], {}) as distractors:
        evaluate_set(
            encoder, open_set(str(labelled), image_size=64, root=tmp_path), distractors, order=HitOrder(noting, 100)
        )
        assert set(noting.photos) == everything
    with Retriever(engine, tmp_path / "index", device="cpu") as retriever:
        retriever.add(sorted({*everything, own}))
        assert retriever.index is not None
        labels = open_set(str(labelled), image_size=64, root=tmp_path)
        evaluate_set(encoder, labels, index=retriever.index, order=HitOrder(noting, 100))
        assert set(noting.photos) == everything


def test_without_an_engine_it_is_the_one_in_this_folder(
    engine: Path, labelled: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(engine.parent)
    assert engine.name == evaluate.DEFAULT_ENGINE
    assert run(capsys, labelled)["sets"] == run(capsys, engine, labelled)["sets"]
    with pytest.raises(SystemExit):
        evaluate.main([str(engine)])


def test_distractors_are_searched_and_never_query(
    engine: Path, labelled: Path, others: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (others / "broken.jpg").write_bytes(b"")
    again = shutil.copytree(labelled, tmp_path / "again")
    answer = run(capsys, engine, labelled, again, "--distractors", others)
    assert [(s["photos"], s["queries"]) for s in answer["sets"]] == [(8, 4), (8, 4)]
    assert list(answer["skipped"]) == [str(others / "broken.jpg")]


def test_an_index_gives_the_figures_of_encoding_all_anew(
    engine: Path, labelled: Path, others: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    anew = run(capsys, engine, labelled, "--distractors", others)["sets"]
    with Retriever(engine, tmp_path / "idx", root=tmp_path) as retriever:  # found by their files, not by their ids
        retriever.add(find_photos([others, labelled]))
        assert run(capsys, engine, labelled, "--index", tmp_path / "idx")["sets"] == anew
        retriever.remove([labelled / "scene0" / "b.png"])
    answer = run(capsys, engine, labelled, "--index", tmp_path / "idx")
    missing = str(labelled / "scene0" / "b.png")
    assert answer["skipped"] == {missing: f"{missing}: not in {tmp_path / 'idx'}"}
    assert (answer["sets"][0]["photos"], answer["sets"][0]["queries"]) == (anew[0]["photos"] - 1, 2)
    with pytest.raises(UsageError, match=r"leave .* out"):
        evaluate.main([str(engine), str(labelled), "--index", str(tmp_path / "idx"), "--distractors", str(others)])


def test_distractors_that_are_labelled_too_are_refused(engine: Path, labelled: Path) -> None:
    with pytest.raises(HowlError, match=r"scene0/a\.png: is a distractor and a labelled photo too"):
        evaluate.main([str(engine), str(labelled), "--distractors", str(labelled / "scene0")])


def test_an_unreadable_photo_is_left_out_by_its_path(
    engine: Path, labelled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = labelled / "scene0" / "b.png"
    broken.write_bytes(b"")
    answer = run(capsys, engine, labelled)
    assert answer["skipped"] == {str(broken): f"{broken}: empty file"}
    assert (answer["sets"][0]["photos"], answer["sets"][0]["queries"]) == (4, 2)


def test_the_function_gives_what_the_command_prints(
    engine: Path, labelled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluation = evaluate_engine(engine, [str(labelled)], threshold=0.1, alpha=2)
    assert evaluation.as_dict() == run(capsys, engine, labelled, "--tau", 0.1, "--alpha", 2)
    evaluate.main([str(engine), str(labelled), "--tau", "0.1", "--alpha", "2"])
    assert capsys.readouterr().out == evaluation.as_text() + "\n"


def test_evaluation_needs_no_torch(engine: Path, labelled: Path, run_python: Callable) -> None:
    code = "import sys; sys.modules['torch'] = None; from tools import evaluate; evaluate.main(sys.argv[1:])"
    done = run_python(code, engine, labelled)
    assert done.returncode == 0, done.stderr
    assert "mAP 1.0000" in done.stdout


def test_wrong_labels_lower_the_mean_to_what_a_plain_count_gives(
    engine: Path, labelled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Swapped copies: every query's own copy, which comes first, now counts as wrong.
    a, b = labelled / "scene0" / "b.png", labelled / "scene1" / "b.png"
    a.rename(labelled / "swap.png")
    b.rename(a)
    (labelled / "swap.png").rename(b)
    result = run(capsys, engine, labelled)["sets"][0]
    assert result["mP@1"] == 0
    for precision in result["average_precisions"].values():
        # One positive at 0-based rank r ≥ 1: (0/r + 1/(r + 1)) / 2.
        assert any(precision == pytest.approx(1 / (r + 1) / 2) for r in (1, 2, 3))


def test_the_table_names_the_worst(engine: Path, labelled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate.main([str(engine), str(labelled)])
    printed = capsys.readouterr().out
    assert "4 queries, each against 4 photos" in printed
    assert "mAP 1.0000" in printed
    assert str(labelled / "scene1" / "b.png") in printed


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda root: None, "no such folder, nor a published set .*roxford5k, rparis6k, sfm120k"),
        (lambda root: root.mkdir(), "no photos in its folders"),
        (lambda root: (root / "a").mkdir(parents=True), "no photos in its folders"),
    ],
)
def test_data_without_labels_is_refused(make, line: str, engine: Path, tmp_path: Path) -> None:
    make(tmp_path / "data")
    with pytest.raises(HowlError, match=f"data: {line}"):
        evaluate.main([str(engine), str(tmp_path / "data")])


def test_scenes_of_single_photos_have_no_query(engine: Path, photos: list[str], tmp_path: Path) -> None:
    for number, photo in enumerate(photos):
        (tmp_path / "data" / str(number)).mkdir(parents=True)
        shutil.copy(photo, tmp_path / "data" / str(number))
    with pytest.raises(HowlError, match="no photo has a readable match"):
        evaluate.main([str(engine), str(tmp_path / "data")])
