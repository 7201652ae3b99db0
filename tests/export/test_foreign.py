"""A third party's network: from their file to an engine that searches, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image as Pillow

from export import to_trt
from export.foreign import exporter
from export.foreign.network import open_network
from export.foreign.options import IMAGENET_MEAN, IMAGENET_STD, ForeignOptions, Preprocessing
from export.foreign.reference import resize_axis, textures
from runtime.asmk.codebook import Codebook
from runtime.bundle import EngineFiles, load_manifest
from runtime.engine import open_engine
from runtime.engine.onnxruntime import OnnxSession
from runtime.errors import HowlError, IncompatibleError, ParityError
from runtime.first_stage import ASMK, VECTORS
from runtime.io.cli import run_command
from runtime.retriever import Retriever

from .foreign_networks import ANY_NUMBER, COLUMNS, DIMENSIONS, KEYPOINTS, LOCAL, write_network

SIZES = ["--multiple", "8", "--smallest", "64"]  # that LOCAL takes


@pytest.fixture
def folder(photos: list[str], tmp_path: Path, make_photo: Callable) -> Path:
    """24 photos to learn from."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(24):
        cv2.imwrite(str(folder / f"{seed}.png"), make_photo(seed))
    return folder


def export(*words: object) -> None:
    to_trt.main([str(word) for word in words])


