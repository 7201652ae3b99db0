"""Training: it learns, keeps the best, goes on where it stopped, and does the same in two processes."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import train
from runtime.asmk.codebook import Codebook
from runtime.asmk.kernel import AsmkKernel, AsmkParameters
from runtime.errors import HowlError, ImageError
from runtime.features import Features, LocalFeatures
from runtime.io.image import Image
from train import trainer as training_module
from train import validation as validation_module
from train.checkpoint import Checkpoint
from train.config import TrainingConfig
from train.data import LabelledPhotos, Truth
from train.data.labelled import ALL
from train.descriptors import describe_images
from train.distributed import ProcessGroup
from train.learner import build_optimiser
from train.losses import average_precision_loss
from train.models.base import ExtractionConfig, RetrievalModel
from train.models.extractor import extract
from train.models.gem import GemConfig, GemNetwork
from train.models.how import HowConfig, HowNetwork
from train.run import main
from train.trainer import Training, reading_run, resume_training
from train.validation import Validation, codebook_of, mean_average_precision

pytestmark = pytest.mark.slow

EXTRACTION = ExtractionConfig(image_size=64, scales=(1.0,), features=60)


@pytest.fixture(autouse=True)
def no_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than an epoch of these networks; ``test_run`` looks at the picture."""
    monkeypatch.setattr("train.log.plot_curve", lambda records, path: None)


def copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in state.items()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    assert a.keys() == b.keys()
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def config() -> TrainingConfig:
    return TrainingConfig(
        "scenes", 1e-3, 2, 7, 64, 0.0, "contrastive", 0.8, tuples_per_step=3, words=8, codebook_photos=10
    )


@pytest.fixture
def begin(
    tiny_config: HowConfig, synthetic_photos: Callable[..., LabelledPhotos], alone: ProcessGroup
) -> Callable[..., Training]:
    """``begin(config)``: a prepared run with learned smoothing and a graph, the same each time."""

    def build(
        config: TrainingConfig, prepare: bool = True, photos: LabelledPhotos | None = None, **network: Any
    ) -> Training:
        torch.manual_seed(0)
        network_config = replace(tiny_config, **{"smoothing": "learned", "refine": "graph", **network})
        photos, validation = photos or synthetic_photos(6, 3), synthetic_photos(4, 2, first=50)
        training = Training(HowNetwork(network_config), photos, validation, config, EXTRACTION, alone)
        if prepare:
            training.prepare(random_backbone=True)
        return training

    return build


def test_training_learns_all_but_what_is_frozen(begin: Callable, config: TrainingConfig, tmp_path: Path) -> None:
    training = begin(replace(config, epochs=6, tuples=18, learning_rate=2e-3))
    before = copied(training.model.state_dict())
    training.run(tmp_path / "ckpt.pt")
    losses = [record.loss for record in training.records]
    assert losses[0] is None
    assert losses[-1] < 0.8 * losses[1]
    learned = {name for name, parameter in training.model.named_parameters() if parameter.requires_grad}
    for name, value in training.model.state_dict().items():
        assert torch.equal(value, before[name]) == (name not in learned), name
    assert {name.split(".")[0] for name in before if name not in learned} == {"backbone", "whitening"}


def test_whitening_from_views_is_learned_anew_after_an_epoch(
    begin: Callable, config: TrainingConfig, tmp_path: Path
) -> None:
    training = begin(replace(config, epochs=1, whitening="views"))
    before = copied(training.model.whitening.state_dict())
    training.run(tmp_path / "ckpt.pt")
    after = copied(training.model.whitening.state_dict())
    assert not torch.equal(before["projection.weight"], after["projection.weight"])
    training.prepare(random_backbone=False)
    assert equal(after, training.model.whitening.state_dict())  # it is that of the network as it now is


def test_a_frozen_backbone_stays_and_the_refinements_learn(
    begin: Callable, config: TrainingConfig, tmp_path: Path
) -> None:
    training = begin(replace(config, freeze_backbone=True))
    before = copied(training.model.state_dict())
    training.run(tmp_path / "ckpt.pt")
    same = {name: torch.equal(value, before[name]) for name, value in training.model.state_dict().items()}
    assert all(same[name] for name in same if name.startswith(("backbone.", "whitening.")))
    assert not any(same[name] for name in same if name.startswith(("smoothing.", "graph.")) and "rings" not in name)


