"""Training on a GPU: the losses of the CPU, and how much faster."""

import time
from dataclasses import replace

import numpy as np
import torch

from tools.experiments.gpu_steps.measuring import Result
from tools.experiments.gpu_steps.preparation import Prepared
from train.config import options_for
from train.data.folder import open_folder
from train.distributed import ProcessGroup
from train.learner import Learner
from train.mining import TrainingTuple

STEPS = 50  # of one tuple each
SIZE = 320


def training(prepared: Prepared, result: Result) -> None:
    """The same steps from the same weights on both, then in mixed precision, as ``howl train`` has it on a GPU."""
    options = options_for(data=str(prepared.photos), backbone="efficientnet_lite0", image_size=SIZE)
    config = replace(options.training, tuples_per_step=1, augmented=0.0)
    photos = open_folder(str(prepared.photos), SIZE)
    random = np.random.default_rng(0)
    tuples = [draw(photos.scenes, random, config.negatives) for _ in range(STEPS)]
    losses = {}
    for name, device, mixed in (("CPU", "cpu", False), ("GPU", "cuda", False), ("GPU, mixed precision", "cuda", True)):
        torch.manual_seed(0)
        model = prepared.network("efficientnet_lite0").build_model().to(device).train()
        model.backbone.mixed_precision = mixed
        learner = Learner(model, photos, config, ProcessGroup(0, 1, torch.device(device)))
        learner.set_learning_rate(0)
        learner.learn(tuples[:2], 0)  # the first steps load kernels
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        losses[name] = [learner.learn([each], 0) for each in tuples]
        row = {"where": name, "tuples a second": round(STEPS / (time.perf_counter() - start), 1)}
        row["mean loss"] = f"{np.mean(losses[name]):.5f}"
        apart = np.abs(np.subtract(losses[name], losses["CPU"])) / np.abs(losses["CPU"])
        row["apart from the CPU, first, last"] = f"{apart[0]:.1e}, {apart[-1]:.1e}"
        if device == "cuda":
            row["memory, GB"] = f"{torch.cuda.max_memory_allocated() / 1e9:.2f}"
        result.add(**row)


def draw(scenes: np.ndarray, random: np.random.Generator, negatives: int) -> TrainingTuple:
    """A query, another photo of its scene, and photos of other scenes."""
    query = int(random.integers(len(scenes)))
    same = np.flatnonzero((scenes == scenes[query]) & (np.arange(len(scenes)) != query))
    others = np.flatnonzero(scenes != scenes[query])
    chosen = random.choice(others, negatives, replace=False)
    return TrainingTuple(query, int(random.choice(same)), tuple(chosen.tolist()))