def test_a_global_network_becomes_an_engine_that_searches(
    photos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs, engine = write_network(tmp_path / "megaloc.onnx"), tmp_path / "out" / "engine.onnx"
    export(theirs, "--global", "--out", engine)
    printed = capsys.readouterr().out
    assert "photos stretched to 64×64, antialiased; mean 0.485 0.456 0.406, std 0.229 0.224 0.225" in printed
    assert printed.count("global descriptor  cosine 1.000000") == 6
    assert sorted(file.name for file in engine.parent.iterdir()) == ["engine.json", "engine.onnx"]
    manifest = load_manifest(engine)
    assert (manifest.system, manifest.method, manifest.dimensions) == ("foreign", VECTORS, DIMENSIONS)
    assert (manifest.features, manifest.image_size, manifest.precision) == (None, 1024, "fp32")
    assert manifest.network["preprocessing"]["mean"] == list(IMAGENET_MEAN)  # type: ignore[index]
    assert list(manifest.network["files"]) == ["megaloc.onnx"]  # type: ignore[call-overload]
    onnx.checker.check_model(onnx.load(engine), full_check=True)
    with Retriever(engine, device="cpu") as retriever:
        retriever.add(photos)
        assert [retriever.search(photo)[0].id for photo in photos] == photos


def test_a_local_network_becomes_an_engine_that_searches(
    folder: Path, photos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs, engine = write_network(tmp_path / "theirs.onnx", LOCAL), tmp_path / "engine.onnx"
    export(theirs, "--local", *SIZES, "--features", 40, "--learn", folder, "--out", engine)
    printed = capsys.readouterr().out
    assert "descriptors: descriptors, 16 dimensions; positions: positions; scores: count" in printed
    assert "learned from 24 photos" in printed
    manifest = load_manifest(engine)
    assert (manifest.method, manifest.features, manifest.dimensions) == (ASMK, 40, DIMENSIONS)
    assert set(manifest.checksums) == {"engine.onnx", "engine.codebook.npy"}
    onnx.checker.check_model(onnx.load(engine), full_check=True)
    with Retriever(engine, device="cpu") as retriever:
        retriever.add(photos)
        assert [retriever.search(photo)[0].id for photo in photos] == photos
        for photo in photos:  # sixteen random bits agree by chance, too
            assert photo in [hit.id for hit in retriever.search(photo, rerank="spatial", top=2)]


def test_positions_are_pixels_of_the_photo_and_the_strongest_come_first(folder: Path, tmp_path: Path) -> None:
    """Of a photo that is enlarged before it enters the network, whose pixels are then smaller."""
    theirs, engine = write_network(tmp_path / "theirs.onnx", LOCAL), tmp_path / "engine.onnx"
    export(theirs, "--local", *SIZES, "--learn", folder, "--no-whiten", "--out", engine)
    photo = np.zeros((32, 48, 3), np.uint8)
    photo[20:24, 40:44] = 255
    local = open_engine(engine, "cpu").extract(photo).need_local()
    assert len(local) < KEYPOINTS  # a score of 0 is no feature
    assert local.strengths[0] == 1
    assert (np.diff(local.strengths) <= 0).all()
    # 64×64 is what the network gets: the cell of 8×8 that the square falls into, in pixels of the photo.
    np.testing.assert_allclose(local.positions[0], [(52.5 * 48 / 64) - 0.5, (44.5 * 32 / 64) - 0.5, 1], atol=4)


def test_columns_without_scores_and_bytes_are_taken_as_they_are(folder: Path, tmp_path: Path) -> None:
    theirs, engine = write_network(tmp_path / "theirs.onnx", COLUMNS), tmp_path / "engine.onnx"
    export(theirs, "--local", *SIZES, "--learn", folder, "--no-whiten", "--out", engine)
    image = textures()[0][:96, :128]
    local = open_engine(engine, "cpu").extract(np.ascontiguousarray(image)).need_local()
    given = open_network(theirs).run(np.ascontiguousarray(image))
    np.testing.assert_allclose(local.descriptors, given["columns"][0].T, atol=1e-5)
    np.testing.assert_allclose(local.positions[:, :2], given["positions"][0])
    assert (local.strengths == 1).all()


def test_words_of_an_earlier_export_bring_their_whitening(folder: Path, tmp_path: Path) -> None:
    theirs, first, second = write_network(tmp_path / "theirs.onnx", LOCAL), tmp_path / "a.onnx", tmp_path / "b.onnx"
    export(theirs, "--local", *SIZES, "--learn", folder, "--out", first)
    words = EngineFiles.of(first).codebook
    export(theirs, "--local", *SIZES, "--codebook", words, "--out", second)
    assert load_manifest(second).fingerprint == load_manifest(first).fingerprint
    first.unlink()
    with pytest.raises(HowlError, match=r"a\.onnx: no such file: the engine that .*a\.codebook\.npy belongs to"):
        export(theirs, "--local", *SIZES, "--codebook", words, "--out", second)


@pytest.mark.parametrize("opset", [9, 11, 13, 17, 20])
@pytest.mark.parametrize("flag", ["--antialias", "--no-antialias"])
def test_every_opset_is_wrapped(opset: int, flag: str, tmp_path: Path) -> None:
    theirs = write_network(tmp_path / "theirs.onnx", opset=opset)
    export(theirs, "--global", flag, "--out", tmp_path / "engine.onnx")


@pytest.mark.parametrize("opset", [11, 13, 17])
def test_any_number_of_keypoints_fills_the_rows(opset: int, folder: Path, tmp_path: Path) -> None:
    theirs, engine = write_network(tmp_path / "theirs.onnx", ANY_NUMBER, opset=opset), tmp_path / "engine.onnx"
    export(theirs, "--local", "--learn", folder, "--features", 200, "--no-whiten", "--out", engine)
    session = OnnxSession(engine, "cpu")
    for side, count in ((64, 64), (128, 200)):
        given = session.run(session.outputs, {"image": np.ascontiguousarray(textures()[0][:side, :side])})
        assert given["count"].tolist() == [count]
        assert given["descriptors"].shape == (200, DIMENSIONS)
        assert given["positions"].shape == (200, 3)


def test_fp16_is_taken_and_wider_tolerances_with_it(tmp_path: Path) -> None:
    theirs = write_network(tmp_path / "theirs.onnx", type="float16")
    export(theirs, "--global", "--out", tmp_path / "engine.onnx")
    assert load_manifest(tmp_path / "engine.onnx").precision == "fp16"


@pytest.mark.parametrize("size", [(64, 96), (300, 200)], ids=["shrunk", "enlarged"])
def test_antialiased_is_what_pillow_does_and_bilinear_what_opencv_does(size: tuple[int, int]) -> None:
    image = textures()[2][:190, :130].astype(np.float32)
    for antialias in (True, False):
        ours = image.astype(np.float64)
        for axis, side in enumerate(size):
            ours = resize_axis(ours, axis, side, antialias=antialias)
        if antialias:
            planes = [Pillow.fromarray(image[..., c]).resize(size[::-1], Pillow.Resampling.BILINEAR) for c in range(3)]
            theirs = np.stack([np.asarray(plane) for plane in planes], axis=-1)
        else:
            theirs = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
        np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_graphs_inside_nodes_keep_their_meaning(tmp_path: Path) -> None:
    """An ``If`` whose branches take values from outside."""
    value, then, otherwise = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in ("descriptor", "a", "b")
    )
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"], axis=1),
        helper.make_node("ReduceMax", ["flat"], ["largest"], keepdims=0),
        helper.make_node("Constant", [], ["zero"], value_float=0.0),
        helper.make_node("Greater", ["largest", "zero"], ["positive"]),
        helper.make_node(
            "If",
            ["positive"],
            ["descriptor"],
            then_branch=helper.make_graph([helper.make_node("Neg", ["flat"], ["a"])], "then", [], [then]),
            else_branch=helper.make_graph([helper.make_node("Abs", ["flat"], ["b"])], "else", [], [otherwise]),
        ),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, "h", "w"])
    graph = helper.make_graph(nodes, "their", [image], [value])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "theirs.onnx")
    export(tmp_path / "theirs.onnx", "--global", "--out", tmp_path / "engine.onnx")