def test_a_frozen_backbone_without_refinements_ends_before_its_first_step(
    begin: Callable, config: TrainingConfig, tmp_path: Path
) -> None:
    training = begin(replace(config, freeze_backbone=True), smoothing="average", refine="none")
    best = training.run(tmp_path / "ckpt.pt")
    assert [record.epoch for record in training.records] == [0]
    assert len(best.codebook)


def test_random_backbones_are_given_statistics_and_others_keep_theirs(begin: Callable, config: TrainingConfig) -> None:
    training = begin(config, prepare=False)
    backbone = training.model.backbone
    built = copied(backbone.state_dict())
    training.prepare(random_backbone=False)
    assert equal(backbone.state_dict(), built)
    training.prepare(random_backbone=True)
    first_layer = []
    backbone.bn1.register_forward_hook(lambda module, inputs, output: first_layer.append(output.detach()))
    for _, image in training.photos.read_all(range(len(training.photos))):
        backbone(torch.from_numpy(image).permute(2, 0, 1)[None].float())
    outputs = torch.cat([output.flatten(2) for output in first_layer]).transpose(0, 1).flatten(1)
    torch.testing.assert_close(outputs.mean(dim=1), torch.zeros(12), rtol=0, atol=0.02)
    assert 0.5 < float(outputs.std(dim=1).min()) <= float(outputs.std(dim=1).max()) < 1.5


@pytest.mark.parametrize("backbone", ["resnet18", "efficientnet_lite0"])
def test_a_random_backbone_stands_photos_of_a_single_position(
    backbone: str, begin: Callable, config: TrainingConfig, photo_of: Callable[..., Image]
) -> None:
    photos = LabelledPhotos(["small", "large"], [0, 0], lambda i: photo_of(i, 0, *((32, 32), (64, 48))[i]))
    training = begin(config, photos=photos, backbone=backbone, refine="none")
    assert all(value.isfinite().all() for value in training.model.state_dict().values())


def test_the_recipes_rates_reach_backbone_and_new_modules(
    begin: Callable, config: TrainingConfig, tmp_path: Path
) -> None:
    training = begin(replace(config, epochs=3))
    groups = build_optimiser(training.model, config).param_groups
    backbone, new = ([id(parameter) for parameter in group["params"]] for group in groups)
    assert backbone == [id(parameter) for parameter in training.model.backbone.parameters()]
    assert set(new) == {id(p) for module in training.model.new_modules() for p in module.parameters()}
    assert [group["lr"] for group in groups] == pytest.approx([1e-3, 1e-2])
    assert [group["weight_decay"] for group in groups] == [1e-4, 1e-4]
    training.run(tmp_path / "ckpt.pt")
    assert [r.learning_rate for r in training.records] == pytest.approx([0, 1e-3, 1e-3 * 0.99, 1e-3 * 0.99**2])
    groups = training.learner.optimiser.param_groups
    assert [group["lr"] for group in groups] == pytest.approx([1e-3 * 0.99**2, 1e-2 * 0.99**2])


