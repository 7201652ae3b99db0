"""HOW's own checkpoints: both layouts load to the network that they mean, and other files are refused by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from runtime.errors import HowlError
from train.checkpoint import Checkpoint
from train.models.base import HOW_SCALES, ExtractionConfig
from train.models.extractor import LocalExtractor
from train.models.how import HowConfig

from ..test_checkpoint import RunsCode
from .published_how import (
    DIMENSIONS,
    FEATURES,
    IMAGE_SIZE,
    SCALES,
    how_content,
    how_inference,
    random_how,
    use_small_resnets,
    write_how,
)

LAYOUTS = pytest.mark.parametrize("older", [False, True], ids=["with net_params", "older"])
BACKBONES = pytest.mark.parametrize("architecture", ["resnet18", "resnet50"])


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_resnets(monkeypatch)


@pytest.mark.slow
@LAYOUTS
@BACKBONES
def test_a_published_file_loads_whole(architecture: str, older: bool, tmp_path: Path) -> None:
    network = random_how(architecture, 128)
    content = how_content(network, older=older)
    last = {"resnet18": "features.7.1.conv2.weight", "resnet50": "features.6.5.conv3.weight"}[architecture]
    assert {"features.0.weight", "features.1.running_mean", last} < content["state_dict"].keys()
    checkpoint = Checkpoint.load(write_how(tmp_path / "how.pth", content))
    assert checkpoint.network == HowConfig(
        backbone=architecture, border=True, smoothing="average", kernel=3, dimensions=128
    )
    wanted = network.state_dict()
    assert checkpoint.weights.keys() == wanted.keys()
    assert all(torch.equal(value, wanted[key]) for key, value in checkpoint.weights.items())
    assert checkpoint.codebook is None
    assert checkpoint.extraction == (
        ExtractionConfig(1024, HOW_SCALES, 1000) if older else ExtractionConfig(IMAGE_SIZE, tuple(SCALES), FEATURES)
    )


@pytest.mark.slow
@LAYOUTS
@BACKBONES
@pytest.mark.usefixtures("small")
def test_the_network_computes_what_how_does(
    architecture: str, older: bool, tmp_path: Path, photo_of: Callable[..., Any]
) -> None:
    network = random_how(architecture)
    state = how_content(network)["state_dict"]
    checkpoint = Checkpoint.load(write_how(tmp_path / "how.pth", how_content(network, older=older)))
    image = photo_of(0, 0, 101, 77)
    wanted = how_inference(state, image, HOW_SCALES, 80)
    with torch.no_grad():
        descriptors, strengths, positions, count = LocalExtractor(checkpoint.build_model(), HOW_SCALES, 80)(
            torch.from_numpy(image)
        )
    assert int(count) == 80
    torch.testing.assert_close(strengths, wanted.strengths, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(positions[:, 2], wanted.cells[:, 2])
    torch.testing.assert_close(descriptors, wanted.descriptors, rtol=1e-3, atol=1e-3)


def alter(*keys: str, **values: Any) -> Callable[[dict[str, Any]], None]:
    """Changes the values below ``keys`` of a file's content; None takes one out."""

    def change(content: dict[str, Any]) -> None:
        for key in keys:
            content = content[key]
        for name, value in values.items():
            content.pop(name)
            if value is not None:
                content[name] = value

    return change


def alter_state(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["state_dict"].update({key: value})


def without_whitening(content: dict[str, Any]) -> None:
    content["state_dict"] = {k: v for k, v in content["state_dict"].items() if not k.startswith("dim_reduction")}


@pytest.mark.slow
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            alter("net_params", architecture="vgg16"),
            "vgg16 with skip_layer 0, howl loads resnet18 with",
        ),
        (alter("net_params", skip_layer=1), "resnet18 with skip_layer 1"),
        (alter("net_params", architecture=["resnet18"]), "not as HOW saves a checkpoint"),
        (alter("net_params", skip_layer=None), "it lacks 'skip_layer'"),
        (alter("net_params", dim_reduction={}), "without dim_reduction"),
        (alter("net_params", dim_reduction={"dim": 8}), "dim_reduction.weight is"),
        (alter("net_params", dim_reduction={"dim": "8"}), "dim is '8' instead of a whole number"),
        (alter("net_params", smoothing={"kernel_size": 2}), "smooths by kernel_size 2"),
        (alter("net_params", smoothing=[3]), "not as HOW saves a checkpoint"),
        (alter("net_params", runtime=None), "it lacks 'runtime'"),
        (alter("net_params", "runtime", mean_std=[[0, 0, 0], [1, 1, 1]]), "normalised by mean [0, 0, 0] and std"),
        (alter("net_params", "runtime", mean_std=[[123.7, 116.3, 103.5], [58.4, 57.1, 57.4]]), "ImageNet's"),
        (alter("net_params", "runtime", mean_std=7), "not as HOW saves a checkpoint"),
        (alter("net_params", "runtime", features_num=0), "features_num is 0"),
        (alter("net_params", "runtime", scales=[]), "scales are ()"),
        (alter("net_params", "runtime", scales=[1, float("nan")]), "scales are (1.0, nan)"),
        (alter(state_dict=7), "its state_dict does not map names to tensors"),
        (alter_state("features.9.weight", torch.zeros(1)), "has weights features.9.weight, for which"),
        (alter_state("lit.query", torch.zeros(1)), "has weights lit.query, for which"),
        (alter_state("features.0.weight", torch.zeros(2)), "features.0.weight is (2,)"),
        (without_whitening, "dim_reduction.weight and 1 more are missing"),
        (alter(net_params=None), "it lacks 'skip_layer'"),
    ],
)
def test_another_network_or_a_damaged_file_is_one_clear_error(
    change: Callable[[dict[str, Any]], None], line: str, tmp_path: Path
) -> None:
    content = how_content(random_how("resnet18"))
    change(content)
    with pytest.raises(HowlError) as caught:
        Checkpoint.load(write_how(tmp_path / "how.pth", content))
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'how.pth'}: ")
    assert line in message
    assert "\n" not in message


@pytest.mark.slow
@pytest.mark.usefixtures("small")
@LAYOUTS
def test_a_file_that_would_run_code_is_refused_and_runs_nothing(older: bool, tmp_path: Path) -> None:
    content = how_content(random_how("resnet18"), older=older)
    content["scores"] = RunsCode(tmp_path / "trace")
    with pytest.raises(HowlError, match=r"how\.pth: refused: [^\n]*nothing in it was run$"):
        Checkpoint.load(write_how(tmp_path / "how.pth", content))
    assert not (tmp_path / "trace").exists()


@pytest.mark.usefixtures("small")
def test_a_network_without_smoothing_loads_as_one(tmp_path: Path) -> None:
    content = how_content(random_how("resnet18"))
    content["net_params"]["smoothing"] = None
    checkpoint = Checkpoint.load(write_how(tmp_path / "how.pth", content))
    assert (checkpoint.network.smoothing, checkpoint.network.dimensions) == ("none", DIMENSIONS)