def test_weights_beside_the_graph_end_in_the_one_file(tmp_path: Path, photos: list[str]) -> None:
    theirs = write_network(tmp_path / "theirs.onnx")
    onnx.save(onnx.load(theirs), theirs, save_as_external_data=True, location="theirs.data", size_threshold=0)
    export(theirs, "--global", "--out", tmp_path / "out" / "engine.onnx")
    assert list(load_manifest(tmp_path / "out" / "engine.onnx").network["files"]) == [  # type: ignore[call-overload]
        "theirs.data",
        "theirs.onnx",
    ]
    (tmp_path / "theirs.data").unlink()
    open_engine(tmp_path / "out" / "engine.onnx", "cpu").extract(textures()[0])
    with pytest.raises(HowlError, match=r"theirs\.onnx: the file of its weights cannot be read \(.*theirs\.data"):
        export(theirs, "--global", "--out", tmp_path / "out" / "engine.onnx")


def test_file_and_preprocessing_decide_the_fingerprint(tmp_path: Path) -> None:
    def fingerprint(theirs: Path, *words: str) -> str:
        export(theirs, "--global", "--out", tmp_path / "engine.onnx", *words)
        return load_manifest(tmp_path / "engine.onnx").fingerprint

    one, other = write_network(tmp_path / "a.onnx"), write_network(tmp_path / "b.onnx", opset=18)
    renamed = write_network(tmp_path / "c.onnx")
    first = fingerprint(one)
    assert fingerprint(renamed) == first
    changed = [fingerprint(one, *words) for words in (["--mean", "0", "0", "0"], ["--no-antialias"])]
    assert len({first, *changed, fingerprint(other)}) == 4


def test_an_engine_that_differs_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, engine = write_network(tmp_path / "theirs.onnx"), tmp_path / "engine.onnx"
    engine.write_text("an earlier engine")
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    wrong = Preprocessing((64, 64), 1, 32, antialias=False, mean=(0.5, 0.5, 0.5), std=IMAGENET_STD)
    write_engine = exporter.write_engine
    monkeypatch.setattr(
        exporter, "write_engine", lambda path, network, _, *rest: write_engine(path, network, wrong, *rest)
    )
    with pytest.raises(ParityError, match=r"engine\.onnx: differs from .*theirs\.onnx by itself beyond the tolerance"):
        export(theirs, "--global", "--out", engine)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_pytorch_is_not_needed(tmp_path: Path, run_python: Callable) -> None:
    theirs = write_network(tmp_path / "theirs.onnx")
    code = "import sys; from export import to_trt; to_trt.main(sys.argv[1:]); assert 'torch' not in sys.modules"
    ran = run_python(code, theirs, "--global", "--out", tmp_path / "engine.onnx")
    assert ran.returncode == 0, ran.stderr


POOLED = "{ pooled = GlobalAveragePool (image) flat = Flatten (pooled) descriptor = Identity (flat) }"


@pytest.mark.parametrize(
    ("inputs", "outputs", "body", "line"),
    [
        ("float[1, 1, h, w] image", "float[1, 1] descriptor", POOLED, "[1, 1, ?, ?]: no RGB image"),
        ("float[8, 3, h, w] image", "float[8, 3] descriptor", POOLED, "8 images at once; export it for one"),
        ("int64[1, 3, h, w] image", "int64[1, 3, h, w] map", "{ map = Neg (image) }", "not float32, float16 or uint8"),
        ("float[1, 3] image", "float[1, 3] map", "{ map = Neg (image) }", "one image is [1, 3, height, width]"),
        (
            "float[1, 3, h, w] image, float[1] size",
            "float[1, 3] descriptor",
            POOLED.replace("Identity (flat)", "Add (flat, size)"),
            "takes 2 inputs (image, size)",
        ),
        (
            "float[1, 3, h, w] image",
            "float[1, 3, h, w] map",
            "{ map = Neg (image) }",
            "gives no global descriptor, [1, G], but map [1, 3, 360, 480]; is it --local?",
        ),
        (
            "float[1, 3, h, w] image",
            "float[1, 3] flat, float[1, 3] descriptor",
            POOLED,
            "gives flat [1, 3], descriptor [1, 3]: name the global descriptor, --descriptors NAME",
        ),
        (
            "float[1, 3, h, w] image",
            "float[1, n] descriptor",
            "{ descriptor = Flatten (image) }",
            "a descriptor has 518400 dimensions",
        ),
        (
            "float[1, 3, h, w] image",
            "float[1, n] descriptor",
            "{ first = Gather <axis = 1> (image, two) second = ReduceMax <axes = [2], keepdims = 0> (first) "
            "descriptor = Flatten (second) }",
            "360 dimensions of one photo and 480 of another; name the size that it was made for, --input HxW",
        ),
    ],
    ids=["grey", "a batch", "whole numbers", "a vector", "two inputs", "a map", "two descriptors", "large", "dynamic"],
)
def test_a_network_that_howl_cannot_use_is_refused(
    inputs: str, outputs: str, body: str, line: str, tmp_path: Path
) -> None:
    constants = "<int64 two = {2}>" if "two" in body else ""
    graph = f'<ir_version: 8, opset_import: ["" : 17]> their ({inputs}) => ({outputs}) {constants} {body}'
    theirs = tmp_path / "theirs.onnx"
    onnx.save(onnx.parser.parse_model(graph), theirs)
    with pytest.raises(IncompatibleError) as error:
        export(theirs, "--global", "--out", tmp_path / "engine.onnx")
    assert str(error.value).startswith(f"{theirs}: ")
    assert line in str(error.value)
    assert list(tmp_path.iterdir()) == [theirs]


