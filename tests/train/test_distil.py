"""A backbone that learns another's features: what it learns, what the command writes, and its refusals."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from runtime.io.cli import run_command
from train.backbones import build_backbone
from train.data import LabelledPhotos
from train.distil import main
from train.distillation import Distillation, DistillationConfig, DistilOptions
from train.distillation import distil as distil_backbone
from train.weights.init import init_backbone


@pytest.fixture
def photos(tmp_path: Path, write_photos: Callable) -> Path:
    write_photos(tmp_path / "photos", scenes=5, views=2)
    return tmp_path / "photos"


@pytest.fixture
def teacher(tmp_path: Path, tiny_backbone: str) -> Path:
    """Weights of a tiny backbone whose features are far from even."""
    torch.manual_seed(3)
    backbone = build_backbone(tiny_backbone)
    nn.init.normal_(backbone.get_submodule("bn2").bias)
    torch.save(backbone.state_dict(), tmp_path / "teacher.pth")
    return tmp_path / "teacher.pth"


def distil(photos: Path, teacher: Path, *arguments: object) -> int:
    flags = ["--data", photos, "--backbone", "tiny", "--teacher", "tiny", "--teacher-init", teacher, "--crop", 64]
    return run_command(lambda _: main([*map(str, flags), "--batch", "4", *map(str, arguments)]))


@pytest.mark.slow
def test_a_student_comes_to_see_what_its_teacher_sees(
    tiny_backbone: str, teacher: Path, synthetic_photos: Callable
) -> None:
    photos: LabelledPhotos = synthetic_photos(scenes=6, views=2)

    def explained(steps: int) -> float:
        torch.manual_seed(0)
        source, student = build_backbone(tiny_backbone), build_backbone(tiny_backbone)
        init_backbone(source, tiny_backbone, str(teacher))
        config = DistillationConfig(crop=32, batch=4, steps=steps, learning_rate=0.02)
        return Distillation(source, student, photos, config).run(photos)

    assert explained(120) > max(0.5, explained(1) + 0.2)


@pytest.mark.slow
def test_the_command_writes_weights_that_training_begins_with(photos: Path, teacher: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "student.pth"
    assert distil(photos, teacher, "--steps", 3, "--out", out) == 0
    backbone = build_backbone("tiny")
    init_backbone(backbone, "tiny", str(out))
    written = torch.load(out, weights_only=True)
    for name, parameter in backbone.named_parameters():
        assert torch.equal(parameter, written[name])
    assert not torch.equal(written["conv1.weight"], torch.load(teacher, weights_only=True)["conv1.weight"])
    assert (written["bn1.running_var"] != 1).all()


def test_the_same_seed_gives_the_same_weights(photos: Path, teacher: Path, tmp_path: Path) -> None:
    for name in ("a.pth", "b.pth"):
        distil(photos, teacher, "--steps", 3, "--seed", 5, "--out", tmp_path / name)
    first, second = (torch.load(tmp_path / name, weights_only=True) for name in ("a.pth", "b.pth"))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_an_interrupted_run_goes_on_with_the_same_command(
    photos: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, progress = tmp_path / "student.pth", tmp_path / "student.pth.progress"
    learned = Distillation._loss
    steps = 0

    def interrupted(self: Distillation, *arguments: Any) -> torch.Tensor:
        nonlocal steps
        steps += 1
        if steps == 6:
            raise KeyboardInterrupt
        return learned(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Distillation, "_loss", interrupted)
        learning = DistillationConfig(crop=64, batch=4, steps=8)
        options = DistilOptions(str(photos), "tiny", "tiny", str(teacher), out, training=learning)
        with pytest.raises(KeyboardInterrupt):
            distil_backbone(options, save_every=2)
    assert progress.exists()
    assert not out.exists()
    kept = torch.load(progress, weights_only=True)
    for other in (("--steps", 9), ("--steps", 8, "--image-size", 128)):
        assert distil(photos, teacher, *other, "--out", out) == 1
        assert f"{progress}: left by a run with other settings" in capsys.readouterr().err
    assert distil(photos, teacher, "--steps", 8, "--out", out) == 0
    assert "goes on after step 4" in capsys.readouterr().out
    assert not progress.exists()
    assert not torch.equal(torch.load(out, weights_only=True)["conv1.weight"], kept["student"]["conv1.weight"])


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--teacher", "resnet18"), "--teacher resnet18: its stride is 32, that of tiny 4"),
        (("--teacher-init", "nothing.pth"), "nothing.pth: no such file"),
        (("--data", "nowhere"), "nowhere"),
        (("--out", "photos"), "photos: cannot be written: it is a folder"),
        (("--out", "teacher.pth"), "teacher.pth: exists already"),
    ],
)
def test_what_cannot_be_distilled_is_said_in_one_line(
    arguments: tuple[str, ...],
    complaint: str,
    photos: Path,
    teacher: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(photos.parent)
    assert distil(photos, teacher, "--steps", 1, *arguments) == (2 if arguments[0] == "--teacher" else 1)
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert complaint in error
    assert not Path("tiny.pth").exists()
