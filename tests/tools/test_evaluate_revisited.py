"""Evaluation on the revisited Oxford and Paris sets, in a made set of the published layout."""

import json
import pickle
import shutil
import struct
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.asmk.kernel import AsmkKernel
from runtime.encoder import Encoder
from runtime.errors import HowlError, ImageError
from runtime.retriever import Retriever
from tools import evaluate
from tools.evaluation.ranking import evaluate_query, evaluate_set, means
from train.data import Truth, open_set
from train.data.revisited import Labels, read_labels, read_photo

NAMES = [f"place_{number:06d}" for number in range(6)]
BOX = [16.0, 8.0, 112.0, 88.0]
GROUND_TRUTH: dict[str, Any] = {
    "imlist": NAMES,
    "qimlist": ["query_000000", "query_000001"],
    "gnd": [
        {"bbx": BOX, "easy": np.array([0]), "hard": [2, 3], "junk": np.array([5])},
        {"bbx": np.array(BOX), "easy": [], "hard": np.array([1]), "junk": []},
    ],
}


# ------------------------------------------------------------------------------------------------ the protocol


def plain_figures(ranking: Sequence[int], right: set[int], junk: set[int]) -> tuple[float, tuple[float, ...]]:
    """Average precision and mP@1, 5, 10, counted photo by photo."""
    area, found, seen, hits = 0.0, 0, 0, []
    for photo in ranking:
        if photo in junk:
            continue
        seen += 1
        hits.append(photo in right)
        if photo in right:
            found += 1
            # The trapezoid between the recalls of two positives: precision right before, and at the second.
            before = (found - 1) / (seen - 1) if seen > 1 else 1.0
            area += (before + found / seen) / 2 / len(right)
    last = max(place for place, hit in enumerate(hits, 1) if hit)
    return area, tuple(sum(hits[: min(last, k)]) / min(last, k) for k in (1, 5, 10))


@pytest.mark.parametrize("seed", range(5))
def test_figures_are_those_of_a_plain_count(seed: int) -> None:
    random = np.random.default_rng(seed)
    order, ranking = random.permutation(60), random.permutation(60)
    ends = np.sort(random.integers(1, 40, 3))
    easy, hard, junk = order[: ends[0]], order[ends[0] : ends[1] + 1], order[ends[1] + 1 : ends[2] + 2]
    truths = Labels((0, 0, 1, 1), easy, hard, junk).truths()
    sets = {
        "easy": (set(easy), {*junk, *hard}),
        "medium": ({*easy, *hard}, set(junk)),
        "hard": (set(hard), {*junk, *easy}),
    }
    assert list(truths) == list(sets)
    for setting, (right, neither) in sets.items():
        found = evaluate_query("a query", ranking, truths[setting])
        area, precisions = plain_figures(ranking.tolist(), right, neither)
        assert found.average_precision == pytest.approx(area, abs=1e-12)
        assert found.precisions == pytest.approx(precisions, abs=1e-12)


def test_settings_differ_in_what_is_junk() -> None:
    """Ranking 4 0 5 2 1 3; 0 is easy, 2 and 3 are hard, 5 is junk."""
    truths = Labels((0, 0, 1, 1), np.array([0]), np.array([2, 3]), np.array([5])).truths()
    ranking = np.array([4, 0, 5, 2, 1, 3])
    by_hand = {
        "easy": ((0 / 1 + 1 / 2) / 2, (0, 1 / 2, 1 / 2)),  # 4 0 1
        "medium": (  # 4 0 2 1 3
            ((0 / 1 + 1 / 2) + (1 / 2 + 2 / 3) + (2 / 4 + 3 / 5)) / 6,
            (0, 3 / 5, 3 / 5),
        ),
        "hard": (((0 / 1 + 1 / 2) + (1 / 3 + 2 / 4)) / 4, (0, 2 / 4, 2 / 4)),  # 4 2 1 3
    }
    for setting, (precision, precisions) in by_hand.items():
        found = evaluate_query("a query", ranking, truths[setting])
        assert found.average_precision == pytest.approx(precision, abs=1e-12)
        assert found.precisions == pytest.approx(precisions, abs=1e-12)