@pytest.mark.parametrize(
    ("code", "words", "line"),
    [
        (1, ["missing.onnx", "--global"], "missing.onnx: no such file"),
        (1, ["text.onnx", "--global"], "text.onnx: not an ONNX file, or damaged; name the network's .onnx"),
        (2, ["theirs.onnx"], "theirs.onnx: a third party's network? say what it gives, --global or --local"),
        (2, ["theirs.onnx", "--global", "--local"], "say what it gives, --global or --local"),
        (2, ["theirs.onnx", "--local"], "name photos to learn them from, --learn DIR"),
        (2, ["theirs.onnx", "--global", "--learn", "d"], "--learn is for --local"),
        (2, ["theirs.onnx", "--global", "--input", "322"], "--input 322x322: theirs.onnx takes 64×64"),
        (2, ["theirs.onnx", "--global", "--input", "big"], "--input big: needs a size in pixels"),
        (2, ["theirs.onnx", "--global", "--multiple", "14"], "--multiple 14: theirs.onnx takes 64×64 only"),
        (2, ["theirs.onnx", "--global", "--mean", "127", "127", "127"], "--mean 127 127 127: is for pixels in 0…1"),
        (2, ["theirs.onnx", "--global", "--out", "theirs.onnx"], "--out theirs.onnx: would replace the network"),
        (2, ["theirs.onnx", "--global", "--out", "e.plan"], "--out e.plan: name an engine.onnx"),
        (
            2,
            ["theirs.onnx", "--global", "--descriptors", "x"],
            "theirs.onnx has no such output; it has descriptor [1, 16]",
        ),
        (1, ["theirs.onnx", "--local", "--learn", "photos"], "gives no positions, [K, 2], but descriptor [1, 16]"),
        (1, ["theirs.onnx", "--global", "--photos", "no"], "no: no such file or folder"),
        (1, ["local.onnx", "--local", "--learn", "photos"], "--multiple N and --smallest N"),
        (1, ["local.onnx", "--local", *SIZES, "--codebook", "words.npy"], "words.npy: visual words of 8 dimensions"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(
    code: int,
    words: list[str],
    line: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_network(Path("theirs.onnx"))
    write_network(Path("local.onnx"), LOCAL)
    Path("text.onnx").write_text("no graph")
    Codebook(np.eye(8, dtype=np.float32)).save(Path("words.npy"))
    before = sorted(tmp_path.rglob("*"))
    assert run_command(lambda _: to_trt.main(words)) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert line in error
    assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_xfeat_goes_the_whole_way(lighterglue: Path, folder: Path, photos: list[str], tmp_path: Path) -> None:
    """Published weights, in a file that gives positions, scores and descriptors for sides of multiples of 32."""
    theirs, engine = lighterglue.with_name("matcher.keypoints.onnx"), tmp_path / "engine.onnx"
    sizes = ["--multiple", "32", "--smallest", "64", "--image-size", "128"]
    export(theirs, "--local", *sizes, "--learn", folder, "--no-whiten", "--out", engine)
    with Retriever(engine, device="cpu") as retriever:
        retriever.add(photos)
        assert [retriever.search(photo)[0].id for photo in photos] == photos


def test_the_options_name_the_files() -> None:
    options = ForeignOptions(Path("a.onnx"), global_=True, out=Path("b/c.onnx"), input="480x640")
    assert (options.files, options.input_size()) == (EngineFiles(Path("b/c")), (480, 640))
