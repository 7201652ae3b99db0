"""The manifest: what it keeps, and how it finds files that do not belong together."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.asmk.codebook import Codebook
from runtime.asmk.kernel import AsmkKernel, AsmkParameters
from runtime.bundle import VERSION, EngineFiles, Manifest, file_checksum, load_first_stage, load_manifest
from runtime.errors import HowlError, UsageError
from runtime.first_stage import VECTORS, Layout


def refusal(action: Callable[[], object]) -> str:
    with pytest.raises(HowlError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rewrite(path: Path, **changes: Any) -> None:
    """Changes entries of a manifest; None takes one away."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    manifest = Manifest(
        fingerprint="abc",
        system="how",
        method="asmk",
        image_size=1024,
        scales=(1.414, 1.0, 0.707),
        features=1000,
        dimensions=128,
        asmk=AsmkParameters(alpha=2.5, threshold=0.25, multiple_assignment=3),
        network={"backbone": "resnet18", "graph": {"nodes": 10}},
        precision="fp16",
        checksums={"engine.onnx": "00ff"},
        plan={"flavour": "tensorrt", "version": "11.4"},
    )
    path = tmp_path / "new folder" / "engine.json"
    manifest.save(path)
    assert Manifest.load(path) == manifest


@pytest.mark.parametrize("name", ["engine.onnx", "engine.plan"])
def test_all_files_of_an_engine_lie_side_by_side(tmp_path: Path, name: str) -> None:
    engine = tmp_path / name
    files = EngineFiles.of(engine)
    assert (files.onnx, files.plan) == (tmp_path / "engine.onnx", tmp_path / "engine.plan")
    assert files.manifest == tmp_path / "engine.json"
    assert files.codebook == tmp_path / "engine.codebook.npy"
    assert files.index == tmp_path / "engine.index"
    assert files.index_of("r1m") == tmp_path / "engine.r1m.index"


def test_a_name_with_dots_stays_whole() -> None:
    assert EngineFiles.of(Path("a.v2.onnx")).manifest == Path("a.v2.json")


def load_checked(engine: Path) -> None:
    """Loads all that belongs to an engine."""
    load_first_stage(engine, load_manifest(engine))


def manifest_path(engine: Path) -> Path:
    return EngineFiles.of(engine).manifest


def codebook_path(engine: Path) -> Path:
    return EngineFiles.of(engine).codebook


def test_an_engine_as_exported_is_accepted(engine: Path) -> None:
    manifest = load_manifest(engine)
    assert manifest == Manifest.load(manifest_path(engine))
    first_stage = load_first_stage(engine, manifest, threshold=0.5, alpha=2)
    assert isinstance(first_stage, AsmkKernel)
    assert first_stage.codebook.dimensions == manifest.dimensions
    assert first_stage.parameters == AsmkParameters(alpha=2, threshold=0.5)
    assert str(first_stage) == "τ = 0.5, α = 2"


def test_an_engine_of_global_descriptors_needs_no_codebook(engine: Path) -> None:
    rewrite(manifest_path(engine), method="vectors", dimensions=7)
    codebook_path(engine).unlink()
    manifest = load_manifest(engine)
    assert load_first_stage(engine, manifest).layout == Layout(VECTORS, 7)
    with pytest.raises(UsageError, match="searches by vectors, which has no alpha; leave it out"):
        load_first_stage(engine, manifest, alpha=2)


def test_a_method_of_a_later_howl_is_named(engine: Path) -> None:
    rewrite(manifest_path(engine), method="telepathy")
    assert "searches by telepathy, which this howl does not know" in refusal(lambda: load_checked(engine))


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def train_another(file: Path) -> None:
    codebook = Codebook.load(file)
    Codebook(codebook.centroids + 1).save(file)


@pytest.mark.parametrize(
    ("which", "change"),
    [(lambda e: e, flip_a_bit), (codebook_path, flip_a_bit), (codebook_path, train_another)],
    ids=["engine damaged", "codebook damaged", "another codebook"],
)
def test_a_mismatch_names_both_files(engine: Path, which: Callable, change: Callable) -> None:
    file = which(engine)
    change(file)
    line = refusal(lambda: load_checked(engine))
    assert str(file) in line
    assert str(manifest_path(engine)) in line
    assert "export the checkpoint again" in line


