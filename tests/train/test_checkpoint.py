"""Checkpoints: what goes in comes out, whole or not at all, and nobody's code is run."""

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from runtime.asmk.codebook import Codebook
from runtime.asmk.kernel import AsmkParameters
from runtime.errors import HowlError
from train.checkpoint import Checkpoint
from train.models.base import ExtractionConfig
from train.models.gem import GemConfig, GemNetwork
from train.models.how import HowConfig, HowNetwork

BIAS = "whitening.projection.bias"  # float32 [8]


@pytest.fixture
def checkpoint(tiny_config: HowConfig) -> Checkpoint:
    config = replace(tiny_config, smoothing="learned", bandwidth="shared", kernel=5, refine="graph")
    return Checkpoint(
        system="how",
        network=config,
        weights=HowNetwork(config).state_dict(),
        extraction=ExtractionConfig(image_size=96, scales=(1.0, 0.707), features=50),
        asmk=AsmkParameters(alpha=2.0, threshold=0.25, multiple_assignment=3),
        codebook=Codebook(np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)),
        training={"records": [{"epoch": 0, "loss": None}], "moments": torch.ones(2)},
    )


@pytest.fixture
def path(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    checkpoint.save(tmp_path / "ckpt.pt")
    return tmp_path / "ckpt.pt"


def change(path: Path, alter: Callable[[dict[str, Any]], object]) -> None:
    """Writes the file again with its content altered."""
    content = torch.load(path, weights_only=True)
    alter(content)
    torch.save(content, path)


@pytest.mark.parametrize("graph", [True, False])
def test_a_file_in_which_the_graph_was_a_setting_of_its_own_is_loaded(
    graph: bool, checkpoint: Checkpoint, path: Path
) -> None:
    def older(content: dict[str, Any]) -> None:
        del content["network"]["refine"]
        content["network"]["graph"] = graph
        if not graph:
            content["weights"] = {k: v for k, v in content["weights"].items() if not k.startswith("graph.")}

    change(path, older)
    assert Checkpoint.load(path).network == replace(checkpoint.network, refine="graph" if graph else "none")
    change(path, lambda content: content["network"].update(graph="yes"))
    with pytest.raises(HowlError, match="damaged checkpoint"):
        Checkpoint.load(path)


def test_what_is_saved_is_loaded(checkpoint: Checkpoint, path: Path) -> None:
    loaded = Checkpoint.load(path)
    for name in ("network", "extraction", "asmk"):
        assert getattr(loaded, name) == getattr(checkpoint, name)
    assert loaded.weights.keys() == checkpoint.weights.keys()
    assert all(torch.equal(value, checkpoint.weights[key]) for key, value in loaded.weights.items())
    np.testing.assert_array_equal(loaded.codebook.centroids, checkpoint.codebook.centroids)
    assert loaded.training["records"] == checkpoint.training["records"]
    assert torch.equal(loaded.training["moments"], checkpoint.training["moments"])


def test_a_system_without_codebook_is_saved_without(tiny_backbone: str, tmp_path: Path) -> None:
    config = GemConfig(backbone=tiny_backbone, dimensions=8)
    extraction = ExtractionConfig(image_size=96, scales=(1.0,), features=None)
    Checkpoint("gem", config, GemNetwork(config).state_dict(), extraction, None, None, {}).save(tmp_path / "gem.pt")
    loaded = Checkpoint.load(tmp_path / "gem.pt")
    assert (loaded.system, loaded.network, loaded.extraction) == ("gem", config, extraction)
    assert (loaded.asmk, loaded.codebook) == (None, None)
    assert isinstance(loaded.build_model(), GemNetwork)


@torch.no_grad()
def test_the_network_that_comes_out_computes_what_went_in(checkpoint: Checkpoint, path: Path) -> None:
    image = 255 * torch.rand(1, 3, 40, 56)
    network = Checkpoint.load(path).build_model()
    assert not network.training
    assert torch.equal(network(image).descriptors, checkpoint.build_model()(image).descriptors)


class RunsCode:
    """Unpickled by a careless reader, it leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return open, (str(self.trace), "w")


def test_weights_of_another_network_are_one_clear_error(checkpoint: Checkpoint) -> None:
    checkpoint.weights = dict(list(checkpoint.weights.items())[1:])
    with pytest.raises(HowlError, match="do not fit its configuration") as caught:
        checkpoint.build_model()
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("error")  # a warning would be a second line
@pytest.mark.parametrize("place", ["inside", "whole", "plain pickle"])
def test_a_file_that_would_run_code_is_refused_and_runs_nothing(path: Path, place: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    if place == "inside":
        change(path, lambda content: content["training"].update(records=RunsCode(trace)))
    elif place == "whole":
        torch.save(RunsCode(trace), path)
    else:
        path.write_bytes(pickle.dumps(RunsCode(trace)))
    with pytest.raises(HowlError, match=r"ckpt\.pt: refused: [^\n]*nothing in it was run$"):
        Checkpoint.load(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), "no such file"),
        (lambda path: path.write_bytes(b""), "damaged, or not a file of tensors"),
        (lambda path: path.write_bytes(path.read_bytes()[:3000]), "damaged, or not a file of tensors"),
        (lambda path: path.write_bytes(path.read_bytes()[:-200]), "damaged, or not a file of tensors"),
        (lambda path: (path.unlink(), path.mkdir()), "damaged, or not a file of tensors"),
        (lambda path: torch.save({"weights": {}}, path), "neither a checkpoint of howl's nor of a layout"),
        (lambda path: torch.save([1, 2], path), "neither a checkpoint of howl's nor of a layout"),
        (lambda path: change(path, lambda content: content.update(version=99)), "newer howl"),
        (lambda path: change(path, lambda content: content.update(version=1)), "earlier howl [^\n]*train it again"),
        (lambda path: change(path, lambda content: content.update(system="netvlad")), "the system netvlad"),
        (lambda path: change(path, lambda content: content.pop("version")), "damaged checkpoint"),
        (lambda path: change(path, lambda content: content.pop("codebook")), "damaged checkpoint: it lacks 'codebook'"),
        (lambda path: change(path, lambda content: content.update(network=7)), "damaged checkpoint"),
        (lambda path: change(path, lambda content: content["network"].update(colour="red")), "damaged checkpoint"),
    ],
    ids=[
        *("missing", "empty", "truncated", "without its end", "a folder", "another file", "a list", "newer", "earlier"),
        "another system",
        *("without version", "without codebook", "no configuration", "unknown setting"),
    ],
)
def test_other_files_are_one_clear_error(path: Path, spoil: Callable[[Path], object], message: str) -> None:
    spoil(path)
    with pytest.raises(HowlError, match=rf"ckpt\.pt: [^\n]*{message}[^\n]*$"):
        Checkpoint.load(path)


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("network", "backbone", "nonsense"),
        ("network", "backbone", "two\nlines"),
        ("network", "backbone", ["tiny"]),
        ("network", "dimensions", 10**9),
        ("network", "dimensions", 10**5000),
        ("network", "dimensions", 8.0),
        ("network", "smoothing", "sharpening"),
        ("network", "kernel", -3),
        ("network", "kernel", 10**9 + 1),
        ("network", "graph", "yes"),
        ("network", "graph_blocks", 10**9),
        ("network", "graph_width", 10**9),
        ("network", "graph_width", torch.ones(2)),
        ("extraction", "image_size", 0),
        ("extraction", "image_size", float("nan")),
        ("extraction", "scales", ()),
        ("extraction", "scales", (-1.0,)),
        ("extraction", "scales", (float("nan"),)),
        ("extraction", "scales", "12"),
        ("extraction", "scales", (1.0,) * 1000),
        ("extraction", "features", 10**9),
        ("extraction", "features", None),
        ("asmk", "alpha", float("nan")),
        ("asmk", "threshold", "0"),
        ("asmk", "multiple_assignment", True),
        ("training", "config", {"data": 7}),
    ],
    ids=lambda value: str(value)[:20] if not isinstance(value, int) or value < 2**64 else "huge",
)
def test_a_setting_out_of_range_is_one_clear_error(path: Path, part: str, name: str, value: Any) -> None:
    change(path, lambda content: content[part].update({name: value}))
    with pytest.raises(HowlError, match=r"ckpt\.pt: a damaged checkpoint: [^\n]{,300}$"):
        Checkpoint.load(path)


def replaced(value: Tensor) -> Callable[[dict[str, Any]], object]:
    """A change of ``BIAS``."""
    return lambda content: content["weights"].update({BIAS: value})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda content: content["weights"].pop(BIAS), f"{BIAS} is missing"),
        (lambda content: content["weights"].update(extra=torch.ones(1)), "has weights extra, for which"),
        (lambda content: content.update(weights=[1]), "not a state dict"),
        (lambda content: content["weights"].update({BIAS: 1.0}), "not a state dict"),
        (replaced(torch.zeros(9)), rf"{BIAS} is \(9,\), this network needs \(8,\)"),
        (replaced(torch.zeros(8, dtype=torch.int64)), f"{BIAS} is torch.int64, this network needs torch.float32"),
        (replaced(torch.full((8,), torch.nan)), f"{BIAS} has values that are no finite numbers"),
        (replaced(torch.full((8,), 1e300, dtype=torch.float64)), f"{BIAS} has values that are no finite numbers"),
        (lambda content: content.update(codebook=torch.ones(0, 8)), r"its codebook \(0, 8\) is not one or more"),
        (lambda content: content.update(codebook=torch.ones(4, 9)), r"its codebook \(4, 9\) is not one or more"),
        (lambda content: content.update(codebook=torch.ones(8)), "its codebook is not float32"),
        (lambda content: content.update(codebook=torch.ones(4, 8).double()), "its codebook is not float32"),
        (lambda content: content.update(codebook=torch.full((4, 8), torch.inf)), "8 finite numbers"),
        (lambda content: content.update(asmk=None), "asmk is None, of a network of how"),
        (lambda content: content.update(training=[]), "training is no dict"),
    ],
)
def test_weights_and_words_that_make_no_network_are_one_clear_error(
    path: Path, spoil: Callable[[dict[str, Any]], object], message: str
) -> None:
    change(path, spoil)
    with pytest.raises(HowlError, match=rf"ckpt\.pt: [^\n]*{message}[^\n]*$"):
        Checkpoint.load(path)


def test_text_is_refused(path: Path) -> None:
    path.write_text("these are not the weights\n")
    with pytest.raises(HowlError, match=r"ckpt\.pt: [^\n]+$"):
        Checkpoint.load(path)


def test_a_checkpoint_is_saved_whole_or_not_at_all(
    checkpoint: Checkpoint, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()

    def full_disk(content: Any, file: Any) -> None:
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(HowlError, match=r"ckpt\.pt: cannot be written: No space left"):
        checkpoint.save(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