def test_a_step_sums_the_gradients_of_its_tuples(begin: Callable, config: TrainingConfig, tmp_path: Path) -> None:
    """Plain PyTorch with one backward pass over the sum of a step's losses does the same."""
    training = begin(replace(config, epochs=1))
    reference = begin(replace(config, epochs=1))
    training.run(tmp_path / "ckpt.pt")
    optimiser = torch.optim.Adam(
        [
            {"params": list(reference.model.backbone.parameters()), "lr": 1e-3},
            {"params": [p for m in reference.model.new_modules() for p in m.parameters()], "lr": 1e-2},
        ],
        weight_decay=1e-4,
    )
    tuples = training_module.mine_tuples(
        partial(describe_images, reference.model), reference.photos, reference.config, 0, reference.processes
    )
    losses = []
    for step in (tuples[:3], tuples[3:6], tuples[6:]):
        optimiser.zero_grad()
        step_losses = []
        for query, positive, negatives in step:
            q, p, *n = describe_images(
                reference.model, [reference.photos.read(i) for i in (query, positive, *negatives)]
            )
            pushed = sum((0.8 - (q - x).norm()).clamp(min=0) ** 2 for x in n)
            step_losses.append(0.5 * (q - p).norm() ** 2 + 0.5 * pushed)
        sum(step_losses).backward()
        optimiser.step()
        losses += [float(loss.detach()) for loss in step_losses]
    assert training.records[1].loss == pytest.approx(np.mean(losses), rel=1e-3)
    assert training.records[1].tuples == 7
    for name, value in training.model.state_dict().items():
        torch.testing.assert_close(value, reference.model.state_dict()[name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize(("scenes", "says"), [(2, "hardly tell"), (8, None), (None, "too few scenes")])
def test_it_is_said_at_once_when_validation_can_hardly_choose(
    scenes: int | None, says: str | None, begin: Callable, config: TrainingConfig, synthetic_photos: Callable
) -> None:
    training, said = begin(config, prepare=False), list[str]()
    training.say = said.append
    training.validation = synthetic_photos(scenes, 2, first=50) if scenes else training.photos
    training.introduce()
    assert any("epochs" in line and (says or "apart") in line for line in said) == (says is not None)


@pytest.mark.parametrize(("loss", "tuples", "says"), [("ap", 3, True), ("ap", 20, False), ("contrastive", 3, False)])
def test_a_list_of_few_photos_is_said(
    loss: str, tuples: int, says: bool, begin_gem: Callable, config: TrainingConfig
) -> None:
    training, said = begin_gem(replace(config, loss=loss, tuples_per_step=tuples), prepare=False), list[str]()
    training.say = said.append
    training.introduce()
    assert any("--tuples-per-step 20" in line for line in said) == says


def test_a_run_says_how_long_it_takes_and_how_far_it_is(
    begin: Callable, config: TrainingConfig, tmp_path: Path
) -> None:
    training, said = begin(replace(config, epochs=2), prepare=False), list[str]()
    training.say = said.append
    training.introduce()
    assert "2 epochs of 7 tuples, " in said[-1]
    training.prepare(random_backbone=True)
    training.run(tmp_path / "ckpt.pt")
    for epoch, line in enumerate(said[-3:]):
        assert line.startswith(f"epoch {epoch} of 2  ")
        assert "left" in line


@pytest.mark.parametrize(
    ("scores", "every", "best"),
    [
        ([0.3, 0.5, 0.4, 0.45], 1, 1),
        ([0.6, 0.5, 0.4, 0.45], 1, 0),
        ([0.3, 0.5, 0.5, 0.5], 1, 1),
        ([0.5, 0.4, 0.5, 0.5], 1, 2),
        ([0.3, None, 0.4, 0.9], 2, 3),
    ],
    ids=["an early one", "before training", "the first of equals", "a trained one of equals", "the last, out of turn"],
)
def test_the_best_epoch_is_kept(
    scores: list[float | None],
    every: int,
    best: int,
    begin: Callable,
    config: TrainingConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights = {}

    def scripted(model: HowNetwork, *others: object) -> Validation:
        epoch = len(training.records)
        weights[epoch] = copied(model.state_dict())
        return Validation(Codebook(np.full((1, 8), epoch, np.float32)), scores[epoch])

    monkeypatch.setattr(training_module, "validate", scripted)
    training = begin(replace(config, epochs=3, validate_every=every), smoothing="average", refine="none")
    training.run(tmp_path / "ckpt.pt")
    kept = Checkpoint.load(tmp_path / "ckpt.pt")
    assert [record.mean_average_precision for record in training.records] == scores
    assert equal(kept.weights, weights[best])
    words = codebook_of(kept.build_model(), training.photos, EXTRACTION, count=10, words=8, seed=0)
    np.testing.assert_array_equal(kept.codebook.centroids, words.centroids)
    assert equal(kept.training["weights"], weights[3])  # where the next epoch would begin
    assert len({float(state["backbone.conv1.weight"].sum()) for state in weights.values()}) == len(weights)


def test_words_are_learned_from_what_an_index_holds(
    begin: Callable, config: TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The descriptors of all levels."""
    training, extraction = begin(config), replace(EXTRACTION, scales=(1.0, 0.5))
    monkeypatch.setattr(validation_module, "learn_codebook", lambda descriptors, words, seed: descriptors)
    learned_from = codebook_of(training.model, training.photos, extraction, count=1, words=8, seed=0)
    extractor, photos = training.model.extractor(extraction), training.photos
    each = [extract(extractor, photos.load(number)).need_local() for number in range(len(photos))]
    columns = np.sort(learned_from, axis=0)  # the order of the rows is drawn
    (same,) = (features for features in each if np.array_equal(np.sort(features.descriptors, axis=0), columns))
    assert set(same.positions[:, 2].round(2)) == {1.0, 0.5}


def resumed(begin: Callable, config: TrainingConfig, path: Path) -> Training:
    """What ``--resume`` does, in a process that knows nothing of the first run."""
    training = begin(config, prepare=False)
    training.load_state(Checkpoint.load(path))
    return training


@pytest.mark.parametrize(("stop", "whitening"), [(0, "pca"), (1, "views")])
def test_resuming_comes_to_the_same_numbers(
    begin: Callable, config: TrainingConfig, tmp_path: Path, stop: int, whitening: str
) -> None:
    config = replace(config, whitening=whitening)
    config = replace(config, augmented=0.5)
    whole = begin(replace(config, epochs=2))
    whole.run(tmp_path / "whole.pt")
    begin(replace(config, epochs=stop)).run(tmp_path / "part.pt")
    continued = resumed(begin, replace(config, epochs=2), tmp_path / "part.pt")
    continued.run(tmp_path / "part.pt")
    assert [replace(record, seconds=0) for record in continued.records] == [
        replace(record, seconds=0) for record in whole.records
    ]
    assert equal(continued.model.state_dict(), whole.model.state_dict())
    states = [run.learner.optimiser.state_dict()["state"] for run in (continued, whole)]
    assert states[0].keys() == states[1].keys()
    assert all(equal(states[0][key], states[1][key]) for key in states[0])
    part, at_once = (Checkpoint.load(tmp_path / name) for name in ("part.pt", "whole.pt"))
    assert equal(part.weights, at_once.weights)
    np.testing.assert_array_equal(part.codebook.centroids, at_once.codebook.centroids)


def drop(*keys: Any) -> Callable[[dict[str, Any]], None]:
    """Takes out what lies under these keys."""

    def alter(progress: dict[str, Any]) -> None:
        for key in keys[:-1]:
            progress = progress[key]
        del progress[keys[-1]]

    return alter


@pytest.mark.parametrize(
    "alter",
    [
        drop("weights"),
        drop("weights", "whitening.projection.bias"),
        drop("records"),
        drop("records", 0),
        drop("records", 0, "loss"),
        drop("optimiser", "state"),
        drop("optimiser", "state", 0, "step"),
        drop("unreadable"),
        lambda progress: progress["records"][0].update(epoch="first"),
        lambda progress: progress["optimiser"]["state"][0].update(exp_avg=torch.zeros(2)),
        lambda progress: progress["optimiser"]["state"].update({99: {}}),
        lambda progress: progress.update(optimiser=None),
    ],
)
def test_a_run_that_lacks_something_or_holds_something_odd_is_one_line(
    begin: Callable, config: TrainingConfig, tmp_path: Path, alter: Callable[[dict[str, Any]], object]
) -> None:
    path = tmp_path / "ckpt.pt"
    begin(replace(config, epochs=1, tuples=2)).run(path)
    checkpoint = Checkpoint.load(path)
    alter(checkpoint.training)
    with pytest.raises(HowlError, match=r"ckpt\.pt: its training run is damaged, [^\n]+$"), reading_run(path):
        begin(config, prepare=False).load_state(checkpoint)


@pytest.mark.parametrize("change", [{"words": None}, {"tuples": -1}, {"loss": "least squares"}, {"colour": "red"}])
def test_settings_of_a_run_that_are_none_are_one_line(
    begin: Callable, config: TrainingConfig, tmp_path: Path, change: dict[str, Any]
) -> None:
    path = tmp_path / "ckpt.pt"
    begin(replace(config, epochs=0)).run(path)
    content = torch.load(path, weights_only=True)
    content["training"]["config"] |= change
    torch.save(content, path)
    with pytest.raises(HowlError, match=r"ckpt\.pt: its training run is damaged, [^\n]+$"):
        resume_training(path)


def test_resuming_with_no_epoch_left_still_writes_where_it_is_asked_to(
    begin: Callable, config: TrainingConfig, tmp_path: Path
) -> None:
    begin(replace(config, epochs=1)).run(tmp_path / "ckpt.pt")
    resumed(begin, replace(config, epochs=1), tmp_path / "ckpt.pt").run(tmp_path / "copy.pt")
    first, copy = (Checkpoint.load(tmp_path / name) for name in ("ckpt.pt", "copy.pt"))
    assert equal(first.weights, copy.weights)
    assert first.training["records"] == copy.training["records"]
    assert (tmp_path / "copy.jsonl").read_text() == (tmp_path / "ckpt.jsonl").read_text()


@pytest.fixture
def begin_gem(
    tiny_backbone: str, synthetic_photos: Callable[..., LabelledPhotos], alone: ProcessGroup
) -> Callable[..., Training]:
    """``begin_gem(config)``: a prepared run of a global system, the same each time."""

    def build(config: TrainingConfig, prepare: bool = True) -> Training:
        torch.manual_seed(0)
        extraction = ExtractionConfig(image_size=64, scales=(1.0, 0.707), features=None)
        model = GemNetwork(GemConfig(backbone=tiny_backbone, dimensions=8))
        training = Training(model, synthetic_photos(6, 3), synthetic_photos(4, 2, first=50), config, extraction, alone)
        if prepare:
            training.prepare(random_backbone=True)
        return training

    return build


def test_a_global_system_learns_and_resumes_to_the_same_numbers(
    begin_gem: Callable, config: TrainingConfig, tmp_path: Path
) -> None:
    whole = begin_gem(replace(config, epochs=3, tuples=18, learning_rate=2e-3))
    before = copied(whole.model.state_dict())
    whole.run(tmp_path / "whole.pt")
    kept = Checkpoint.load(tmp_path / "whole.pt")
    assert (kept.system, kept.codebook, kept.asmk) == ("gem", None, None)
    assert whole.records[3].loss < whole.records[1].loss
    learned = {name for name, parameter in whole.model.named_parameters() if parameter.requires_grad}
    assert "pooling.p" in learned
    changing = {*learned, "whitening.projection.weight", "whitening.projection.bias"}  # for a backbone that changes
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, before[name]) == (name not in changing), name
    begin_gem(replace(whole.config, epochs=1)).run(tmp_path / "part.pt")
    continued = resumed(begin_gem, whole.config, tmp_path / "part.pt")
    continued.run(tmp_path / "part.pt")
    assert [replace(record, seconds=0) for record in continued.records] == [
        replace(record, seconds=0) for record in whole.records
    ]
    assert equal(continued.model.state_dict(), whole.model.state_dict())
    assert equal(Checkpoint.load(tmp_path / "part.pt").weights, kept.weights)


@pytest.mark.parametrize(
    ("model", "settings", "relearns"),
    [
        (HowNetwork, {"whitening": "views"}, True),
        (HowNetwork, {"whitening": "pca"}, False),  # as HOW's authors do
        (GemNetwork, {"whitening": "pca"}, True),
        (GemNetwork, {"whitening": "pca", "freeze_backbone": True}, False),
    ],
)
def test_whitening_is_learned_anew_where_what_it_is_learned_from_changes(
    model: type[RetrievalModel], settings: dict[str, Any], relearns: bool, config: TrainingConfig
) -> None:
    assert replace(config, **settings).relearns_whitening(model) == relearns


def test_no_epochs_learn_whitening_and_codebook_alone(begin: Callable, config: TrainingConfig, tmp_path: Path) -> None:
    training = begin(replace(config, epochs=0))
    before = copied(training.model.state_dict())
    checkpoint = training.run(tmp_path / "ckpt.pt")
    assert [record.epoch for record in training.records] == [0]
    assert equal(Checkpoint.load(tmp_path / "ckpt.pt").weights, before)
    assert checkpoint.codebook.dimensions == 8
    assert 0 <= training.records[0].mean_average_precision <= 1


def test_broken_photos_are_left_out_and_stay_out(begin: Callable, config: TrainingConfig, tmp_path: Path) -> None:
    def break_some(photos: LabelledPhotos) -> None:
        whole = photos.load

        def read(index: int) -> Image:
            if index in (1, 3):
                raise ImageError(f"{photos.names[index]}: empty file")
            return whole(index)

        photos.load = read

    training = begin(config, prepare=False)
    for photos in (training.photos, training.validation):
        break_some(photos)
    training.prepare(random_backbone=True)
    training.run(tmp_path / "ckpt.pt")
    assert set(training.photos.unreadable) == {"0/1", "1/0"}
    assert set(training.validation.unreadable) == {"50/1", "51/1"}
    assert len(training.records) == 3
    continued = resumed(begin, config, tmp_path / "ckpt.pt")
    assert continued.photos.unreadable == training.photos.unreadable
    assert continued.validation.unreadable == training.validation.unreadable
    assert not continued.photos.usable[[1, 3]].any()


def test_photos_that_can_all_not_be_read_are_one_clear_error(begin: Callable, config: TrainingConfig) -> None:
    def read(index: int) -> Image:
        raise ImageError(f"{index}: empty file")

    with pytest.raises(HowlError, match="no readable photo to learn whitening from"):
        begin(config, photos=LabelledPhotos(["a", "b", "c"], [0, 0, 1], read))


def test_more_processes_than_tuples_of_a_step_are_refused(begin: Callable, config: TrainingConfig) -> None:
    training = begin(config, prepare=False)
    four = ProcessGroup(0, 4, torch.device("cpu"))
    with pytest.raises(HowlError, match="--tuples-per-step"):
        replace(training, processes=four)


def local_features(descriptors: np.ndarray) -> Features:
    """Features of descriptors [n, D], all at one place."""
    n = len(descriptors)
    return Features(LocalFeatures(descriptors.astype(np.float32), np.ones(n, np.float32), np.zeros((n, 3), np.float32)))


def described(vectors: np.ndarray) -> dict[int, Features]:
    """Photos of a single feature each, [n, D]."""
    return {i: local_features(vector[None]) for i, vector in enumerate(vectors)}


def by_signs() -> AsmkKernel:
    """ASMK with one word at the origin: of single features it compares the signs."""
    return AsmkKernel(Codebook(np.zeros((1, 8), np.float32)), AsmkParameters(multiple_assignment=1))


def test_validation_finds_a_photo_by_the_others_of_its_scene() -> None:
    """All positives come first, and none is the query itself; a distractor that is like a photo takes a place."""
    scenes = [0, 0, 0, 1, 1]
    photos = LabelledPhotos([str(i) for i in range(5)], scenes, lambda i: np.zeros((2, 2, 3), np.uint8))
    signs = np.sign(np.random.default_rng(0).normal(size=(2, 8)))[scenes]
    features = described(signs)
    queries = list(features.items())
    assert mean_average_precision(photos, queries, features, (), by_signs()) == 1
    assert mean_average_precision(photos, [(0, features[3])], features, (), by_signs()) < 0.7
    unlike = described(np.stack([signs[0], -signs[0], -signs[0]]))
    assert mean_average_precision(photos, [(0, features[0])], unlike, (), by_signs()) == 1
    like_the_query = [features[0]]
    assert mean_average_precision(photos, [(0, features[0])], unlike, like_the_query, by_signs()) < 0.7


def test_what_a_data_set_calls_junk_counts_for_nothing_in_validation() -> None:
    def found(junk: list[int]) -> float:
        truths = {ALL: {0: Truth(np.array([1]), np.array(junk, np.int64))}}
        photos = LabelledPhotos(list("abcdef"), range(6), lambda i: np.zeros((2, 2, 3), np.uint8), truths)
        return mean_average_precision(photos, [(0, features[0])], features, (), by_signs())

    features = described(np.random.default_rng(0).normal(size=(6, 8)))
    assert found(junk=[]) < 1
    assert found(junk=[2, 3, 4, 5]) == 1


def test_the_photos_of_a_step_are_one_list_in_three_stages(
    begin_gem: Callable, config: TrainingConfig, tmp_path: Path
) -> None:
    """Plain PyTorch, which holds all photos of a step at once, does the same."""
    config = replace(config, loss="ap", epochs=1, learning_rate=1e-4)
    training, reference = begin_gem(config), begin_gem(config)
    training.run(tmp_path / "ckpt.pt")
    optimiser = build_optimiser(reference.model, config)
    tuples = training_module.mine_tuples(
        partial(describe_images, reference.model), reference.photos, config, 0, reference.processes
    )
    losses = []
    for step in (tuples[:3], tuples[3:6], tuples[6:]):
        optimiser.zero_grad()
        listed = np.array([i for t in step for i in (t.query, t.positive, *t.negatives)])
        descriptors = describe_images(reference.model, [reference.photos.read(i) for i in listed.tolist()])
        scenes = reference.photos.scenes[listed]
        same_place, another = scenes[:, None] == scenes, listed[:, None] != listed
        loss = average_precision_loss(descriptors, torch.from_numpy(same_place), torch.from_numpy(another))
        loss.backward()
        optimiser.step()
        losses += [float(loss.detach())] * len(step)
    assert training.records[1].loss == pytest.approx(np.mean(losses), rel=1e-4)
    for name, value in training.model.backbone.state_dict().items():
        torch.testing.assert_close(value, reference.model.backbone.state_dict()[name], rtol=1e-3, atol=1e-5, msg=name)


# ------------------------------------------------------------------------------------------------ two processes


def run_in_processes(processes: int, arguments: list[str]) -> None:
    """The command as torchrun starts it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    root = Path(train.__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    started = [
        subprocess.Popen(
            [sys.executable, str(root / "train" / "run.py"), *arguments],
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    try:
        for process in started:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
    finally:
        for process in started:
            process.kill()


# Whitening that is learned anew turns with the last bit of a weight, and so do more directions of it than photos have.
HOW_IN_SMALL = ["--features", "20", "--smoothing", "learned", "--graph", "--dimensions", "16", "--whitening", "pca"]
GEM_BY_LISTS = ["--system", "gem", "--loss", "ap", "--dimensions", "6"]


@pytest.mark.parametrize("system", [HOW_IN_SMALL, GEM_BY_LISTS], ids=["tuples", "lists"])
def test_two_processes_learn_what_one_learns(
    system: list[str], tmp_path: Path, write_photos: Callable, break_photo: Callable
) -> None:
    """Four tuples an epoch: in a step of three a process has one more, in that of the fourth one has none.

    One photo is broken, and one process alone meets it.
    """
    write_photos(tmp_path / "photos", scenes=4, views=3)
    break_photo(tmp_path / "photos" / "place1" / "1.jpg", "truncated")
    arguments = [*system, "--data", str(tmp_path / "photos"), "--image-size", "64", "--scales", "1"]
    arguments += ["--epochs", "2", "--tuples", "4", "--tuples-per-step", "3", "--learning-rate", "1e-5"]
    main([*arguments, "--out", str(tmp_path / "one.pt")])
    run_in_processes(2, [*arguments, "--out", str(tmp_path / "two.pt")])
    one, two = (Checkpoint.load(tmp_path / name).training for name in ("one.pt", "two.pt"))
    for first, second in zip(one["records"], two["records"], strict=True):
        assert (first["epoch"], first["tuples"]) == (second["epoch"], second["tuples"])
        assert first["loss"] == second["loss"] or first["loss"] == pytest.approx(second["loss"], rel=1e-3)
    # Adam's steps have the size of the learning rate, whatever the gradients: its means tell what the weights do not.
    means = [torch.cat([s["exp_avg"].flatten() for s in run["optimiser"]["state"].values()]) for run in (one, two)]
    assert float((means[0] - means[1]).norm() / means[0].norm()) < 1e-3
    assert one["unreadable"].keys() == two["unreadable"].keys() == {"place1/1.jpg"}