def test_an_engine_that_the_manifest_does_not_know_is_refused(engine: Path) -> None:
    plan = engine.with_suffix(".plan")
    plan.write_bytes(b"a plan from elsewhere")
    line = refusal(lambda: load_checked(plan))
    assert line.startswith(f"{manifest_path(engine)} does not know {plan}: it was written for engine.onnx")


@pytest.mark.parametrize(
    ("which", "remedy"),
    [
        (lambda e: e, "howl export ckpt.pt"),
        (manifest_path, "export the checkpoint again"),
        (codebook_path, "No such file"),
    ],
    ids=["engine", "manifest", "codebook"],
)
def test_a_missing_file_is_named(engine: Path, which: Callable, remedy: str) -> None:
    which(engine).unlink()
    line = refusal(lambda: load_checked(engine))
    assert str(which(engine)) in line
    assert remedy in line


@pytest.mark.parametrize(
    "content",
    [b"", b"no JSON", b"[1, 2]", b"{}", b'{"format": "another", "version": 2}', b'{"format": "howl engine"}',
     b'{"format": "howl engine", "version": "one"}', b'{"format": "howl engine", "version": 2}', b"\xff\xfe"],
)  # fmt: skip
def test_a_file_that_is_no_manifest_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "engine.json"
    path.write_bytes(content)
    assert refusal(lambda: Manifest.load(path)).startswith(f"{path}: ")


@pytest.mark.parametrize(
    "changes",
    [
        *({"fingerprint": None}, {"method": None}, {"asmk": [1]}, {"asmk": {"beta": 1}}, {"scales": 5}, {"surplus": 1}),
        *({"image_size": size} for size in (0, -5, 31, 10**9, "720", 720.0, float("nan"), True, [720])),
        *({"scales": scales} for scales in ([], [0], [-1.0], [float("nan")], [float("inf")], ["1"], [1e9])),
        *({"dimensions": 0}, {"dimensions": "128"}, {"features": -1}, {"features": 1.5}, {"precision": 32}),
        *({"asmk": {"alpha": alpha}} for alpha in (0, -1, 10**400, float("nan"), float("inf"), "3")),
        {"method": "asmk" * 1000},
        *({"asmk": {"threshold": float("nan")}}, {"asmk": {"multiple_assignment": 2.5}}),
        *({"network": 5}, {"checksums": [1]}, {"checksums": {"engine.onnx": 5}}, {"plan": "a plan"}),
    ],
    ids=str,
)
def test_missing_and_unknown_entries_are_refused(engine: Path, changes: dict[str, Any]) -> None:
    path = manifest_path(engine)
    rewrite(path, **changes)
    line = refusal(lambda: Manifest.load(path))
    assert line.startswith(f"{path}: damaged (")
    assert line.endswith("export the checkpoint again")


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"image_size": ' + b"9" * 5000 + b"}"], ids=["deep", "huge"])
def test_wild_json_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "engine.json"
    path.write_bytes(content)
    assert refusal(lambda: Manifest.load(path)) == f"{path}: not readable as JSON; export the checkpoint again"


@pytest.mark.parametrize("name", ["alpha", "threshold"])
def test_a_parameter_of_the_search_is_a_number(engine: Path, name: str) -> None:
    manifest = load_manifest(engine)
    with pytest.raises(UsageError, match=f"{name} is nan"):
        load_first_stage(engine, manifest, **{name: float("nan")})


def test_a_newer_manifest_is_refused(engine: Path) -> None:
    path = manifest_path(engine)
    rewrite(path, version=VERSION + 1)
    assert refusal(lambda: Manifest.load(path)) == f"{path}: written by a newer howl; update howl"


def test_an_earlier_manifest_is_refused(engine: Path) -> None:
    path = manifest_path(engine)
    rewrite(path, version=1)
    assert refusal(lambda: Manifest.load(path)) == f"{path}: written by an earlier howl; export the checkpoint again"


def test_the_checksum_is_sha_256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert file_checksum(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
