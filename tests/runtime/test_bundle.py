"""The manifest: what it keeps, and how it finds files that do not belong together."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.asmk.codebook import Codebook
from runtime.asmk.kernel import AsmkParameters
from runtime.bundle import VERSION, Manifest, checksum, codebook_path, index_path, load_checked, manifest_path
from runtime.errors import HowlError


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
    assert manifest_path(engine) == tmp_path / "engine.json"
    assert codebook_path(engine) == tmp_path / "engine.codebook.npy"
    assert index_path(engine) == tmp_path / "engine.index"


def test_an_engine_as_exported_is_accepted(engine: Path) -> None:
    manifest, codebook = load_checked(engine)
    assert manifest == Manifest.load(manifest_path(engine))
    assert codebook.dimensions == manifest.dimensions


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
    ("which", "mend"),
    [
        (lambda e: e, "python export/to_trt.py"),
        (manifest_path, "export the checkpoint again"),
        (codebook_path, "No such file"),
    ],
    ids=["engine", "manifest", "codebook"],
)
def test_a_missing_file_is_named(engine: Path, which: Callable, mend: str) -> None:
    which(engine).unlink()
    line = refusal(lambda: load_checked(engine))
    assert str(which(engine)) in line
    assert mend in line


@pytest.mark.parametrize(
    "content",
    [b"", b"no JSON", b"[1, 2]", b"{}", b'{"format": "another", "version": 1}', b'{"format": "howl engine"}',
     b'{"format": "howl engine", "version": "one"}', b'{"format": "howl engine", "version": 1}', b"\xff\xfe"],
)  # fmt: skip
def test_a_file_that_is_no_manifest_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "engine.json"
    path.write_bytes(content)
    assert refusal(lambda: Manifest.load(path)).startswith(f"{path}: ")


@pytest.mark.parametrize(
    "changes",
    [{"fingerprint": None}, {"asmk": None}, {"asmk": [1]}, {"asmk": {"beta": 1}}, {"scales": 5}, {"surplus": 1}],
    ids=str,
)
def test_missing_and_unknown_entries_are_refused(engine: Path, changes: dict[str, Any]) -> None:
    path = manifest_path(engine)
    rewrite(path, **changes)
    line = refusal(lambda: Manifest.load(path))
    assert line.startswith(f"{path}: damaged (")
    assert line.endswith("export the checkpoint again")


def test_a_newer_manifest_is_refused(engine: Path) -> None:
    path = manifest_path(engine)
    rewrite(path, version=VERSION + 1)
    assert refusal(lambda: Manifest.load(path)) == f"{path}: written by a newer howl; update howl"


def test_the_digest_is_sha_256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert checksum(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
