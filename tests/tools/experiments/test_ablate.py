"""The ablation: its figures, its stages, and what ends it; the commands that it runs have tests of their own."""

import json
import math
import time
from pathlib import Path

import cv2
import pytest

from runtime.errors import HowlError
from tools.experiments import ablate
from tools.experiments.ablation import stages
from tools.experiments.ablation.figures import (
    columns,
    differences,
    evaluated,
    points,
    scene_differences,
    set_labels,
    spread,
)
from tools.experiments.ablation.job_pool import Crew
from tools.experiments.ablation.plot import draw
from tools.experiments.ablation.runs import ROWS, Run, all_runs
from tools.experiments.ablation.settings import Settings, keep_settings
from tools.experiments.ablation.tables import main_table, scene_table

SETTINGS = Settings("photos", ["val-a", "val-b"], None, ["--epochs", "2"], ["--features", "9"])


@pytest.fixture
def results() -> list[dict]:
    """Two seeds; HOW has 50 and 52 in val-a, both have 4 and 6 more; val-b is 80 throughout."""
    gain = {"how": (0, 0), "filter": (0.01, 0.01), "graph": (0.02, 0.01), "both": (0.04, 0.06)}
    return [
        {
            "backbone": "resnet18",
            "row": row,
            "seed": seed,
            "mAP": {"val-a": 0.50 + 0.02 * seed + gain[row][seed], "val-b": 0.8},
            "average_precisions": {
                "val-a": {"val-a/castle/0.jpg": 0.5 + gain[row][seed], "val-a/bridge/0.jpg": 0.5 - gain[row][seed] / 2},
                "val-b": {"val-b/tower/0.jpg": 0.8},
            },
        }
        for seed in (0, 1)
        for row in ROWS
    ]


class FakeCommands:
    """Stands for howl's commands: writes what they write, and fails where it is told to."""

    def __init__(self, failing: str = "") -> None:
        self.called: list[tuple[str, ...]] = []
        self.failing = failing

    def __call__(self, script: str, *arguments: str | Path, log: Path, captured: bool = False) -> str:
        words = [str(argument) for argument in arguments]
        self.called.append((script, *words))
        if script == "train/run.py":
            Path(words[words.index("--out" if "--out" in words else "--resume") + 1]).touch()
        if script == self.failing:
            raise HowlError(f"{script} failed")
        if script == "export/to_trt.py":
            engine = Path(words[words.index("--out") + 1])
            engine.touch()
            engine.with_suffix(".json").touch()
        return json.dumps({"sets": []})

    @property
    def scripts(self) -> list[str]:
        return [script for script, *_ in self.called]


EVERY_SCRIPT = ["train/run.py", "export/to_trt.py", "tools/evaluate.py"]


def finish(run: Run, commands: FakeCommands) -> int:
    """How many stages it went through."""
    steps: list[None] = []
    stages.finish(run, SETTINGS, commands, lambda: steps.append(None))
    return len(steps)


def test_mean_and_deviation_are_those_of_the_seeds(results: list[dict]) -> None:
    assert columns(results) == ["val-a", "val-b", "mean"]
    assert points(results, "resnet18", "both", "val-a") == pytest.approx({0: 54, 1: 58})
    assert points(results, "resnet18", "both", "mean") == pytest.approx({0: 67, 1: 69})
    assert spread({0: 54, 1: 58}) == pytest.approx((56, math.sqrt(8)))
    assert math.isnan(spread({0: 54}).std)


def test_differences_are_paired_by_seed(results: list[dict]) -> None:
    """Unpaired, the std would hold that of HOW's seeds too."""
    gains = differences(results, "resnet18", "both", "val-a")
    assert gains == pytest.approx({0: 4, 1: 6})
    assert spread(gains) == pytest.approx((5, math.sqrt(2)))


def test_the_table_has_a_line_a_row(results: list[dict]) -> None:
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in main_table(results).splitlines()]
    assert lines[0] == ["backbone", "", "seeds", "mAP val-a", "mAP val-b", "mAP mean", "Δ val-a", "Δ val-b", "Δ mean"]
    assert [line[1] for line in lines[2:6]] == [row.label for row in ROWS.values()]
    assert lines[2] == ["resnet18", "HOW", "2", "51.00 ± 1.41", "80.00 ± 0.00", "65.50 ± 0.71", "", "", ""]
    assert lines[5][3:7] == ["56.00 ± 2.83", "80.00 ± 0.00", "68.00 ± 1.41", "+5.00 ± 1.41"]


def test_a_single_seed_and_set_have_neither_deviation_nor_mean(results: list[dict]) -> None:
    single = [{**each, "mAP": {"val-a": each["mAP"]["val-a"]}} for each in results if each["seed"] == 0]
    assert main_table(single).splitlines()[5] == "| resnet18 | + both | 1 | 54.00 | +4.00 |"


def test_scenes_that_gain_and_lose_are_named(results: list[dict]) -> None:
    assert scene_differences(results, "resnet18", "both", "val-a") == pytest.approx({"castle": 5, "bridge": -2.5})
    lines = scene_table(results).splitlines()
    assert lines[2] == "| resnet18 | val-a | 1 | 1 | 0 | castle +5.0 | bridge -2.5 |"
    assert lines[3] == "| resnet18 | val-b | 0 | 0 | 1 |  |  |"


def test_folders_of_one_name_go_by_their_paths() -> None:
    assert set_labels(["a/val", "b/val", "c/test/"]) == ["a/val", "b/val", "test"]


