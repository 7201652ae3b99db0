"""The pictures: what they are drawn from, where it lies, the commands from end to end, and what they refuse."""

import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from runtime.io.cli import run_command
from runtime.io.image import Image, load_rgb, shrink, to_original_pixels
from runtime.retriever import Retriever
from tools import visualize

pytest.importorskip("matplotlib", reason="needs matplotlib")
pytest.importorskip("torch", reason="needs PyTorch")

from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.image import AxesImage

from tools.visualization.attention import AttentionMap, before_and_after, chosen_by, difference, draw_attention
from tools.visualization.canvas import Photo, View, draw_map, photo_panels
from tools.visualization.gallery import draw_gallery, ranked
from tools.visualization.matches import draw_matches, draw_pairs, strongest
from tools.visualization.refinements import draw_graph, inspect_photo, nearest_node, strongest_apart
from train.checkpoint import Checkpoint
from train.hooks import inspect

Write = Callable[..., Path]


def status(*arguments: object) -> int:
    """The exit status of the command run with these arguments."""
    try:
        return run_command(lambda _: visualize.main([str(argument) for argument in arguments]))
    except SystemExit as usage:
        return int(usage.code or 0)


def flat_photo(width: int = 80, height: int = 60) -> Photo:
    return Photo(Path("flat.png"), np.full((height, width, 3), 128, np.uint8))


@pytest.fixture
def large(make_photo: Callable[..., Image], tmp_path: Path) -> Path:
    """A photo of 288×384 pixels: three times what the small checkpoints take."""
    path = tmp_path / "large.png"
    cv2.imwrite(str(path), make_photo(0, 288, 384))
    return path


def lines_of(cell: Axes) -> list[LineCollection]:
    return [drawn for drawn in cell.collections if isinstance(drawn, LineCollection)]


# Where things are drawn


def shown_at(drawn: AxesImage, x: float, y: float) -> float:
    """The value that an image shows at a pixel of the photo, by its extent."""
    left, right, bottom, top = drawn.get_extent()
    values = np.asarray(drawn.get_array())
    column = int((x - left) / (right - left) * values.shape[1])
    row = int((y - top) / (bottom - top) * values.shape[0])
    return float(values[row, column])


@pytest.mark.parametrize("step", [4.0, 10.5])
def test_a_cell_of_a_map_is_drawn_around_its_pixel(step: float) -> None:
    photo = flat_photo()
    _, (cell,) = photo_panels(photo, ["map"], "map")
    x, y = (np.arange(n, dtype=np.float32) * step + 1.5 for n in (5, 3))
    values = np.arange(15, dtype=np.float32).reshape(3, 5)
    drawn = draw_map(cell, x, y, values, (0, 15))
    for row in range(3):
        for column in range(5):
            for nudge in (-0.45 * step, 0, 0.45 * step):
                assert shown_at(drawn, x[column] + nudge, y[row] + nudge) == values[row, column]
    assert (cell.get_xlim(), cell.get_ylim()) == ((-0.5, 79.5), (59.5, -0.5))


def test_a_map_of_a_single_cell_covers_the_photo() -> None:
    _, (cell,) = photo_panels(flat_photo(), ["map"], "map")
    drawn = draw_map(cell, np.zeros(1, np.float32), np.zeros(1, np.float32), np.ones((1, 1), np.float32), (0, 1))
    left, right, bottom, top = drawn.get_extent()
    assert left <= -0.5 < 79.5 <= right
    assert top <= -0.5 < 59.5 <= bottom


def test_positions_are_in_pixels_of_the_photo_on_the_disk(checkpoint: Write, large: Path) -> None:
    model, photo = checkpoint(), Photo.load(large)
    found = inspect_photo(model, photo, View()).seen
    small = inspect(Checkpoint.load(model).build_model(), shrink(photo.full, 128))
    np.testing.assert_allclose(found.x, 3 * small.x + 1)  # the middle of the three pixels that became one
    np.testing.assert_allclose(found.y, 3 * small.y + 1)
    assert found.graph is not None
    assert small.graph is not None
    np.testing.assert_allclose(found.graph.nodes, 3 * small.graph.nodes + 1)
    assert set(found.graph.nodes[:, 0].tolist()) <= set(found.x.tolist())
    assert to_original_pixels(np.array([-0.5, 127.5], np.float32), 384, 128).tolist() == [-0.5, 383.5]