def test_means_are_over_queries() -> None:
    first = evaluate_query("a", np.array([0, 1, 2]), Truth(np.array([0, 2]), np.array([], int)))
    second = evaluate_query("b", np.array([0, 1, 2]), Truth(np.array([1]), np.array([0])))
    assert first.average_precision == pytest.approx(0.7917, abs=5e-5)
    assert means([first, second]) == pytest.approx(
        {"mAP": (first.average_precision + 1) / 2, "mP@1": 1, "mP@5": (2 / 3 + 1) / 2, "mP@10": (2 / 3 + 1) / 2}
    )


# ---------------------------------------------------------------------------------------------------- the boxes


@pytest.fixture
def photo(tmp_path: Path, make_photo: Callable[..., NDArray[np.uint8]]) -> tuple[Path, NDArray[np.uint8]]:
    """A photo of 160×200 pixels in a file, and its pixels, RGB."""
    bgr = make_photo(0, 160, 200)
    path = tmp_path / "photo.png"
    cv2.imwrite(str(path), bgr)
    return path, bgr[:, :, ::-1]


@pytest.mark.parametrize(
    ("box", "rows", "columns"),
    [
        ((10, 20, 90, 120), slice(20, 120), slice(10, 90)),
        ((10.4, 19.6, 89.6, 120.4), slice(20, 120), slice(10, 90)),
        ((-3.2, 120, 40, 170.9), slice(120, 160), slice(0, 40)),
        ((0, 0, 200, 160), slice(0, 160), slice(0, 200)),
    ],
)
def test_a_box_keeps_its_pixels_where_nothing_is_shrunk(
    photo: tuple[Path, NDArray[np.uint8]], box: tuple, rows: slice, columns: slice
) -> None:
    path, rgb = photo
    np.testing.assert_array_equal(read_photo(path, 200, box=box), rgb[rows, columns])
    np.testing.assert_array_equal(read_photo(path, 4096, box=box), rgb[rows, columns])


def test_a_box_is_shrunk_as_much_as_its_photo(photo: tuple[Path, NDArray[np.uint8]]) -> None:
    """At half the size of the whole photo, every pixel is the mean of four of the box's."""
    path, rgb = photo
    found = read_photo(path, 100, box=(20, 40, 120, 120))
    assert read_photo(path, 100).shape == (80, 100, 3)
    assert found.shape == (40, 50, 3)
    means_of_four = rgb[40:120, 20:120].reshape(40, 2, 50, 2, 3).mean(axis=(1, 3))
    assert np.abs(found - means_of_four).max() <= 0.5


def test_the_longest_side_of_a_box_is_rounded_down(photo: tuple[Path, NDArray[np.uint8]]) -> None:
    path, _ = photo
    assert read_photo(path, 150, box=(0, 0, 99, 66)).shape == (49, 74, 3)  # 150 · 99/200 = 74.25
    assert read_photo(path, 199, box=(0, 0, 99, 66)).shape == (65, 98, 3)  # 98.505


def turned(jpeg: bytes) -> bytes:
    """The file, with a segment that says that the camera was held upright."""
    tiff = b"MM\x00\x2a" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", 8 + len(tiff)) + b"Exif\x00\x00" + tiff + jpeg[2:]


def test_a_box_counts_pixels_as_the_file_stores_them(
    tmp_path: Path, make_photo: Callable[..., NDArray[np.uint8]]
) -> None:
    data = cv2.imencode(".jpg", make_photo(0))[1].tobytes()
    for name, content in (("turned.jpg", turned(data)), ("stored.jpg", data)):
        (tmp_path / name).write_bytes(content)
    stored = read_photo(tmp_path / "stored.jpg", 1024, box=(0, 0, 128, 40))
    found = read_photo(tmp_path / "turned.jpg", 1024, box=(0, 0, 128, 40), upright=False)
    np.testing.assert_array_equal(found, stored)


