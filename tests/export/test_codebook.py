"""Visual words: the checkpoint's own, a file's, or learned from photos; each says what it is."""

import pickle
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from export.codebook import codebook_for
from export.to_trt import parse
from runtime.asmk.codebook import Codebook
from runtime.bundle import EngineFiles, Manifest
from runtime.errors import HowlError, UsageError
from train.checkpoint import Checkpoint
from train.data.synthetic import write_scenes

DIMENSIONS = 16  # of the fixture's network


@pytest.fixture
def loaded(checkpoint: Callable[..., Path]) -> Checkpoint:
    return Checkpoint.load(checkpoint())


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write_scenes(tmp_path / "photos", scenes=2, views=2, image_size=96, seed=0)
    return tmp_path / "photos"


def centroids(dimensions: int = DIMENSIONS) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(8, dimensions)).astype(np.float32)


def asmk_pickle(path: Path, content: np.ndarray) -> Path:
    """What asmk saves as ``codebook.pkl``."""
    state = {"type": "Codebook", "params": {"size": len(content)}, "state": {"centroids": content}}
    path.write_bytes(pickle.dumps(state))
    return path


def test_the_checkpoint_s_own_words_are_kept(loaded: Checkpoint) -> None:
    assert codebook_for(loaded, None) is loaded.codebook


def test_words_of_a_folder_and_what_it_says(
    loaded: Checkpoint, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "broken.jpg").write_bytes(b"no photo")
    learned = codebook_for(loaded, photos)
    assert learned.dimensions == DIMENSIONS
    printed = capsys.readouterr().out
    assert (
        f"{len(learned)} visual words, learned from 4 of 5 photos in {photos}; more photos give more words\n" in printed
    )
    assert "left out 1 unreadable photo:\n  " in printed
    assert "broken.jpg" in printed
    again = codebook_for(loaded, photos)
    np.testing.assert_array_equal(again.centroids, learned.centroids)


def test_fewer_photos_of_a_folder_give_fewer_words(
    loaded: Checkpoint, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(codebook_for(loaded, photos, 1)) < len(codebook_for(loaded, photos, 4))
    assert "learned from 1 of 4 photos in " in capsys.readouterr().out
    codebook_for(loaded, photos, 1)
    assert capsys.readouterr().out.endswith("; --codebook-photos takes more of them\n")


def test_without_any_words_made_scenes_stand_in_and_it_says_so(
    loaded: Checkpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded.codebook = Codebook(np.empty((0, DIMENSIONS), np.float32))
    assert len(codebook_for(loaded, None, scenes=2)) > 1
    printed = capsys.readouterr().out
    assert "learned from synthetic scenes" in printed
    assert "--codebook DIR" in printed
    assert printed.count("\n") == 1


def test_words_of_asmk_and_of_an_engine(loaded: Checkpoint, tmp_path: Path) -> None:
    Codebook(centroids()).save(tmp_path / "engine.codebook.npy")
    Codebook(centroids()).save(tmp_path / "ours.pkl")  # as runtime.asmk_method.method saves it at asmk's cache path
    asmk_pickle(tmp_path / "codebook.pkl", centroids())
    for path in (tmp_path / name for name in ("engine.codebook.npy", "ours.pkl", "codebook.pkl")):
        np.testing.assert_array_equal(codebook_for(loaded, path).centroids, centroids())


def test_words_of_another_system_are_refused_though_their_dimensions_fit(loaded: Checkpoint, tmp_path: Path) -> None:
    files = EngineFiles.of(tmp_path / "delf.onnx")
    Codebook(centroids()).save(files.codebook)
    Manifest("fingerprint", "delf", "asmk", 96, (1.0,), 50, DIMENSIONS, loaded.asmk, {}, "fp32").save(files.manifest)
    with pytest.raises(HowlError, match=r"delf\.codebook\.npy: visual words of delf, [^\n]* of how, or a folder"):
        codebook_for(loaded, files.codebook)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("other.pkl", "other.pkl: visual words of 8 dimensions, the network's descriptors have 16"),
        ("other.npy", "other.npy: visual words of 8 dimensions, the network's descriptors have 16"),
        ("missing.pkl", "missing.pkl: No such file or directory"),
        ("code.pkl", "code.pkl: refused: it asks for"),
        ("empty", "empty: no photos"),
        ("broken", "no readable photo to learn a codebook from"),
    ],
)
def test_what_holds_no_words_for_the_network_is_one_clear_error(
    name: str, line: str, loaded: Checkpoint, tmp_path: Path
) -> None:
    asmk_pickle(tmp_path / "other.pkl", centroids(8))
    Codebook(centroids(8)).save(tmp_path / "other.npy")
    (tmp_path / "code.pkl").write_bytes(pickle.dumps(print))
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    cv2.imwrite(str(tmp_path / "broken" / "a.png"), np.zeros((3, 3, 3), np.uint8))
    with pytest.raises(HowlError) as caught:
        codebook_for(loaded, tmp_path / name)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("codebook", [[], ["--codebook", "codebook.pkl"]])
def test_a_number_of_photos_without_a_folder_is_wrong_usage(codebook: list[str]) -> None:
    with pytest.raises(UsageError, match="--codebook-photos is for --codebook DIR"):
        parse(["ckpt.pt", "--codebook-photos", "9", *codebook])