def test_image_size_and_scale_are_those_asked_for(checkpoint: Write, large: Path) -> None:
    model, photo = checkpoint(), Photo.load(large)
    assert inspect_photo(model, photo, View()).seen.strengths.shape == (24, 32)
    assert inspect_photo(model, photo, View(image_size=256)).seen.strengths.shape == (48, 64)
    assert inspect_photo(model, photo, View(scale=0.5)).seen.strengths.shape == (12, 16)


# Attention


def test_attention_before_and_after_is_over_its_maximum(checkpoint: Write, large: Path) -> None:
    model, photo = checkpoint(), Photo.load(large)
    before, after = before_and_after(model, photo, View())
    seen = inspect_photo(model, photo, View()).seen
    assert isinstance(before, AttentionMap)
    assert isinstance(after, AttentionMap)
    np.testing.assert_allclose(before.strengths, seen.backbone_attention / seen.backbone_attention.max())
    np.testing.assert_allclose(after.strengths, seen.strengths / seen.strengths.max())
    change = difference([before, after])
    assert change is not None
    assert abs(change.strengths.mean()) < 1e-5
    assert np.abs(change.strengths).max() > 0.01


def test_after_a_filter_alone_it_is_the_norm_of_the_filtered_features(checkpoint: Write, large: Path) -> None:
    model, photo = checkpoint(refine="none"), Photo.load(large)
    _, after = before_and_after(model, photo, View())
    seen = inspect_photo(model, photo, View()).seen
    np.testing.assert_allclose(after.strengths, seen.refined_attention / seen.refined_attention.max())


def test_nothing_changes_where_nothing_refines(checkpoint: Write, large: Path) -> None:
    model = checkpoint(smoothing="none", refine="none")
    assert len(before_and_after(model, Photo.load(large), View())) == 1


def test_maps_of_other_positions_have_no_difference(checkpoint: Write, large: Path) -> None:
    sides = [before_and_after(checkpoint(), Photo.load(large), View(scale=scale))[0] for scale in (1.0, 0.5)]
    assert difference(sides) is None
    assert difference(sides[:1]) is None


def test_an_engine_shows_its_own_features(engine: Path, photos: list[str]) -> None:
    dots = chosen_by(engine, Photo.load(Path(photos[0])), View())
    with Retriever(engine) as retriever:
        features = retriever.encoder.extract(photos[0]).need_local()
    assert not isinstance(dots, AttentionMap)
    np.testing.assert_array_equal(dots.positions, features.positions)
    np.testing.assert_array_equal(dots.strengths, features.strengths)


def test_both_sides_have_one_colour_scale(checkpoint: Write, engine: Path, large: Path) -> None:
    figure = draw_attention(checkpoint(), Photo.load(large), engine, View())
    dots, heat = figure.axes[:2]
    assert dots.collections[0].get_clim() == heat.images[-1].get_clim()


# The graph


def test_the_edges_drawn_are_those_of_the_graph(checkpoint: Write, large: Path) -> None:
    model, photo = checkpoint(), Photo.load(large)
    graph = inspect_photo(model, photo, View()).seen.graph
    assert graph is not None
    figure = draw_graph(model, photo, View(), [(200.0, 100.0)], 3)
    (lines,) = lines_of(figure.axes[0])
    node = nearest_node(graph.nodes, (200.0, 100.0))
    assert np.hypot(*(graph.nodes - [200, 100]).T).argmin() == node
    expected = sorted((*graph.nodes[node].tolist(), *graph.nodes[other].tolist()) for other in graph.edges[node])
    assert sorted(tuple(np.ravel(segment).tolist()) for segment in lines.get_segments()) == expected
    np.testing.assert_allclose(sorted(np.asarray(lines.get_array())), sorted(graph.cosines[node]))


def test_the_nodes_chosen_lie_apart_and_the_strongest_is_first() -> None:
    nodes = np.array([[0, 0], [3, 0], [0, 10], [9, 9], [50, 50]], np.float32)
    assert strongest_apart(nodes, 5, 3) == [0, 2, 3]
    assert strongest_apart(nodes, 5, 9) == [0, 2, 3, 4]
    assert strongest_apart(nodes, 0, 2) == [0, 1]


# Matches


def test_the_title_has_the_score_of_the_search(engine: Path, photos: list[str], tmp_path: Path) -> None:
    with Retriever(engine, tmp_path / "idx") as retriever:
        retriever.add(photos)
        hits = retriever.search(photos[0], 3)
        for hit in hits:
            figure = draw_matches(retriever.encoder, *(Photo.load(Path(p)) for p in (photos[0], hit.id)), 20, None)
            assert f"score {hit.score:.4f}" in figure.get_suptitle()
            assert len(lines_of(figure.axes[0])[0].get_segments()) == 20
    assert len(hits) == 3


