"""The command: what it writes, and what it says when it cannot."""

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch

import train
from runtime.errors import HowlError, UsageError
from runtime.io.cli import run_command
from train.checkpoint import Checkpoint
from train.config import ResumeOptions, TrainOptions, options_for
from train.models.gem import GemConfig
from train.models.how import HowConfig
from train.models.registry import SYSTEMS, build_model
from train.run import command_for, main, parse

SMALL = ["--image-size", "64", "--scales", "1", "--features", "20", "--tuples", "4", "--dimensions", "16"]


def run(*arguments: object) -> None:
    main([str(argument) for argument in arguments])


@pytest.fixture
def photos(tmp_path: Path, write_photos: Callable) -> Path:
    """Four places, two photos each."""
    write_photos(tmp_path / "photos", scenes=4, views=2)
    return tmp_path / "photos"


@pytest.fixture
def fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """``fails(*arguments, code=1)``: the one line of a command that exits so and leaves all files as they were."""

    def run_and_fail(*arguments: object, code: int = 1) -> str:
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["train/run.py", *map(str, arguments)])
        assert run_command(main) == code
        printed = capsys.readouterr()
        assert printed.err.startswith("error: ")
        assert printed.err.endswith("\n")
        assert printed.err.count("\n") == 1
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
        return printed.err

    return run_and_fail