def test_the_plot_is_drawn(results: list[dict], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    draw([*results, *({**each, "backbone": "resnet50"} for each in results)], tmp_path / "ablation.png")
    assert cv2.imread(str(tmp_path / "ablation.png")).shape[1] > 1000


def test_only_seeds_with_every_row_are_compared(tmp_path: Path) -> None:
    runs = all_runs(["resnet18"], [0, 1], tmp_path)
    assert [(run.seed, run.row) for run in runs] == [(seed, row) for seed in (0, 1) for row in ROWS]
    settings = {"easy": {"mAP": 0.9, "average_precisions": {}}, "hard": {"mAP": 0.1, "average_precisions": {}}}
    sets = [
        {"data": "photos/val", "mAP": 0.5, "average_precisions": {"photos/val/a/0.jpg": 0.5}},
        {"data": "roxford5k", "settings": settings},
    ]
    for run in runs[:-1]:
        run.evaluation.write_text(json.dumps({"sets": sets}))
    found = evaluated(runs)
    assert {each["seed"] for each in found} == {0}
    assert found[0]["mAP"] == {"val": 0.5, "roxford5k easy": 0.9, "roxford5k hard": 0.1}


def test_a_run_is_trained_exported_and_evaluated(tmp_path: Path) -> None:
    run, commands = Run("resnet18", "both", 3, tmp_path), FakeCommands()
    assert finish(run, commands) == 3
    assert commands.scripts == EVERY_SCRIPT
    trained, exported, measured = (" ".join(words) for words in commands.called)
    checkpoint, engine = tmp_path / "resnet18-both-seed3.pt", tmp_path / "resnet18-both-seed3.onnx"
    assert trained == (
        "train/run.py --data photos --data-root data --backbone resnet18 --smoothing learned --graph "
        "--epochs 2 --seed 3 "
        f"--out {checkpoint}"
    )
    assert exported == f"export/to_trt.py {checkpoint} --features 9 --out {engine}"
    assert measured == f"tools/evaluate.py {engine} val-a val-b --data-root data --json"


def test_what_is_finished_is_skipped(tmp_path: Path) -> None:
    run, commands = Run("resnet18", "how", 0, tmp_path), FakeCommands()
    finish(run, commands)
    assert finish(run, commands) == 3
    assert commands.scripts == EVERY_SCRIPT
    run.evaluation.unlink()
    finish(run, commands)
    assert commands.scripts == [*EVERY_SCRIPT, "tools/evaluate.py"]


def test_an_interrupted_training_goes_on(tmp_path: Path) -> None:
    run = Run("resnet18", "how", 0, tmp_path)
    with pytest.raises(HowlError):
        finish(run, FakeCommands(failing="train/run.py"))
    assert run.checkpoint.exists()
    commands = FakeCommands()
    finish(run, commands)
    assert commands.called[0] == ("train/run.py", "--resume", str(run.checkpoint), "--data-root", "data")


def test_what_was_made_of_a_lost_checkpoint_is_made_anew(tmp_path: Path) -> None:
    run = Run("resnet18", "how", 0, tmp_path)
    finish(run, FakeCommands())
    run.checkpoint.unlink()
    with pytest.raises(HowlError):
        finish(run, FakeCommands(failing="export/to_trt.py"))
    assert not run.evaluation.exists()


def test_other_settings_are_refused(tmp_path: Path) -> None:
    keep_settings(SETTINGS, tmp_path)
    keep_settings(SETTINGS, tmp_path)
    longer = Settings("photos", ["val-a", "val-b"], None, ["--epochs", "3"], ["--features", "9"])
    with pytest.raises(HowlError, match="begun with training --epochs 2, now --epochs 3; give the same"):
        keep_settings(longer, tmp_path)


def test_flags_of_the_ablation_itself_are_refused() -> None:
    common = ["--train", "photos", "--test", "val"]
    with pytest.raises(HowlError, match="leave out --seed, --graph"):
        ablate.settings_of(ablate.parse([*common, "--", "--no-graph", "--seed", "1"]))
    with pytest.raises(HowlError, match="--export: leave out --out"):
        ablate.settings_of(ablate.parse([*common, "--export", "--out x.onnx"]))
    with pytest.raises(SystemExit):
        ablate.settings_of(ablate.parse([*common, "--", "--epoch-count", "1"]))


def test_missing_photos_are_found_out_before_any_training(tmp_path: Path) -> None:
    with pytest.raises(HowlError, match="missing: no such folder"):
        ablate.check_data(Settings("photos", [str(tmp_path / "missing")], None, [], []))


def test_a_failing_command_names_its_log(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    with pytest.raises(HowlError, match=rf"tools/search\.py failed with exit status 1; see {log}"):
        Crew(1).run("tools/search.py", "missing.onnx", "query.jpg", log=log)
    assert "missing.onnx: no such engine" in log.read_text()


def test_a_failure_ends_the_other_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sleep.py").write_text("import time; print('awake', flush=True); time.sleep(60)")
    (tmp_path / "fail.py").write_text("raise SystemExit(3)")
    monkeypatch.setattr("tools.running.HOME", tmp_path)
    crew, begin = Crew(2), time.perf_counter()

    def do(script: str) -> None:
        while script == "fail.py" and "awake" not in _text(tmp_path / "sleep.log"):
            time.sleep(0.01)
        crew.run(script, log=tmp_path / script.replace(".py", ".log"))

    with pytest.raises(HowlError, match=r"fail\.py failed with exit status 3"):
        crew.work(["sleep.py", "fail.py"], do)
    assert time.perf_counter() - begin < 30


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""
