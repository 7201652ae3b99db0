"""Engines joined: what each part finds still counts, nothing else does, and what does not go together is refused."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from export import joining, to_joined, to_trt
from export.joining import Placement, join_engines, placements, turned_into
from runtime.asmk.codebook import Codebook, learn_codebook
from runtime.asmk.kernel import AsmkParameters, aggregate
from runtime.bundle import Manifest, file_checksum, load_first_stage, load_manifest
from runtime.encoder import Encoder
from runtime.engine import open_engine
from runtime.errors import HowlError, ParityError
from runtime.io.cli import run_command
from runtime.io.image import load_rgb
from runtime.matching import EngineDetector
from runtime.retriever import Retriever

from .foreign_networks import ANY_NUMBER, DIMENSIONS, LOCAL, write_network

PHOTOS = 24


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``a.onnx`` and ``b.onnx``, of different opsets, learned from the photos beside them."""
    folder = tmp_path_factory.mktemp("engines")
    (folder / "photos").mkdir()
    for seed in range(PHOTOS):
        coarse = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
        photo = cv2.resize(coarse, (128, 96), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / "photos" / f"{seed}.png"), photo)
    a, b = write_network(folder / "a.their.onnx", LOCAL), write_network(folder / "b.their.onnx", ANY_NUMBER, opset=11)
    for theirs, name, *words in ((a, "a", "--multiple", "8", "--smallest", "64"), (b, "b", "--features", "300")):
        shared = ["--local", "--learn", str(folder / "photos"), "--no-whiten", "--image-size", "128"]
        to_trt.main([str(theirs), *shared, *words, "--out", str(folder / f"{name}.onnx")])
    return folder


def photos_of(folder: Path) -> list[str]:
    return [str(folder / "photos" / f"{number}.png") for number in range(PHOTOS)]


