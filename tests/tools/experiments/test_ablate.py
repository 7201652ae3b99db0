"""The ablation: its figures, its stages, and what ends it; the functions that it calls have tests of their own."""

import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import pytest

pytest.importorskip("torch", reason="needs PyTorch")

from export.options import ExportOptions
from runtime.errors import HowlError, UsageError
from tools.experiments import ablate, stages
from tools.experiments.ablation.rows import ROWS, STAGES, all_runs, job_of
from tools.experiments.job_pool import JobPool
from tools.experiments.stages import Job, Run, keep_settings
from train.config import ResumeOptions, TrainOptions, options_for

BACKBONE = "efficientnet_lite2"


@pytest.fixture
def figures():
    """The module of figures, which needs the extra ``experiments``."""
    for package in ("pandas", "tabulate"):
        pytest.importorskip(package, reason=f"needs {package}")
    from tools.experiments.ablation import figures

    return figures


@pytest.fixture
def results() -> list[dict]:
    """Two seeds; HOW has 50 and 52 in val-a, both have 4 and 6 more; val-b is 80 throughout."""
    gain = {"how": (0, 0), "filter": (0.01, 0.01), "graph": (0.02, 0.01), "both": (0.04, 0.06)}
    return [
        {
            "backbone": "efficientnet_lite2",
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


def training(epochs: int = 2) -> TrainOptions:
    options = options_for("how", "photos", BACKBONE)
    return replace(options, training=replace(options.training, epochs=epochs))


def job(run: Run, epochs: int = 2) -> Job:
    return job_of(run, training(epochs), ExportOptions(Path("CKPT"), features=9), ["val-a", "val-b"], None)


class FakeCaller:
    """Stands for the job pool: writes what the functions write, and fails where it is told to."""

    def __init__(self, failing: str = "") -> None:
        self.called: list[str] = []
        self.commands: list[str] = []
        self.failing = failing

    def __call__(self, function: Callable[[Job], None], job: Job, *, log: Path, command: str) -> None:
        name, run = function.__name__, job.run
        self.called.append(name)
        self.commands.append(command)
        if name == "train_network":
            run.checkpoint.touch()
        if name == self.failing:
            raise HowlError(f"{name} failed")
        if name == "train_network":
            run.trained.touch()
        elif name == "export_engine":
            run.engine.with_suffix(".json").touch()
        else:
            run.evaluation.write_text(json.dumps({"sets": []}))


EVERY_STAGE = ["train_network", "export_engine", "evaluate"]


def finish(run: Run, caller: FakeCaller) -> int:
    """How many stages it went through."""
    steps: list[None] = []
    stages.finish(job(run), STAGES, caller, lambda: steps.append(None))
    return len(steps)


def test_mean_and_std_are_those_of_the_seeds(figures, results: list[dict]) -> None:
    points = figures.points(results)
    assert list(points.columns) == ["val-a", "val-b", "mean"]
    both = points.xs(BACKBONE).xs("both")
    assert both["val-a"].to_dict() == pytest.approx({0: 54, 1: 58})
    assert both["mean"].to_dict() == pytest.approx({0: 67, 1: 69})
    assert figures.spread(points).loc[(BACKBONE, "both"), "val-a"].tolist() == pytest.approx([56, math.sqrt(8)])
    single = figures.points([each for each in results if each["seed"] == 0])
    assert math.isnan(figures.spread(single).loc[(BACKBONE, "both"), ("val-a", "std")])


def test_gains_are_paired_by_seed(figures, results: list[dict]) -> None:
    """Unpaired, the std would hold that of HOW's seeds too."""
    gains = figures.gains(figures.points(results))
    assert gains.xs(BACKBONE).xs("both")["val-a"].tolist() == pytest.approx([4, 6])
    assert figures.spread(gains).loc[(BACKBONE, "both"), "val-a"].tolist() == pytest.approx([5, math.sqrt(2)])


def cells_of(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("|")]


def test_the_table_has_a_line_a_row(figures, results: list[dict]) -> None:
    lines = cells_of(figures.main_table(results))
    assert lines[0] == ["backbone", "", "seeds", "mAP val-a", "mAP val-b", "mAP mean", "Δ val-a", "Δ val-b", "Δ mean"]
    assert [line[1] for line in lines[2:6]] == [row.label for row in ROWS.values()]
    assert lines[2] == [BACKBONE, "HOW", "2", "51.00 ± 1.41", "80.00 ± 0.00", "65.50 ± 0.71", "", "", ""]
    assert lines[5][3:7] == ["56.00 ± 2.83", "80.00 ± 0.00", "68.00 ± 1.41", "+5.00 ± 1.41"]


def test_a_single_seed_and_set_have_neither_std_nor_mean(figures, results: list[dict]) -> None:
    single = [{**each, "mAP": {"val-a": each["mAP"]["val-a"]}} for each in results if each["seed"] == 0]
    assert cells_of(figures.main_table(single))[5] == [BACKBONE, "+ both", "1", "54.00", "+4.00"]


def test_scenes_that_gain_and_lose_are_named(figures, results: list[dict]) -> None:
    gains = figures.scene_gains(results, "both")[BACKBONE, "val-a"]
    assert gains.to_dict() == pytest.approx({"val-a/castle": 5, "val-a/bridge": -2.5})
    lines = cells_of(figures.scene_table(results))
    assert lines[2] == [BACKBONE, "val-a", "1", "1", "0", "castle +5.0", "bridge -2.5"]
    assert lines[3] == [BACKBONE, "val-b", "0", "0", "1", "", ""]


def test_folders_of_one_name_go_by_their_paths(figures) -> None:
    assert figures.short_names(["a/val", "b/val", "c/test/"]) == ["a/val", "b/val", "test"]


def test_the_plot_is_drawn(figures, results: list[dict], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    figures.draw(
        [*results, *({**each, "backbone": "efficientnet_lite2"} for each in results)], tmp_path / "ablation.png"
    )
    assert cv2.imread(str(tmp_path / "ablation.png")).shape[1] > 1000


def test_only_seeds_with_every_row_are_compared(figures, tmp_path: Path) -> None:
    runs = all_runs([BACKBONE, BACKBONE], [0, 1, 0], tmp_path)
    assert [(run.seed, run.row) for run in runs] == [(seed, row) for seed in (0, 1) for row in ROWS]
    settings = {"easy": {"mAP": 0.9, "average_precisions": {}}, "hard": {"mAP": 0.1, "average_precisions": {}}}
    sets = [
        {"data": "photos/val", "mAP": 0.5, "average_precisions": {"photos/val/a/0.jpg": 0.5}},
        {"data": "roxford5k", "settings": settings},
    ]
    for run in runs[:-1]:
        run.evaluation.write_text(json.dumps({"sets": sets}))
    found = figures.read_results(runs)
    assert {each["seed"] for each in found} == {0}
    assert found[0]["mAP"] == {"val": 0.5, "roxford5k easy": 0.9, "roxford5k hard": 0.1}


def test_a_run_is_trained_exported_and_evaluated(tmp_path: Path) -> None:
    run, caller = Run(BACKBONE, "both", 3, tmp_path), FakeCaller()
    assert finish(run, caller) == 3
    assert caller.called == EVERY_STAGE
    checkpoint, engine = tmp_path / "efficientnet_lite2-both-seed3.pt", tmp_path / "efficientnet_lite2-both-seed3.onnx"
    trained, exported, measured = caller.commands
    assert trained.startswith("python train/run.py --data photos --backbone efficientnet_lite2 ")
    for flags in ("--smoothing learned", "--refine graph", "--epochs 2", "--seed 3", f"--out {checkpoint}"):
        assert f" {flags}" in trained
    assert exported == f"python export/to_trt.py {checkpoint} --out {engine} --features 9"
    assert measured == f"python tools/evaluate.py {engine} val-a val-b --data-root data --json"


def test_rows_differ_in_the_network_alone(tmp_path: Path) -> None:
    made = {run.row: job(run).training for run in all_runs([BACKBONE], [3], tmp_path)}
    for row, options in made.items():
        assert options.network == replace(training().network, **ROWS[row].network)
        assert replace(options, network=training().network, out=Path()) == replace(
            training(), training=replace(training().training, seed=3), out=Path()
        )


def test_what_is_finished_is_skipped(tmp_path: Path) -> None:
    run, caller = Run(BACKBONE, "how", 0, tmp_path), FakeCaller()
    finish(run, caller)
    assert finish(run, caller) == 3
    assert caller.called == EVERY_STAGE
    run.evaluation.unlink()
    finish(run, caller)
    assert caller.called == [*EVERY_STAGE, "evaluate"]


def test_an_interrupted_training_goes_on(tmp_path: Path) -> None:
    run = Run(BACKBONE, "how", 0, tmp_path)
    with pytest.raises(HowlError):
        finish(run, FakeCaller(failing="train_network"))
    assert run.checkpoint.exists()
    assert stages.training_of(job(run)) == ResumeOptions(run.checkpoint)
    caller = FakeCaller()
    finish(run, caller)
    assert caller.commands[0] == f"python train/run.py --resume {run.checkpoint}"


def test_what_was_made_of_a_lost_checkpoint_is_made_anew(tmp_path: Path) -> None:
    run = Run(BACKBONE, "how", 0, tmp_path)
    finish(run, FakeCaller())
    run.checkpoint.unlink()
    with pytest.raises(HowlError):
        finish(run, FakeCaller(failing="export_engine"))
    assert not run.evaluation.exists()


def test_other_settings_are_refused(tmp_path: Path) -> None:
    jobs = [job(run) for run in all_runs([BACKBONE], [0], tmp_path)]
    keep_settings(jobs, tmp_path)
    keep_settings([job(run) for run in all_runs([BACKBONE], [0, 1], tmp_path)], tmp_path)
    longer = [job(run, epochs=3) for run in all_runs([BACKBONE], [0], tmp_path)]
    with pytest.raises(
        UsageError, match="started with training efficientnet_lite2 how training epochs 2, now 3; give the same"
    ):
        keep_settings(longer, tmp_path)
    (tmp_path / "settings.json").write_text("not settings")
    with pytest.raises(UsageError, match="no settings of such an experiment; name another folder with --out"):
        keep_settings(jobs, tmp_path)


def test_backbones_may_be_added(tmp_path: Path) -> None:
    keep_settings([job(run) for run in all_runs(["efficientnet_lite0"], [0], tmp_path)], tmp_path)
    keep_settings([job(run) for run in all_runs(["efficientnet_lite2"], [0], tmp_path)], tmp_path)
    kept = json.loads((tmp_path / "settings.json").read_text())["training"]
    assert {name.split()[0] for name in kept} == {"efficientnet_lite0", "efficientnet_lite2"}


def test_flags_of_the_ablation_itself_are_refused() -> None:
    with pytest.raises(UsageError, match="leave out --graph, --seed"):
        ablate.parse_training("photos", BACKBONE, ["--no-graph", "--seed", "1"])
    with pytest.raises(UsageError, match="leave out --resume"):
        ablate.parse_training("photos", BACKBONE, ["--resume", "ckpt.pt"])
    with pytest.raises(UsageError, match="--export: leave out --out"):
        ablate.parse_export(["--out", "x.onnx"])
    with pytest.raises(SystemExit):
        ablate.parse_training("photos", BACKBONE, ["--epoch-count", "1"])
    assert ablate.parse_training("photos", BACKBONE, ["--epochs", "7"]).training.epochs == 7


def test_missing_photos_are_found_out_before_any_training(tmp_path: Path) -> None:
    run = Run(BACKBONE, "how", 0, tmp_path)
    with pytest.raises(HowlError, match="missing: no such folder"):
        ablate.check_data(replace(job(run), test=(str(tmp_path / "missing"),)))


# The job pool; its functions are those of the standard library, which any process can import.


@pytest.mark.slow
def test_what_is_printed_goes_to_the_log(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    JobPool(1).call(print, "it works", log=log, command="python say.py")
    assert log.read_text() == "$ python say.py\nit works\n"


@pytest.mark.slow
@pytest.mark.parametrize(("function", "argument", "line"), [(sys.exit, 3, ""), (int, "x", "ValueError: invalid")])
def test_a_failing_function_names_its_log(function: Callable, argument: object, line: str, tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    with pytest.raises(HowlError, match=rf"python fail\.py failed with exit status \d; see {log}"):
        JobPool(1).call(function, argument, log=log, command="python fail.py")
    assert line in log.read_text()


@pytest.mark.slow
def test_a_failure_ends_the_other_processes(tmp_path: Path) -> None:
    pool, begin, started = JobPool(2), time.perf_counter(), tmp_path / "started"
    sleep = f"import pathlib, time; pathlib.Path({str(started)!r}).touch(); time.sleep(600)"

    def do(code: str) -> None:
        while code != sleep and not started.exists():
            time.sleep(0.01)
        pool.call(exec, code, log=tmp_path / f"{len(code)}.log", command="python work.py")

    with pytest.raises(HowlError, match=r"work\.py failed with exit status 3"):
        pool.work([sleep, "raise SystemExit(3)"], do)
    assert time.perf_counter() - begin < 300


@pytest.mark.slow
def test_processes_share_the_cores(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    code = "import os, torch; print(torch.get_num_threads(), os.environ['OPENBLAS_NUM_THREADS'])"
    before = dict(os.environ)
    JobPool(os.cpu_count() or 1).call(exec, code, log=log, command="python x")
    assert log.read_text().splitlines()[-1] == "1 1"
    assert dict(os.environ) == before