@pytest.mark.parametrize("box", [(0, 0, 31, 100), (500, 500, 600, 600), (-50, -50, -10, -10)])
def test_a_box_with_too_few_pixels_is_refused(photo: tuple[Path, NDArray[np.uint8]], box: tuple) -> None:
    with pytest.raises(ImageError, match=r"photo\.png: \d+×\d+ pixels in its box are too few"):
        read_photo(photo[0], 1024, box=box)


# ------------------------------------------------------------------------------------------------ the whole way


def write_labels(folder: Path, content: Any) -> None:
    (folder / f"gnd_{folder.name}.pkl").write_bytes(pickle.dumps(content, protocol=2))


@pytest.fixture
def oxford(tmp_path: Path, photos: list[str]) -> Path:
    """The folder of a small ``roxford5k``: the queries are the first two photos, in boxes."""
    folder = tmp_path / "data" / "test" / "roxford5k"
    (folder / "jpg").mkdir(parents=True)
    for name, photo in zip(NAMES, photos, strict=True):
        shutil.copy(photo, folder / "jpg" / f"{name}.jpg")
    for number in range(2):
        shutil.copy(photos[number], folder / "jpg" / f"query_{number:06d}.jpg")
    write_labels(folder, GROUND_TRUTH)
    return folder


def run(capsys: pytest.CaptureFixture[str], engine: Path, folder: Path, *arguments: object) -> dict[str, Any]:
    root = ("--root", folder.parents[1])
    evaluate.main(list(map(str, (engine, folder.name, *root, *arguments, "--json"))))
    return json.loads(capsys.readouterr().out)


def ranking_of(engine: Path, folder: Path, query: int) -> list[int]:
    """The photos by their scores for a query's box, computed pair by pair."""
    encoder = Encoder(engine)
    kernel = encoder.first_stage
    assert isinstance(kernel, AsmkKernel)
    left, top, right, bottom = map(int, BOX)
    box = cv2.imread(str(folder / "jpg" / f"query_{query:06d}.jpg"))[top:bottom, left:right]
    asked = encoder.encode_query(encoder.engine.extract(np.ascontiguousarray(box[:, :, ::-1])))
    scores = []
    for name in NAMES:
        photo = encoder.encode_database(encoder.extract(folder / "jpg" / f"{name}.jpg"))
        total = 0.0
        for (word, code), (other, other_code) in product(
            zip(asked.words, asked.codes, strict=True), zip(photo.words, photo.codes, strict=True)
        ):
            if word == other:
                s = 1 - 2 * int(np.bitwise_count(code ^ other_code).sum()) / kernel.codebook.dimensions
                total += s**kernel.parameters.alpha if s >= kernel.parameters.threshold else 0
        scores.append(total / np.sqrt(len(asked.words) * len(photo.words)))
    return np.argsort(-np.array(scores), kind="stable").tolist()


