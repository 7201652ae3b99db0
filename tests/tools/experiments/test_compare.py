"""The comparison of systems: what each is trained with, what is done in which order, what it costs, and the table."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("torch", reason="needs PyTorch")

from runtime.asmk.kernel import AsmkParameters
from runtime.retriever import Retriever
from tools.experiments import compare
from tools.experiments.comparison import cost, systems
from tools.experiments.comparison.systems import RERANKED, SYSTEMS, evaluation_file, job_of, stages_of
from tools.experiments.stages import Run
from tools.index import keep_features
from train.checkpoint import Checkpoint
from train.config import TrainOptions
from train.log import EpochLog
from train.models.base import ExtractionConfig
from train.models.how import HowConfig, HowNetwork


def options_of(name: str, *words: str) -> TrainOptions:
    return compare.parse_training(name, "photos", words)


def run_of(name: str, folder: Path) -> Run:
    return job_of(name, options_of(name), ["val"], "others", folder).run


def test_all_systems_have_the_same_budget() -> None:
    runs = {name: options_of(name) for name in SYSTEMS}
    budgets = {
        (each.training.epochs, each.training.tuples, each.training.tuple_size, each.extraction.image_size)
        for each in runs.values()
    }
    assert budgets == {(1, 60, 320, 480)}
    assert {each.network.backbone for each in runs.values()} == {"efficientnet_lite0", "efficientnet_lite0_stride32"}
    assert len({repr((each.system, each.network, each.training.loss)) for each in runs.values()}) == len(runs) - 1
    assert SYSTEMS["delf"].flags == SYSTEMS["delf-regions"].flags  # which differ in the index alone


def test_what_stands_behind_the_dashes_is_for_all() -> None:
    assert {options_of(name, "--tuples", "7").training.tuples for name in SYSTEMS} == {7}


def test_stages_follow_each_other_and_each_leaves_a_file_of_its_own(tmp_path: Path) -> None:
    stages, run = stages_of("how"), run_of("how", tmp_path)
    assert [stage.name for stage in stages] == [
        *("train", "export", "index", "evaluate", "ransac", "spatial", "similarity"),
    ]
    assert len({stage.done(run) for stage in stages}) == len(stages)
    job = job_of("gem", options_of("gem"), ["val"], "others", tmp_path)
    assert "--activations" in stages_of("gem")[1].command(job)
    assert stages_of("gem")[4].command(job).endswith("--rerank similarity --json")


def cell(value: float, spread: tuple[float, float]) -> str:
    return f"{value} ({spread[0]}–{spread[1]})"


def epoch_log(epoch: int, score: float) -> EpochLog:
    return EpochLog(epoch, None, score, 0.0, 0, 1.0)


@pytest.mark.parametrize(
    ("after_training", "weights"), [(0.5, "of epoch 1"), (0.25, "as they started")], ids=["better", "worse"]
)
def test_the_table_has_a_line_for_each_order_of_the_answers(
    after_training: float, weights: str, tmp_path: Path
) -> None:
    for package in ("pandas", "tabulate"):
        pytest.importorskip(package, reason=f"needs {package}")
    from tools.experiments.comparison.figures import read_results, table

    run, unfinished = run_of("delg", tmp_path), run_of("how", tmp_path)
    for rerank, mean in ((None, 0.5), ("ransac", 0.625)):
        content = {"sets": [{"data": "photos/val", "mAP": mean}]}
        evaluation_file(rerank, run).write_text(json.dumps(content))
    times = {"extraction": [40, 42, 44], "search": [3, 3, 4], "ransac": [500, 520, 540]}
    costs = {run.name: {"bytes": 1024, "kept": {"ransac": 260_000}, **times}}

    records = [epoch_log(0, 0.375).as_dict(), epoch_log(1, after_training).as_dict()]
    config = HowConfig(backbone="efficientnet_lite0")
    Checkpoint(
        *("how", config, HowNetwork(config).state_dict(), ExtractionConfig(), AsmkParameters(), None),
        training={"records": records},
    ).save(run.checkpoint)

    lines = read_results([unfinished, run], costs)
    assert [line["framework"] for line in lines] == ["global", RERANKED]
    text = table({"machine": {"processor": "some"}, "systems": lines})
    rows = [[part.strip() for part in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| DELG")]
    once = [cell(42.0, (41.0, 43.0)), cell(3.0, (3.0, 3.5))]
    assert rows == [
        ["DELG", "", weights, "50.00", "1,024", "1.0", *once, ""],
        ["DELG", "ransac", weights, "62.50", "1,024 + 260,000", "261.0", *once, cell(520.0, (510.0, 530.0))],
    ]


def test_the_cost_is_that_of_an_image_and_of_each_part_of_a_query(
    engine: Path, photos: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "IMAGES", 40)
    index = tmp_path / "index"
    with Retriever(engine, index, device="cpu") as retriever:
        retriever.add(photos)
        keep_features(index, None, retriever.encoder)
        assert retriever.index is not None
        entries = retriever.index.stats().entries
    files, rerank = [Path(photo) for photo in photos], ["spatial", "ransac"]
    systems = {"both": cost.OpenSystem(engine, index, files, rerank), "none": cost.OpenSystem(engine, index, files, [])}
    costs = cost.costs_of(systems)
    assert costs["none"].keys() == {"bytes", "kept", "extraction", "search"}
    found = costs["both"]
    assert 8 * entries / len(photos) <= found["bytes"] <= 22 * entries / len(photos)  # codes of 16 bits, not of 128
    assert found["kept"].keys() == {"ransac"}
    assert found["kept"]["ransac"] > 0
    for part in ("extraction", "search", "spatial", "ransac"):
        assert len(found[part]) == cost.QUERIES
        assert min(found[part]) >= 0


def test_candidates_are_images_that_differ(engine: Path, photos: list[str]) -> None:
    with Retriever(engine, device="cpu") as retriever:
        encoder = retriever.encoder
        encoded = [encoder.encode_database(encoder.extract(cv2.imread(photo))) for photo in photos]
        store = encoder.first_stage.build([encoded[i % len(encoded)] for i in range(30)])
        query = encoder.encode_query(encoder.extract(cv2.imread(photos[2])))
        best = cost.best_of(store, query, [Path(photo) for photo in photos], 4)
    assert best.ids[0] == photos[2]
    (located,) = best.located
    assert len(set(located.rows.tolist())) == 4
    assert located.rows.max() < len(photos)
    assert (np.diff(best.scores) <= 0).all()


def test_the_settings_are_kept_and_others_refused(tmp_path: Path) -> None:
    jobs = [job_of(name, options_of(name), ["val"], "others", tmp_path) for name in ("gem", "how")]
    systems_only = [job_of("rmac", options_of("rmac"), ["val"], "others", tmp_path)]
    compare.keep_settings(jobs, tmp_path)
    compare.keep_settings(systems_only, tmp_path)  # systems may be added
    other = [job_of("gem", options_of("gem", "--tuples", "7"), ["val"], "others", tmp_path)]
    with pytest.raises(Exception, match="started with training efficientnet_lite0_stride32 gem training tuples 60"):
        compare.keep_settings(other, tmp_path)
    assert systems.SYSTEMS["how"].rerank == ("ransac", "spatial", "similarity")