def log_of(checkpoint: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in checkpoint.with_suffix(".jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_training_writes_checkpoint_log_and_curve(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "ckpt.pt"
    run("--data", photos, "--out", out, "--epochs", 2, "--smoothing", "learned", "--graph", *SMALL)
    assert sorted(path.name for path in out.parent.iterdir()) == ["ckpt.jsonl", "ckpt.png", "ckpt.pt"]
    log = log_of(out)
    assert [line["epoch"] for line in log] == [0, 1, 2]
    assert [line["tuples"] for line in log] == [0, 4, 4]
    assert log[0]["loss"] is None
    assert all(line["loss"] > 0 for line in log[1:])
    assert all(0 <= line["mean_average_precision"] <= 1 for line in log)
    assert cv2.imread(str(out.with_suffix(".png"))) is not None
    checkpoint = Checkpoint.load(out)
    assert (checkpoint.network.smoothing, checkpoint.network.refine) == ("learned", "graph")
    assert (checkpoint.network.graph_nodes, checkpoint.network.dimensions) == (16, 16)
    assert (checkpoint.extraction.image_size, checkpoint.extraction.scales) == (64, (1.0,))
    assert checkpoint.extraction.features == 20
    printed = capsys.readouterr()
    assert str(out) in printed.out
    assert printed.err == ""


def interrupted(*arguments: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a command that Ctrl-C stops."""
    monkeypatch.setattr(sys, "argv", ["train/run.py", *map(str, arguments)])
    assert run_command(main) == 130
    line = capsys.readouterr().err
    assert line.startswith("interrupted: ")
    assert line.count("\n") == 1
    return line


def stops(*others: object, **named: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.slow
def test_ctrl_c_says_what_is_kept_and_how_to_go_on(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, patched = tmp_path / "ckpt.pt", dict(monkeypatch=monkeypatch, capsys=capsys)
    start = ["--data", photos, "--out", out, "--epochs", 2, *SMALL]
    with monkeypatch.context() as stopping:
        stopping.setattr("train.trainer.learn_whitening", stops)
        line = interrupted(*start, **patched)
    assert not out.exists()
    assert "nothing is kept yet" in line
    assert parse(shlex.split(line.partition("python ")[2])[1:]) == parse([str(word) for word in start])
    with monkeypatch.context() as stopping:
        stopping.setattr("train.trainer.mine_tuples", stops)
        line = interrupted(*start, **patched)
    assert f"{out} holds epoch 0 of 2" in line
    again = shlex.split(line.partition("python ")[2])[1:]
    with monkeypatch.context() as stopping:
        stopping.setattr("train.trainer.open_data", stops)
        assert f"{out} is as it was" in interrupted(*again, **patched)
    run(*again)
    assert [line["epoch"] for line in log_of(out)] == [0, 1, 2]


@pytest.mark.slow
def test_resume_goes_on_in_the_same_file(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "ckpt.pt"
    run("--data", photos, "--out", out, "--epochs", 1, *SMALL)
    first = log_of(out)
    run("--resume", out, "--epochs", 2)
    assert log_of(out)[:2] == first
    assert [line["epoch"] for line in log_of(out)] == [0, 1, 2]
    assert Checkpoint.load(out).training["config"]["epochs"] == 2


@pytest.mark.slow
def test_a_network_begins_with_a_trained_one(photos: Path, tmp_path: Path) -> None:
    how, both, again = (tmp_path / name for name in ("how.pt", "both.pt", "again.pt"))
    run("--data", photos, "--out", how, "--epochs", 1, "--learning-rate", 1e-3, *SMALL)
    run(
        "--data",
        photos,
        "--out",
        both,
        "--epochs",
        1,
        "--init",
        how,
        "--freeze-backbone",
        "--graph",
        "--whitening",
        "pca",
        *SMALL,
    )
    run("--data", photos, "--out", again, "--epochs", 0, "--init", both, "--graph", "--smoothing", "learned", *SMALL)
    first, second, third = (Checkpoint.load(path).weights for path in (how, both, again))
    assert all(torch.equal(second[name], first[name]) for name in first if name.startswith(("backbone.", "whitening.")))
    assert set(second) - set(first)
    assert all(torch.equal(third[name], second[name]) for name in second)
    assert set(third) - set(second)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("system", "loss", "features"),
    [
        ("gem", "contrastive", None),
        ("rmac", "contrastive", None),
        ("solar", "second-order", None),
        ("delg", "delg", 20),
    ],
)
def test_a_global_system_trains_and_goes_on(
    system: str, loss: str, features: int | None, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "global.pt"
    flags = ["--image-size", "64", "--scales", "1", "0.707", "--tuples", "4", "--dimensions", "6"]
    flags += ["--features", str(features)] if features else []
    run("--system", system, "--data", photos, "--out", out, "--epochs", 1, *flags)
    checkpoint = Checkpoint.load(out)
    assert (checkpoint.system, checkpoint.codebook, checkpoint.extraction.features) == (system, None, features)
    assert checkpoint.training["config"]["loss"] == loss
    assert checkpoint.extraction.scales == (1.0, 0.707)
    assert "visual words" not in capsys.readouterr().out
    run("--resume", out, "--epochs", 2)
    assert [line["epoch"] for line in log_of(out)] == [0, 1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["match", "contrastive"])
def test_attention_trains_from_the_same_tuples_and_goes_on(loss: str, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "delf.pt"
    run("--system", "delf", "--data", photos, "--out", out, "--epochs", 1, "--loss", loss, *SMALL)
    checkpoint = Checkpoint.load(out)
    assert (checkpoint.system, checkpoint.extraction.features, checkpoint.training["config"]["loss"]) == (
        "delf",
        20,
        loss,
    )
    assert checkpoint.codebook is not None
    started, trained = build_model("delf", checkpoint.network).state_dict(), checkpoint.training["weights"]
    assert not torch.equal(trained["attention.conv2.weight"], started["attention.conv2.weight"])
    run("--resume", out, "--epochs", 2)
    assert [line["epoch"] for line in log_of(out)] == [0, 1, 2]


@pytest.mark.slow
def test_delg_starts_from_gem_and_from_delg(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gem, delg, again = (tmp_path / f"{name}.pt" for name in ("gem", "delg", "again"))
    flags = ["--data", photos, "--image-size", "64", "--scales", "1", "--tuples", "4", "--dimensions", "6"]
    run("--system", "gem", "--out", gem, "--epochs", 1, *flags)
    run("--system", "delg", "--out", delg, "--epochs", 0, "--init", gem, *flags)
    assert f"from {gem}: backbone, pooling, whitening" in capsys.readouterr().out
    run("--system", "delg", "--out", again, "--epochs", 0, "--seed", 1, "--init", delg, *flags)
    first, second, third = (Checkpoint.load(path).weights for path in (gem, delg, again))
    assert all(torch.equal(second[name], first[name]) for name in first)
    assert second["autoencoder.decoder.bias"].abs().max() > 0  # from the photos' features
    assert all(torch.equal(third[name], second[name]) for name in second)


@pytest.mark.slow
def test_fire_trains_and_goes_on_and_begins_with_a_trained_one(photos: Path, tmp_path: Path) -> None:
    out, again = tmp_path / "fire.pt", tmp_path / "again.pt"
    flags = ["--system", "fire", "--templates", 12, "--iterations", 2, *SMALL]
    run("--data", photos, "--out", out, "--epochs", 1, *flags)
    checkpoint = Checkpoint.load(out)
    assert (checkpoint.system, checkpoint.training["config"]["loss"]) == ("fire", "super-feature")
    assert checkpoint.codebook is not None
    run("--resume", out, "--epochs", 2)
    assert [line["epoch"] for line in log_of(out)] == [0, 1, 2]
    run("--data", photos, "--out", again, "--epochs", 0, "--init", out, *flags)
    first, second = (Checkpoint.load(path).weights for path in (out, again))
    assert all(torch.equal(second[name], first[name]) for name in first)
    with pytest.raises(UsageError, match="--whitening views: fire learns its whitening by pca"):
        options_of("--whitening", "views", "--system", "fire")
    with pytest.raises(HowlError, match="--templates 12: give the same options"):
        run("--data", photos, "--out", tmp_path / "o.pt", "--init", out, *flags, "--templates", 10)


@pytest.mark.slow
def test_a_random_backbone_with_broken_photos_trains_to_the_end(
    photos: Path, tmp_path: Path, break_photo: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = {"place0/0.jpg": "empty", "place3/1.jpg": "truncated", "place1/0.jpg": "no image"}
    for name, how in broken.items():
        break_photo(photos / name, how)
    run("--data", photos, "--out", tmp_path / "ckpt.pt", "--epochs", 1, "--init", "random", *SMALL)
    said = capsys.readouterr().out
    assert "left out 3 unreadable photos" in said
    assert all(name in said for name in broken)
    assert log_of(tmp_path / "ckpt.pt")[1]["tuples"] == 2  # the two photos of the one place that is whole


@pytest.mark.parametrize(
    "flags",
    [
        ["--no-such-flag"],
        ["--seed", str(10**26)],
        ["--backbone", "vgg16"],
        ["--smoothing", "median"],
        ["--kernel", "4"],
        ["--epochs", "-1"],
        ["--epochs", "many"],
        ["--tuples", "0"],
        ["--learning-rate", "0"],
        ["--learning-rate", "nan"],
        ["--image-size", "16"],
        ["--scales", "1", "x"],
        ["--scales", "9"],
        ["--scales"],
        ["--features", "1.5"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_2(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code: Any = run_command(lambda _: run(*flags))
    except SystemExit as exit_:
        code = exit_.code
    assert code == 2
    assert flags[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags",
    [
        ["--graph-width", "8"],
        ["--graph-neighbours", "7", "--refine", "self-attention"],
        ["--bandwidth", "shared"],
        ["--kernel", "5", "--smoothing", "none"],
        ["--margin", "0.5", "--loss", "match"],
        ["--words", "9", "--system", "gem"],
    ],
    ids=" ".join,
)
def test_an_option_without_effect_is_refused(flags: list[str], fails: Callable[..., str]) -> None:
    line = fails(*flags, code=2)
    assert line.startswith(f"error: {flags[0]} {flags[1]}: has no effect without --")
    assert line.endswith("; leave it out\n")


def test_a_missing_folder_of_photos_is_one_line(fails: Callable[..., str], tmp_path: Path) -> None:
    assert str(tmp_path / "nowhere") in fails("--data", tmp_path / "nowhere", "--out", tmp_path / "ckpt.pt")


def test_missing_sfm120k_is_one_line(fails: Callable[..., str], tmp_path: Path) -> None:
    assert "retrieval-SfM-120k" in fails("--data", "sfm120k", "--data-root", tmp_path, "--out", tmp_path / "ckpt.pt")


def test_missing_backbone_weights_are_one_line(
    fails: Callable[..., str], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    line = fails("--data", photos, "--backbone", "resnet18", *SMALL)
    assert str(tmp_path / "hub") in line
    assert str(tmp_path / "mine.pth") in fails("--data", photos, "--init", tmp_path / "mine.pth", *SMALL)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--graph", "--graph-nodes", "8", "--graph-neighbours", "8"], "--graph-neighbours 8"),
        (["--dimensions", "225"], "--dimensions 225"),
    ],
    ids=["more neighbours than nodes", "more dimensions than channels"],
)
def test_flags_that_do_not_go_together_are_one_line(
    fails: Callable[..., str], photos: Path, flags: list[str], named: str
) -> None:
    assert named in fails("--data", photos, "--image-size", 64, *flags, code=2)


@pytest.mark.parametrize("content", [None, b"", b"no checkpoint\n"], ids=["missing", "empty", "text"])
def test_a_bad_checkpoint_is_one_line(fails: Callable[..., str], tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "ckpt.pt"
    if content is not None:
        path.write_bytes(content)
    assert str(path) in fails("--resume", path, "--out", tmp_path / "other.pt")


def test_a_checkpoint_without_a_run_is_one_line(fails: Callable[..., str], photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "ckpt.pt"
    run("--data", photos, "--out", path, "--epochs", 0, *SMALL)
    content = torch.load(path, weights_only=True)
    torch.save(content | {"training": {}}, path)
    assert str(path) in fails("--resume", path)


@pytest.mark.parametrize(
    "flags",
    [
        ["--tuples-per-step", "3"],
        ["--no-graph"],
        ["--graph"],
        ["--data", "scenes"],
        ["--init", "imagenet"],
        ["--seed", "0"],
    ],
    ids=" ".join,
)
def test_settings_given_with_resume_are_one_line(fails: Callable[..., str], tmp_path: Path, flags: list[str]) -> None:
    line = fails("--resume", tmp_path / "ckpt.pt", *flags, code=2)
    assert flags[0].replace("--no-", "--") in line


def options_of(*arguments: object) -> TrainOptions:
    options = parse([str(argument) for argument in arguments])
    assert isinstance(options, TrainOptions)
    return options


def nodes_of(*arguments: object) -> int:
    network = options_of(*arguments).network
    assert isinstance(network, HowConfig)
    return network.graph_nodes


def test_the_graph_covers_the_map_at_training_size() -> None:
    for image_size in (64, 72, 320, 1000):
        rows = columns = -(-image_size // 16)
        assert nodes_of("--image-size", image_size) == min(rows * columns, 3840)
        assert nodes_of(f"--image_size={image_size}") == min(rows * columns, 3840)
    assert nodes_of("--graph-nodes", 50, "--image-size", 320) == 50


def test_options_overrule_what_the_data_and_the_backbone_suggest() -> None:
    assert options_of("--backbone", "resnet50").training.learning_rate == 1e-6
    config = options_of("--data", "sfm120k", "--backbone", "resnet18", "--epochs", 0, "--seed", 7).training
    assert (config.learning_rate, config.tuples, config.epochs, config.seed) == (5e-6, 2000, 0, 7)
    assert config.loss == "contrastive"
    assert options_of("--data", "photos").training.loss == "match"
    with pytest.raises(UsageError):
        options_of("--graph", "--graph-nodes", 2, "--graph-neighbours", 3)


def test_the_graph_can_be_asked_for_as_before() -> None:
    assert options_of("--graph").network == options_of("--refine", "graph").network
    assert options_of("--no-graph").network == options_of("--refine", "none").network


def test_nothing_said_are_the_defaults_of_the_system_and_the_data() -> None:
    assert options_of() == options_for("how", "scenes")
    gem = options_of("--system", "gem", "--data", "photos")
    assert gem == options_for("gem", "photos")
    assert (gem.training.loss, gem.training.margin, gem.extraction.features) == ("contrastive", 1.25, None)
    assert (gem.network.backbone, gem.network.dimensions) == ("efficientnet_lite0_stride32", 512)
    for backbone, dimensions, exponent in (("resnet18_stride16", 256, 3.0), ("efficientnet_lite0", 224, 1.0)):
        network = options_of("--system", "gem", "--backbone", backbone).network
        assert network == GemConfig(backbone, dimensions, exponent=exponent)


def test_a_loss_of_one_system_is_the_default_there_and_unknown_elsewhere(fails: Callable[..., str]) -> None:
    solar = options_of("--system", "solar", "--data", "photos", "--backbone", "resnet18").training
    assert (solar.loss, solar.margin) == ("second-order", 1.25)
    for system, known in (("gem", "contrastive or ap"), ("how", "contrastive or match")):
        line = fails("--system", system, "--loss", "second-order", code=2)
        assert line == f"error: --loss second-order: {system} is trained by {known}\n"


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (
            ["--system", "delg", "--words", "9"],
            "--words 9: has no effect without --system how, delf or fire",
        ),
        (["--system", "delg", "--loss", "match"], "--loss match: delg is trained by delg"),
        (["--system", "delg", "--whitening", "views"], "--whitening views: delg learns its whitening by pca"),
        (["--system", "delf", "--loss", "delg"], "--loss delg: delf is trained by contrastive or match"),
        (["--system", "delg", "--local-dimensions", "0"], "--local-dimensions 0: must be at least 1"),
        (["--system", "delf", "--loss", "match", "--margin", "2"], "--margin 2.0: has no effect without --loss"),
    ],
)
def test_what_a_system_does_not_take_is_refused(flags: list[str], line: str, fails: Callable[..., str]) -> None:
    assert fails(*flags, code=2).startswith(f"error: {line}")


@pytest.mark.parametrize("flags", [["--loss", "match"], ["--features", "9"], ["--refine", "graph"]], ids=" ".join)
def test_gem_refuses_what_is_for_local_features(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code: Any = run_command(lambda _: run("--system", "gem", *flags))
    except SystemExit as exit_:
        code = exit_.code
    assert code == 2
    assert flags[0] in capsys.readouterr().err


def test_resuming_takes_epochs_and_paths_beside_the_checkpoint() -> None:
    words = ["--epochs", "9", "--resume", "a.pt", "--out", "b.pt", "--data-root", "sets"]
    assert parse(words) == ResumeOptions(Path("a.pt"), Path("b.pt"), 9, Path("sets"))
    assert parse(["--resume=a.pt"]) == ResumeOptions(Path("a.pt"))


@pytest.mark.slow
def test_the_file_runs_as_a_command(tmp_path: Path) -> None:
    root = Path(train.__file__).parents[1]

    def result(*arguments: str) -> tuple[int, str, str]:
        command = [sys.executable, str(root / "train" / "run.py"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
        return done.returncode, done.stdout, done.stderr

    environment = {"PYTHONPATH": str(root), "PATH": ""}
    code, _, errors = result("--data", "nowhere")
    assert (code, errors.count("\n")) == (1, 1)
    assert errors.startswith("error: nowhere: ")
    code, usage, _ = result("--help")
    assert code == 0
    for flag in (
        "--data",
        "--smoothing",
        "--refine",
        "--backbone",
        "--init",
        "--epochs",
        "--out",
        "--resume",
        "efficientnet_lite2",
        "resnet18_stride16",
        *SYSTEMS,
    ):
        assert flag in usage
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--system", "gem", "--epochs", "0"],
        ["--data", "photos", "--image-size", "320", "--graph", "--smoothing", "learned", "--scales", "1", "0.5"],
        ["--resume", "ckpt.pt", "--epochs", "9"],
    ],
)
def test_a_command_gives_the_options_that_it_was_made_from(flags: list[str]) -> None:
    options = parse(flags)
    assert parse(shlex.split(command_for(options))[2:]) == options