def test_the_whole_way(engine: Path, oxford: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(capsys, engine, oxford)["sets"][0]
    assert (result["photos"], result["queries"]) == (6, 2)
    assert result["labels"] == str(oxford / "gnd_roxford5k.pkl")
    truths = {
        0: {"easy": ({0}, {5, 2, 3}), "medium": ({0, 2, 3}, {5}), "hard": ({2, 3}, {5, 0})},
        1: {"medium": ({1}, set()), "hard": ({1}, set())},
    }
    expected: dict[str, dict[str, tuple]] = {"easy": {}, "medium": {}, "hard": {}}
    for query, settings in truths.items():
        for setting, truth in settings.items():
            path = str(oxford / "jpg" / f"query_{query:06d}.jpg")
            expected[setting][path] = plain_figures(ranking_of(engine, oxford, query), *truth)
    assert list(result["settings"]) == ["easy", "medium", "hard"]
    for setting, figures in expected.items():
        found = result["settings"][setting]
        assert found["queries"] == len(figures)  # the second query has no easy answer: it is left out there
        assert found["average_precisions"] == pytest.approx({path: area for path, (area, _) in figures.items()})
        assert found["mAP"] == pytest.approx(np.mean([area for area, _ in figures.values()]))
        precisions = np.mean([precisions for _, precisions in figures.values()], axis=0)
        assert [found[f"mP@{k}"] for k in (1, 5, 10)] == pytest.approx(precisions)


def test_the_photos_of_the_set_are_taken_as_stored(
    engine: Path, oxford: Path, photos: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    data = cv2.imencode(".jpg", cv2.imread(photos[0]), (cv2.IMWRITE_JPEG_QUALITY, 100))[1].tobytes()
    figures = []
    for content in (data, turned(data)):
        for name in ("place_000000.jpg", "query_000000.jpg"):
            (oxford / "jpg" / name).write_bytes(content)
        figures.append(run(capsys, engine, oxford))
    assert figures[0] == figures[1]
    (oxford / "jpg" / "query_000000.jpg").write_bytes(
        cv2.imencode(".png", np.rot90(cv2.imread(photos[0])))[1].tobytes()
    )
    assert run(capsys, engine, oxford) != figures[0]


def test_figures_do_not_depend_on_the_pieces(engine: Path, oxford: Path) -> None:
    encoder = Encoder(engine)
    labelled = open_set("roxford5k", root=oxford.parents[1], image_size=encoder.manifest.image_size)
    whole = evaluate_set(encoder, labelled)
    assert evaluate_set(encoder, labelled, build_batch=2) == whole


def test_the_table_has_a_line_a_setting(engine: Path, oxford: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate.main([str(engine), "roxford5k", "--data-root", str(oxford.parents[1])])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == f"roxford5k ({oxford / 'gnd_roxford5k.pkl'}): 2 queries, each against 6 photos"
    assert [line.split()[0] for line in lines[2:5]] == ["easy", "medium", "hard"]
    assert [line.split("(")[1] for line in lines[2:5]] == ["1 queries)", "2 queries)", "2 queries)"]
    assert lines[5] == "  worst queries, hard:"
    assert {line.split()[1] for line in lines[6:]} == {str(oxford / "jpg" / f"query_00000{n}.jpg") for n in (0, 1)}


def test_the_authors_layout_does_too_and_so_does_paris(
    engine: Path, oxford: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = run(capsys, engine, oxford)["sets"][0]["settings"]["medium"]["mAP"]
    paris = oxford.parents[1] / "datasets" / "rparis6k"
    shutil.copytree(oxford, paris)
    (paris / "gnd_roxford5k.pkl").rename(paris / "gnd_rparis6k.pkl")
    result = run(capsys, engine, paris)["sets"][0]
    assert (result["data"], result["settings"]["medium"]["mAP"]) == ("rparis6k", expected)


def test_distractors_are_searched_too(
    engine: Path, oxford: Path, tmp_path: Path, make_photo: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = run(capsys, engine, oxford)["sets"][0]["settings"]
    others = tmp_path / "others"
    others.mkdir()
    left, top, right, bottom = map(int, BOX)
    cv2.imwrite(str(others / "as the query.png"), make_photo(0)[top:bottom, left:right])
    result = run(capsys, engine, oxford, "--distractors", others)["sets"][0]
    assert result["photos"] == 7
    assert result["settings"]["easy"]["mAP"] < alone["easy"]["mAP"]


# -------------------------------------------------------------------------------------------------- the million


@pytest.fixture
def million(oxford: Path, make_photo: Callable[..., NDArray[np.uint8]]) -> Path:
    """The folder of a small ``revisitop1m`` beside the set: four photos, the first as the box of a query."""
    folder = oxford.parent / "revisitop1m"
    (folder / "jpg").mkdir(parents=True)
    left, top, right, bottom = map(int, BOX)
    for number in range(4):
        image = make_photo(50 + number) if number else make_photo(0)[top:bottom, left:right]
        (folder / "jpg" / f"{number}.jpg").write_bytes(cv2.imencode(".png", image)[1].tobytes())
    (folder / "revisitop1m.txt").write_text("".join(f"{number}.jpg\n" for number in range(4)))
    return folder


def test_the_million_is_indexed_once_and_kept_beside_the_engine(
    engine: Path, oxford: Path, million: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = run(capsys, engine, oxford)["sets"][0]["settings"]["easy"]["mAP"]
    first = run(capsys, engine, oxford, "--distractors", "r1m")
    assert (first["distractors"], first["sets"][0]["photos"]) == ("r1m", 10)
    assert first["sets"][0]["settings"]["easy"]["mAP"] < alone
    assert engine.with_suffix(".r1m.index").is_dir()
    shutil.rmtree(million / "jpg")
    assert run(capsys, engine, oxford, "--distractors", "r1m") == first


def test_an_interrupted_million_goes_on(
    engine: Path, oxford: Path, million: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = run(capsys, engine, oxford, "--distractors", "r1m")
    shutil.rmtree(engine.with_suffix(".r1m.index"))
    with Retriever(engine, engine.with_suffix(".r1m.index")) as retriever:
        retriever.add([million / "jpg" / "0.jpg"], ["0.jpg"])
    (million / "jpg" / "0.jpg").unlink()
    assert run(capsys, engine, oxford, "--distractors", "r1m") == whole


def test_an_unreadable_distractor_is_left_out_by_name_and_a_missing_one_is_an_error(
    engine: Path, oxford: Path, million: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = million / "jpg" / "2.jpg"
    path.write_bytes(b"")
    answer = run(capsys, engine, oxford, "--distractors", "r1m")
    assert answer["skipped"] == {str(path): f"{path}: empty file"}
    assert answer["sets"][0]["photos"] == 9
    path.unlink()
    with pytest.raises(HowlError, match=r"2\.jpg: missing; unpack http.*revisitop1m\.100\.tar\.gz into .*jpg"):
        run(capsys, engine, oxford, "--distractors", "r1m")


def test_an_index_of_other_distractors_is_refused(
    engine: Path, oxford: Path, million: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, engine, oxford, "--distractors", "r1m")
    (million / "revisitop1m.txt").write_text("0.jpg\n1.jpg\n")
    with pytest.raises(HowlError, match=r"engine\.r1m\.index: holds other photos than 2 distractors"):
        run(capsys, engine, oxford, "--distractors", "r1m")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (None, r"the distractors are not here: put http[^\n]*revisitop1m\.txt [^\n]*--root"),
        (b"", r"revisitop1m\.txt: no list of names; fetch it again from http"),
        (b"\xff\xfe\x00", r"revisitop1m\.txt: no list of names; fetch it again from http"),
    ],
)
def test_a_missing_or_broken_list_is_one_clear_error(
    content: bytes | None, line: str, engine: Path, oxford: Path, million: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (million / "revisitop1m.txt").unlink()
    if content is not None:
        (million / "revisitop1m.txt").write_bytes(content)
    with pytest.raises(HowlError, match=line):
        run(capsys, engine, oxford, "--distractors", "r1m")


# -------------------------------------------------------------------------------------------- what may be wrong


@pytest.mark.parametrize("name", ["roxford5k", "rparis6k"])
@pytest.mark.parametrize("missing", ["everything", "jpg", "labels"])
def test_a_missing_set_says_what_to_fetch_and_where(missing: str, name: str, engine: Path, tmp_path: Path) -> None:
    folder = tmp_path / "test" / name
    if missing == "jpg":
        folder.mkdir(parents=True)
        write_labels(folder, GROUND_TRUTH)
    elif missing == "labels":
        (folder / "jpg").mkdir(parents=True)
    with pytest.raises(HowlError) as error:
        evaluate.main([str(engine), name, "--root", str(tmp_path)])
    line = str(error.value)
    archives = {"roxford5k": ["oxbuild_images-v1.tgz"], "rparis6k": ["paris_1-v1.tgz", "paris_2-v1.tgz"]}[name]
    assert line.startswith(f"{folder}: ")
    assert "\n" not in line
    for part in (f"{name}/gnd_{name}.pkl", *archives, str(folder / "jpg"), "--root"):
        assert part in line


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("place_000003", None, "missing; put the photos of http"),
        ("query_000001", None, "missing; put the photos of http"),
        ("place_000003", b"", "empty file; put the photos of http"),
        ("query_000001", b"no photo", "not an image"),
    ],
)
def test_a_photo_that_is_not_there_is_an_error_and_not_another_figure(
    name: str, content: bytes | None, line: str, engine: Path, oxford: Path
) -> None:
    path = oxford / "jpg" / f"{name}.jpg"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(HowlError, match=rf"{name}\.jpg: {line}[^\n]*$"):
        evaluate.main([str(engine), "roxford5k", "--data-root", str(oxford.parents[1])])


def test_missing_photos_are_counted(engine: Path, oxford: Path) -> None:
    for path in (oxford / "jpg").iterdir():
        path.unlink()
    with pytest.raises(HowlError, match=r"place_000000\.jpg: missing, and 7 more of 8 photos"):
        evaluate.main([str(engine), "roxford5k", "--data-root", str(oxford.parents[1])])


def changed(query: int, **values: Any) -> dict[str, Any]:
    """The labels with others for one query."""
    gnd = [truth | values if number == query else truth for number, truth in enumerate(GROUND_TRUTH["gnd"])]
    return GROUND_TRUTH | {"gnd": gnd}


@pytest.mark.parametrize(
    "content",
    [
        [],
        {"imlist": NAMES, "qimlist": ["query_000000"]},
        GROUND_TRUTH | {"qimlist": ["query_000000"]},
        GROUND_TRUTH | {"imlist": [1, 2, 3, 4, 5, 6]},
        GROUND_TRUTH | {"imlist": NAMES[:3]},
        GROUND_TRUTH | {"gnd": [[], []]},
        GROUND_TRUTH | {"gnd": [{"ok": [1], "junk": []}] * 2},
        changed(0, hard=[6]),
        changed(1, junk=np.array([-1])),
        changed(0, easy=[0.5]),
        changed(0, easy=["place_000000"]),
        changed(1, bbx=[1, 2, 3]),
        changed(1, bbx=[50, 0, 10, 80]),
        changed(1, bbx=[0, 0, 10, float("nan")]),
        changed(1, bbx=None),
    ],
)
def test_labels_in_another_layout_are_one_clear_error(content: Any, engine: Path, oxford: Path) -> None:
    write_labels(oxford, content)
    line = r"gnd_roxford5k\.pkl: not in the published layout: [^\n]*fetch it again from http[^\n]*$"
    with pytest.raises(HowlError, match=line):
        evaluate.main([str(engine), "roxford5k", "--data-root", str(oxford.parents[1])])


def test_labels_without_a_right_answer_in_a_setting_are_refused(engine: Path, oxford: Path) -> None:
    write_labels(oxford, changed(0, easy=[]))
    with pytest.raises(HowlError, match="roxford5k: nothing to search for: no photo has a readable easy match"):
        evaluate.main([str(engine), "roxford5k", "--data-root", str(oxford.parents[1])])


class RunsCode:
    """Unpickled by a careless reader, it leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return open, (str(self.trace), "w")


def test_labels_that_would_run_code_are_refused(engine: Path, oxford: Path) -> None:
    write_labels(oxford, GROUND_TRUTH | {"gnd": RunsCode(oxford / "trace")})
    with pytest.raises(HowlError, match=r"gnd_roxford5k\.pkl: refused"):
        evaluate.main([str(engine), "roxford5k", "--data-root", str(oxford.parents[1])])
    assert not (oxford / "trace").exists()


def test_labels_are_read_whichever_plain_form_they_have(oxford: Path) -> None:
    _, queries, labels = read_labels(oxford / "gnd_roxford5k.pkl")
    assert queries == GROUND_TRUTH["qimlist"]
    assert [of.hard.tolist() for of in labels] == [[2, 3], [1]]
    assert all(numbers.dtype == np.int64 for of in labels for numbers in (of.easy, of.hard, of.junk))
