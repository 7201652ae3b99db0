"""``tools/index.py --import-asmk``: two pickles in, an index that needs no engine out."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from tools import index

D = 128


@pytest.fixture
def pickles(tmp_path: Path) -> tuple[Path, Path]:
    """What asmk saves: a codebook of three words, and two images with words 0, 2 and 2."""
    codebook, ivf = tmp_path / "codebook.pkl", tmp_path / "ivf.pkl"
    centroids = np.eye(3, D, dtype=np.float32)
    codebook.write_bytes(pickle.dumps({"type": "Codebook", "params": {"size": 3}, "state": {"centroids": centroids}}))
    code = np.arange(4, dtype=np.uint32)
    state = {
        "norm_factor": np.array([2.0, 1.0]),
        "n_images": 2,
        "ivf_vecs": [np.stack([code]), None, np.stack([code, code + 1])],
        "ivf_image_ids": [np.array([0]), None, np.array([0, 1])],
        "counts": np.array([1, 0, 2], np.int32),
        "idf": np.ones(3, np.float32),
        "imid_offset": 0,
    }
    ivf.write_bytes(pickle.dumps({"type": "IVF", "params": {"use_idf": False}, "state": state}))
    return codebook, ivf


def test_the_index_lies_beside_the_inverted_file(pickles: tuple[Path, Path], capsys: pytest.CaptureFixture) -> None:
    index.main(["--import-asmk", *map(str, pickles), "--verify"])
    made = pickles[1].with_suffix(".index")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"imported 2 images, 3 entries, from {pickles[1]} into {made}"
    assert lines[-1] == f"{made}: all well: 2 images, 3 entries, 1 segments"


def test_an_engine_has_no_part_in_it(pickles: tuple[Path, Path]) -> None:
    with pytest.raises(SystemExit) as caught:
        index.main(["engine.onnx", "--import-asmk", *map(str, pickles)])
    assert caught.value.code == 2