def test_every_word_has_a_line_before_any_has_two() -> None:
    from runtime.asmk.kernel import Matching, SharedWords

    shared = SharedWords(np.arange(3, dtype=np.uint32), np.array([0.5, 0.25, 0.0]), 0.1)
    matching = Matching(
        shared,
        pairs=np.arange(12).reshape(6, 2),
        weights=np.array([0.5, 0.5, 0.5, 0.25, 0.25, 0.0]),
        ranks=np.array([0, 1, 2, 0, 1, 0]),
    )
    assert strongest(matching, 9).tolist() == [0, 3, 1, 4, 2]
    assert strongest(matching, 3).tolist() == [0, 3, 1]


def test_lines_end_on_the_features_of_both_photos() -> None:
    left, right = flat_photo(80, 60), flat_photo(90, 120)
    ends = np.array([[10.0, 20.0]], np.float32), np.array([[90 - 0.5, 120 - 0.5]], np.float32)  # the last corner
    (cell, *_) = draw_pairs(left, right, *ends, np.array([0.3]), "title").axes
    (segment,) = lines_of(cell)[0].get_segments()
    edge, _, bottom, top = cell.images[1].get_extent()
    np.testing.assert_allclose(segment, [[10, 20], [cell.get_xlim()[1], 59.5]])
    assert (bottom, top) == (59.5, -0.5)
    assert edge > 79.5


def test_no_pairs_make_no_lines() -> None:
    photo, none = flat_photo(80, 60), np.empty((0, 2), np.float32)
    (cell, *_) = draw_pairs(photo, photo, none, none, np.empty(0), "0 shared visual words").axes
    assert not lines_of(cell)[0].get_segments()


# The gallery