def test_a_joined_engine_counts_what_any_part_finds_again(
    engines: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its scores are those of its parts' kernels, summed before they are divided by the numbers of words."""
    joined = tmp_path / "out" / "joined.onnx"
    to_joined.main([str(engines / "a.onnx"), str(engines / "b.onnx"), "--out", str(joined)])
    assert capsys.readouterr().out.count("equal 100.00%") == 6
    assert sorted(file.name for file in joined.parent.iterdir()) == [
        "joined.codebook.npy",
        "joined.json",
        "joined.onnx",
    ]
    parts, photos = [engines / "a.onnx", engines / "b.onnx"], photos_of(engines)[:6]
    kernels = [load_first_stage(part, load_manifest(part)) for part in parts]
    runners = [open_engine(part, "cpu") for part in parts]
    features = [[runner.extract(load_rgb(photo)) for runner in runners] for photo in photos]
    with Retriever(joined, device="cpu") as retriever:
        retriever.add(photos)
        for query, of_query in zip(photos, features, strict=True):
            found = {hit.id: hit.score for hit in retriever.search(query, top=6)}
            for photo, of_photo in zip(photos, features, strict=True):
                assert found.get(photo, 0) == pytest.approx(score(kernels, of_query, of_photo), rel=1e-5, abs=1e-9)


def score(kernels: list, query: list, photo: list) -> float:
    """ASMK over the words of several kinds, one kind after the other."""
    total, of_query, of_photo = 0.0, 0, 0
    for kernel, asked, stored in zip(kernels, query, photo, strict=True):
        codes, image = kernel.encode_query(asked), kernel.encode_database(stored)
        total += kernel.shared_words(codes, image).weights.sum()
        of_query, of_photo = of_query + len(codes.words), of_photo + len(image.words)
    return float(total / np.sqrt(of_query * of_photo))


def test_the_manifest_says_what_was_joined(engines: Path, tmp_path: Path) -> None:
    manifest = join_engines([engines / "a.onnx", engines / "b.onnx"], tmp_path / "j.onnx")
    assert (manifest.system, manifest.features, manifest.dimensions) == ("joined", 1300, DIMENSIONS)
    assert (manifest.image_size, manifest.scales, manifest.precision) == (128, (1.0,), "fp32")
    parts = [load_manifest(engines / f"{name}.onnx").fingerprint for name in "ab"]
    assert list(manifest.network["kinds"]) == parts  # type: ignore[call-overload]
    assert manifest.kinds == 2
    words = [len(Codebook.load(engines / f"{name}.codebook.npy")) for name in "ab"]
    assert len(Codebook.load(tmp_path / "j.codebook.npy")) == sum(words)
    other = join_engines([engines / "b.onnx", engines / "a.onnx"], tmp_path / "k.onnx")
    assert manifest.fingerprint != other.fingerprint
    assert join_engines([engines / "a.onnx", engines / "b.onnx"], tmp_path / "l.onnx") == replace(
        manifest, checksums=load_manifest(tmp_path / "l.onnx").checksums
    )


def test_functions_of_a_graph_are_kept(engines: Path, tmp_path: Path) -> None:
    """As PyTorch's exporter writes them: two graphs may call different ones by the same name."""
    for name, factor in (("c", 2.0), ("d", 3.0)):
        model = onnx.load(engines / "b.onnx")
        text = f"""<opset_import: ["" : 11], domain: "own"> scale (x) => (y)
            {{ factor = Constant <value = float {{{factor}}}> () y = Mul (x, factor) }}"""
        model.functions.append(onnx.parser.parse_function(text))
        model.opset_import.append(onnx.helper.make_opsetid("own", 1))
        scaled = onnx.helper.make_node("scale", ["descriptors"], ["scaled"], domain="own")
        model.graph.node.append(scaled)
        model.graph.output[0].name = "scaled"
        for node in model.graph.node:
            renamed = {"descriptors": "unscaled", "scaled": "descriptors"}
            node.input[:] = [renamed.get(value, value) for value in node.input]
            node.output[:] = [renamed.get(value, value) for value in node.output]
        model.graph.output[0].name = "descriptors"
        onnx.save(model, tmp_path / f"{name}.onnx")
        words = Codebook.load(engines / "b.codebook.npy").centroids
        Codebook(np.float32(factor) * words).save(tmp_path / f"{name}.codebook.npy")
        files = [tmp_path / f"{name}{suffix}" for suffix in (".onnx", ".codebook.npy")]
        manifest = replace(Manifest.load(engines / "b.json"), fingerprint=name, kinds=1)
        replace(manifest, checksums={file.name: file_checksum(file) for file in files}).save(tmp_path / f"{name}.json")
    join_engines([tmp_path / "c.onnx", tmp_path / "d.onnx"], tmp_path / "cd.onnx")  # which proves it


def test_a_joined_engine_can_be_joined_again(engines: Path, tmp_path: Path) -> None:
    """But not with what it has already."""
    joined = tmp_path / "ab.onnx"
    (tmp_path / "c").mkdir()
    join_engines([engines / "a.onnx", engines / "b.onnx"], joined)
    other = changed(engines, tmp_path / "c", fingerprint="of another network")
    again = join_engines([joined, other], tmp_path / "abc.onnx")
    assert (again.features, again.kinds, len(again.network["kinds"])) == (1600, 3, 3)  # type: ignore[arg-type]
    with pytest.raises(HowlError, match=r"ab\.onnx and .*a\.onnx: give the same features; name different engines"):
        join_engines([joined, engines / "a.onnx"], tmp_path / "aba.onnx")


@pytest.mark.parametrize("dimensions", [[16, 16], [16, 5], [4, 16, 32]])
def test_words_of_different_kinds_are_never_the_nearest(dimensions: list[int]) -> None:
    """Each descriptor's words are its own kind's, in the same order, at scales and around centres of any kind."""
    random = np.random.default_rng(len(dimensions))
    kinds = [(100.0**n * random.normal(size=(400, d)) + 7 * n).astype(np.float32) for n, d in enumerate(dimensions)]
    books = [learn_codebook(kind, 8, seed=0) for kind in kinds]
    placed = placements(books)
    together = Codebook(np.concatenate([place(book.centroids) for place, book in zip(placed, books, strict=True)]))
    assert together.dimensions == max(dimensions)
    first = 0
    for kind, book, place in zip(kinds, books, placed, strict=True):
        words = together.assign(place(kind), len(book))
        assert (words[:, 0] - first == book.assign(kind, 1)[:, 0]).mean() > 0.99  # a tie may turn
        assert set(words.ravel()) == set(range(first, first + len(book)))
        first += len(book)
    by_kind = Codebook(together.centroids, kinds=len(books))  # which compares a descriptor with its own kind's only
    every = np.concatenate([place(kind) for place, kind in zip(placed, kinds, strict=True)])
    order = np.random.default_rng(0).permutation(len(every))
    for m in (1, 5, 9):  # of eight words a kind
        differ = by_kind.assign(every[order], m) != together.assign(every[order], m)
        assert differ.mean() < 0.01  # a tie may turn


def test_codes_stay_what_they_were() -> None:
    descriptors, others = np.random.default_rng(0).normal(size=(2, 300, 32)).astype(np.float32)
    book = learn_codebook(others, 8, seed=0)  # of its own descriptors, residuals sum up to 0
    place, words = Placement.of_words(book, 32, place=-3), book.assign(descriptors, 1)
    before = aggregate(descriptors, words, book.centroids)
    after = aggregate(place(descriptors), words, place(book.centroids))
    assert (before.codes == after.codes).all()


def test_turning_keeps_lengths_and_angles() -> None:
    turned = turned_into(5, 64)
    np.testing.assert_allclose(turned @ turned.T, np.eye(5), atol=1e-12)


def test_signs_in_more_dimensions_tell_the_angle() -> None:
    """The share of different signs is the angle over π (Charikar, STOC 2002)."""
    a, b = np.random.default_rng(1).normal(size=(2, 4))
    angle = np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    turned = turned_into(4, 4096)
    assert ((a @ turned > 0) != (b @ turned > 0)).mean() == pytest.approx(angle / np.pi, abs=0.03)


def changed(engines: Path, folder: Path, **changes: object) -> Path:
    """A copy of ``b`` with another manifest."""
    for suffix in (".onnx", ".codebook.npy"):
        (folder / f"c{suffix}").write_bytes((engines / f"b{suffix}").read_bytes())
    manifest = Manifest.load(engines / "b.json")
    checksums = {name.replace("b.", "c."): value for name, value in manifest.checksums.items()}
    replace(manifest, checksums=checksums, **changes).save(folder / "c.json")  # type: ignore[arg-type]
    return folder / "c.onnx"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"image_size": 96},
            r"a\.onnx and .*c\.onnx: take photos of 128 and 96 pixels; export one again: --image-size 128",
        ),
        ({"asmk": AsmkParameters(threshold=0.25)}, r"a\.onnx and .*c\.onnx: compare photos with α = 3, τ = 0 and"),
        (
            {"asmk": AsmkParameters(multiple_assignment=10**6)},
            r"c\.onnx: has \d+ visual words, and a query takes 1000000",
        ),
        (
            {"kinds": 2, "dimensions": 8},
            r"c\.onnx: joined, with fewer dimensions than another; join all at once",
        ),
        ({"method": "vectors"}, r"c\.onnx: searches by vectors; engines with visual words can be joined"),
    ],
)
def test_what_does_not_go_together_is_refused(engines: Path, tmp_path: Path, changes: dict, line: str) -> None:
    other = changed(engines, tmp_path, **changes)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(HowlError, match=line):
        join_engines([engines / "a.onnx", other], tmp_path / "joined.onnx")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["a.onnx"], r"a\.onnx: name two engines at least"),
        (["a.onnx", "a.onnx"], r"a\.onnx and a\.onnx: give the same features; name different engines"),
        (["a.onnx", "missing.onnx"], r"missing\.onnx: no such engine"),
        (["a.onnx", "b.plan"], r"b\.plan: graphs are joined; name b\.onnx"),
        (
            ["a.onnx", "b.onnx", "--out", "b.onnx"],
            r"--out b\.onnx: would take the place of an engine that is joined; name another",
        ),
        (["a.onnx", "b.onnx", "--out", "j.plan"], r"--out j\.plan: joined engines are graphs; name an engine\.onnx"),
        (["a.onnx", "b.onnx", "--photos", "nowhere"], "nowhere: no such"),
        (["a.onnx", "photos"], r"photos: an engine is an \.onnx"),
        (["a.onnx", "a.their.onnx"], r"a\.their\.json: missing, .* howl export a\.their\.onnx --local makes one"),
    ],
)
def test_bad_arguments_end_in_a_line(
    words: list[str], line: str, engines: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(engines)
    before = {file: file.read_bytes() for file in engines.iterdir() if file.is_file()}
    assert run_command(lambda _: to_joined.main(words)) in (1, 2)
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert re.search(line, printed), printed
    assert {file: file.read_bytes() for file in engines.iterdir() if file.is_file()} == before


def test_matching_by_distance_sees_each_kind_from_its_own_middle(engines: Path, tmp_path: Path) -> None:
    """What RANSAC matches: as of the parts alone, centred, and the strongest of all kinds first."""
    join_engines([engines / "a.onnx", engines / "b.onnx"], tmp_path / "j.onnx")
    photo = photos_of(engines)[0]
    encoder = Encoder(tmp_path / "j.onnx", device="cpu")
    local, keypoints = encoder.extract(photo).need_local(), EngineDetector(encoder).detect(photo)
    order = np.argsort(-local.strengths, kind="stable")
    assert (keypoints.positions == local.positions[order, :2]).all()
    first = len(open_engine(engines / "a.onnx", "cpu").extract(load_rgb(photo)).need_local())
    for name, rows in (("a", order < first), ("b", order >= first)):
        own = open_engine(engines / f"{name}.onnx", "cpu").extract(load_rgb(photo)).need_local().descriptors
        own = own - Codebook.load(engines / f"{name}.codebook.npy").centroids.mean(axis=0)
        own -= own.mean(axis=1, keepdims=True)
        own /= np.linalg.norm(own, axis=1, keepdims=True)
        np.testing.assert_allclose(keypoints.descriptors[rows], own[order[rows] - (name == "b") * first], atol=1e-3)


def test_an_engine_that_differs_from_its_parts_is_not_kept(
    engines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    divided = joining.divided
    monkeypatch.setattr(joining, "divided", lambda *arguments: divided(*arguments)[::-1])
    with pytest.raises(ParityError, match=r"joined\.onnx: differs from its parts beyond the tolerance"):
        join_engines([engines / "a.onnx", engines / "b.onnx"], tmp_path / "joined.onnx")
    assert not list(tmp_path.iterdir())


def test_words_that_are_not_apart_are_found(engines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "APART", 0.5)
    with pytest.raises(ParityError, match="so far from its visual words that those of another engine are as near"):
        join_engines([engines / "a.onnx", engines / "b.onnx"], tmp_path / "joined.onnx")
    assert not list(tmp_path.iterdir())


def test_joining_needs_no_pytorch(engines: Path, tmp_path: Path, run_python: Callable) -> None:
    code = "import sys; from export import to_joined; to_joined.main(sys.argv[1:]); assert 'torch' not in sys.modules"
    ran = run_python(code, engines / "a.onnx", engines / "b.onnx", "--out", tmp_path / "joined.onnx")
    assert ran.returncode == 0, ran.stderr