def test_a_query_never_finds_itself_and_folders_tell_right_from_wrong(
    engine: Path, photos: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for scene in range(2):
        (tmp_path / f"scene{scene}").mkdir()
        for view in range(2):
            image = load_rgb(photos[scene])[:, :, ::-1]
            cv2.imwrite(str(tmp_path / f"scene{scene}" / f"{view}.png"), np.clip(image, 8 * view, 255))
    names = [tmp_path / f"scene{scene}" / f"{view}.png" for scene in range(2) for view in range(2)]
    monkeypatch.chdir(tmp_path)
    with Retriever(engine, tmp_path / "idx") as retriever:
        retriever.add([str(name.relative_to(tmp_path)) for name in names])
        row = ranked(retriever, names[0], 3, by_folder=True)
        assert row.answers[0].photo.resolve() == names[1]
        assert names[0] not in [answer.photo.resolve() for answer in row.answers]
        assert [answer.is_right for answer in row.answers] == [True, *[False] * (len(row.answers) - 1)]
        assert len(row.answers) > 1
        assert {answer.is_right for answer in ranked(retriever, names[0], 3, by_folder=False).answers} == {None}
    monkeypatch.chdir("/")
    with pytest.warns(RuntimeWarning, match="as they were added: run this in the same folder"):
        draw_gallery([row], "answers by paths from another folder")


# The commands


@pytest.mark.slow
def test_every_picture_of_a_checkpoint(checkpoint: Write, large: Path, engine: Path, tmp_path: Path) -> None:
    model = checkpoint()
    for number, arguments in enumerate(
        [
            ["attention", model, large],
            ["attention", model, large, "--against", engine],
            ["attention", engine, large],
            ["smoothing", model, large, "--image-size", "192", "--scale", "0.7"],
            ["graph", model, large],
            ["graph", model, large, "--point", "10,20", "--point", "383,287"],
        ]
    ):
        out = tmp_path / "made" / f"{number}.png"
        assert status(*arguments, "--out", out) == 0
        assert cv2.imread(str(out)).shape[1] > 300


def test_every_picture_of_an_engine(engine: Path, photos: list[str], tmp_path: Path) -> None:
    with Retriever(engine, tmp_path / "idx") as retriever:
        retriever.add(photos[:3])
    for name, arguments in {
        "matches": [photos[0], photos[1], "--assignments", "1", "--top", "9"],
        "gallery": [*photos[:2], "--index", tmp_path / "idx", "--by-folder"],
    }.items():
        assert status(name, engine, *arguments, "--out", tmp_path / f"{name}.svg") == 0
        assert (tmp_path / f"{name}.svg").read_text(encoding="utf-8").rstrip().endswith("</svg>")


def test_photos_without_a_feature_in_common_have_a_picture(
    engine: Path, photos: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert status("matches", engine, *photos[:2], "--tau", "1", "--out", tmp_path / "none.png") == 0
    monkeypatch.chdir(tmp_path)
    assert status("matches", engine, *photos[:2], "--verified", "--out", tmp_path / "verified.png") == 0
    assert status("matches", engine, *photos[:2]) == 0
    assert (tmp_path / "matches.png").exists()


REFUSALS = [
    (["attention", "missing.pt", "{photo}"], "missing.pt: no such file"),
    (["attention", "missing.onnx", "{photo}"], "missing.onnx: no such engine"),
    (["attention", "{photo}", "{photo}"], "photo0.png: not a file of tensors"),
    (["attention", "{both}", "nowhere.jpg"], "nowhere.jpg: No such file"),
    (["smoothing", "{both}", "{broken}"], "truncated"),
    (["matches", "{engine}", "{photo}", "{broken}"], "truncated"),
    (["gallery", "{engine}", "{photo}"], "no index here"),
]

MISUSES = [
    (["gallery", "{both}", "{photo}"], "ckpt.pt: an engine is an .onnx, a .plan or a .pt2 file"),
    (["graph", "{engine}", "{photo}"], "an engine cannot be looked into; name the checkpoint"),
    (["graph", "{both}", "{photo}", "--point", "128,5"], "--point 128,5: outside the photo, which is 128×96 pixels"),
    (["graph", "{both}", "{photo}", "--point", "5,nan"], "outside the photo"),
    (["attention", "{both}", "{photo}", "--out", "picture.doc"], "--out picture.doc: matplotlib cannot write"),
    (["attention", "{both}", "{photo}", "--out", "picture"], "--out picture: matplotlib cannot write"),
    (["attention", "{both}", "{photo}", "--out", "{photo}"], "is what the picture is made of"),
    (["gallery", "{engine}", "{photo}", "--out", "{photo}"], "is what the picture is made of"),
]


@pytest.mark.parametrize(
    ("code", "arguments", "line"), [*((1, *refusal) for refusal in REFUSALS), *((2, *misuse) for misuse in MISUSES)]
)
def test_wrong_input_is_one_line_and_leaves_nothing(
    code: int,
    arguments: list[str],
    line: str,
    checkpoint: Write,
    engine: Path,
    photos: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    broken = tmp_path / "broken.png"
    broken.write_bytes(Path(photos[0]).read_bytes()[:900])
    names = {"both": checkpoint(), "engine": engine, "photo": photos[0], "broken": broken}
    before = {path: path.stat().st_mtime_ns for path in [*tmp_path.rglob("*"), Path(photos[0])]}
    assert status(*(argument.format(**names) for argument in arguments)) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert line in error
    assert error.count("\n") == 1
    assert {path: path.stat().st_mtime_ns for path in [*tmp_path.rglob("*"), Path(photos[0])]} == before


@pytest.mark.parametrize(
    ("picture", "changes", "line"),
    [
        ("smoothing", {"smoothing": "average"}, "no learned smoothing in it (average)"),
        ("smoothing", {"bandwidth": "shared"}, "two numbers for all positions, bandwidth"),
        ("graph", {"refine": "none"}, "no graph in it"),
    ],
)
def test_a_checkpoint_without_what_is_drawn(
    picture: str,
    changes: dict[str, object],
    line: str,
    checkpoint: Write,
    photos: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "picture.png"
    assert status(picture, checkpoint(**changes), photos[0], "--out", out) == 1
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["portrait", "a.pt", "b.jpg"],
        ["graph", "a.pt", "b.jpg", "--point", "5"],
        ["graph", "a.pt", "b.jpg", "--point", "5,6", "--nodes", "2"],
        ["smoothing", "a.pt", "b.jpg", "--scale", "9"],
        ["matches", "a.onnx", "b.jpg", "c.jpg", "--top", "0"],
        ["gallery", "a.onnx"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    assert status(*arguments) == 2


def test_what_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert status("smoothing", "a.pt", "b.jpg", "--out", tmp_path / "a.png") == 1
    assert "torch is not installed, and this needs it: pip install '.[train]'" in capsys.readouterr().err
