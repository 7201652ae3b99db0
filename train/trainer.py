"""Training: mine, step, validate, keep the best epoch; a run can be resumed after any epoch.

``start_training`` and ``resume_training`` are the stage as a whole, from options to a checkpoint.
"""

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from runtime.asmk.kernel import AsmkParameters
from runtime.errors import DamagedError, ImageError, IncompatibleError, StorageError, UsageError
from runtime.first_stage import ASMK
from runtime.io.files import ensure_writable
from runtime.io.image import MIN_SIDE, Image
from runtime.io.unpickle import one_line
from train.calibration import calibrate_batch_norm, learn_whitening
from train.checkpoint import Checkpoint
from train.config import DATA_ROOT, TrainingConfig, TrainOptions
from train.data import open_data
from train.data.labelled import LabelledPhotos
from train.descriptors import describe_images
from train.distributed import ProcessGroup, join_process_group, use_threads
from train.log import CURVE_SUFFIX, LOG_SUFFIX, EpochLog, write_log
from train.losses import TupleLoss
from train.mining import TrainingTuple, mine_tuples
from train.models.base import ExtractionConfig, RetrievalModel, of_declared_types
from train.models.registry import build_model
from train.validation import validate
from train.weights.init import init_weights
from train.weights.safe_load import ODDITIES

SATURATED = 0.99  # mAP of validation from which epochs differ by little more than chance
SAY = partial(print, flush=True)  # at once, even into a file


def start_training(options: TrainOptions, say: Callable[[str], None] = SAY) -> Checkpoint | None:
    """Trains a network from its first weights; under ``torchrun``, together with the other processes.

    Args:
        options: all settings.
        say: is told, line by line, what is trained on and how each epoch went.

    Returns:
        the checkpoint of the best epoch, as it lies in ``options.out``, beside its log and its curve; None in all
        processes but the first.

    Raises:
        HowlError: photos or weights are missing, the checkpoint exists or cannot be written, or settings conflict.
    """
    check_out(options.out)
    use_threads(options.threads)
    if options.out.exists():
        raise StorageError(
            f"{options.out}: exists already; go on with --resume {options.out}, name another --out, or delete it"
        )
    config, image_size = options.training, options.extraction.image_size
    with join_process_group() as processes:
        photos, validation = open_data(config.data, image_size=image_size, seed=config.seed, root=options.data_root)
        torch.manual_seed(config.seed)
        model = build_model(options.system, options.network)
        loaded = init_weights(model, options.init)
        if processes.is_first and "whitening" in loaded:
            say(f"from {options.init}: {', '.join(sorted(loaded))}")
        training = Training(model, photos, validation, config, options.extraction, processes, say)
        training.prepare(random_backbone=options.init == "random", whitened="whitening" in loaded)
        return training.run(options.out)


def resume_training(
    checkpoint: Path,
    *,
    out: Path | None = None,
    epochs: int | None = None,
    data_root: Path = DATA_ROOT,
    threads: int | None = None,
    say: Callable[[str], None] = SAY,
) -> Checkpoint | None:
    """Goes on with a training run where it stopped, and comes to the numbers of a run that never did.

    Args:
        checkpoint: of the run; its settings are kept.
        out: the checkpoint to write; None for the one resumed.
        epochs: in all; None for as many as it was started with.
        data_root: where published data sets lie.
        threads: of the CPU; None for one per core.
        say: as in ``start_training``.

    Returns:
        as ``start_training``.

    Raises:
        HowlError: the checkpoint cannot be read or holds no run, or as ``start_training``.
    """
    out = out or checkpoint
    check_out(out)
    use_threads(threads)
    earlier = Checkpoint.load(checkpoint)
    if "config" not in earlier.training:
        raise IncompatibleError(f"{checkpoint}: holds no training run to resume")
    with reading_run(checkpoint):
        config = TrainingConfig(**earlier.training["config"])
        TrainOptions(earlier.system, earlier.network, config, earlier.extraction)  # whether they go together
    if epochs is not None:
        config = replace(config, epochs=epochs)
    image_size = earlier.extraction.image_size
    with join_process_group() as processes:
        photos, validation = open_data(config.data, image_size=image_size, seed=config.seed, root=data_root)
        training = Training(earlier.build_model(), photos, validation, config, earlier.extraction, processes, say)
        with reading_run(checkpoint):
            training.load_state(earlier)
        return training.run(out)


@contextmanager
def reading_run(checkpoint: Path) -> Iterator[None]:
    """Whatever is odd about the run that a checkpoint holds is a DamagedError of one line."""
    try:
        yield
    except ODDITIES as error:
        raise DamagedError(
            f"{checkpoint}: its training run is damaged, start it again: {type(error).__name__}: {one_line(error)}"
        ) from None


def check_out(out: Path) -> None:
    """Finds out, before any work, whether a checkpoint can be written. Raises HowlError."""
    if out.suffix in (LOG_SUFFIX, CURVE_SUFFIX):
        raise UsageError(f"--out {out}: the log or the curve beside the checkpoint gets that name; use .pt")
    ensure_writable(out)


@dataclass
class Training:
    """A training run: what learns, on what, how, and how far it has come.

    ``prepare`` starts a run, ``load_state`` resumes that of a checkpoint, ``run`` trains the remaining epochs.

    Attributes:
        model: the network; moved to the device of ``processes``.
        photos: to train on.
        validation: photos to validate on.
        config: how to train.
        extraction: of validation.
        processes: this process and its group.
        say: is told, line by line, what is trained on and how each epoch went.
        asmk: parameters of the search; None if the system does not search by ASMK.
        records: the log so far.
        best: the checkpoint of the best epoch so far.
    """

    model: RetrievalModel
    photos: LabelledPhotos
    validation: LabelledPhotos
    config: TrainingConfig
    extraction: ExtractionConfig
    processes: ProcessGroup
    say: Callable[[str], None] = SAY

    def __post_init__(self) -> None:
        if self.config.tuples_per_step < self.processes.world:
            raise UsageError(
                f"{self.processes.world} processes need at least as many tuples a step: "
                f"{self.config.tuples_per_step} are set (--tuples-per-step)"
            )
        self.model.to(self.processes.device)
        self.model.backbone.requires_grad_(not self.config.freeze_backbone)
        self.model.backbone.mixed_precision = self.processes.device.type == "cuda"
        self.asmk = AsmkParameters() if self.model.method == ASMK else None
        self.tuple_loss = TupleLoss(self.model, self.config.loss, self.config.margin)
        self.optimiser = build_optimiser(self.model, self.config)
        self.records: list[EpochLog] = []
        self.best: Checkpoint | None = None

    @property
    def learns(self) -> bool:
        """Whether there is anything to learn: a frozen backbone alone has nothing."""
        return any(parameter.requires_grad for parameter in self.model.parameters())

    def prepare(self, *, random_backbone: bool, whitened: bool = False) -> None:
        """Learns what stays frozen: BatchNorm statistics of a random backbone, and whitening unless it was loaded."""
        if random_backbone:
            calibrate_batch_norm(self.model.backbone, self.photos, self.config.seed)
        if not whitened:
            learn_whitening(
                self.model,
                self.photos,
                self.processes,
                count=self.config.whitening_photos,
                features=self.config.whitening_features,
                seed=self.config.seed,
            )

    def load_state(self, checkpoint: Checkpoint) -> None:
        """Restores the state in which the checkpoint's run stopped."""
        progress = checkpoint.training
        self.best = checkpoint
        self.asmk = checkpoint.asmk
        self.model.load_state_dict(progress["weights"])
        load_moments(self.optimiser, progress["optimiser"]["state"])
        self.records = [EpochLog(**record) for record in progress["records"]]
        for epoch, record in enumerate(self.records):
            of_declared_types(record)
            if record.epoch != epoch:
                raise ValueError(f"record {epoch} is of epoch {record.epoch}")
        self.photos.leave_out(progress["unreadable"])
        self.validation.leave_out(progress["unreadable_validation"])

    def run(self, out: Path) -> Checkpoint | None:
        """Trains the remaining epochs and writes the checkpoint, log and curve after each.

        Returns:
            the checkpoint of the best epoch, as it lies in ``out``; None in all processes but the first.
        """
        if self.processes.is_first:
            self._introduce()
        if not self.records:
            self._finish_epoch(EpochLog(0, None, None, 0.0, 0, 0.0), time.perf_counter(), out)
        elif self.processes.is_first:
            self._write(out)  # if no epoch is left, nothing else writes it
        tuple_loss = self._distributed()
        for epoch in range(self.records[-1].epoch, self.config.epochs if self.learns else 0):
            begin = time.perf_counter()
            rate = self._set_learning_rate(epoch)
            self.model.eval()
            describe = partial(describe_images, self.model)
            tuples = mine_tuples(describe, self.photos, self.config, epoch, self.processes)
            self.model.train()
            loss = self._train_on(tuple_loss, tuples, f"epoch {epoch + 1}: training")
            self._finish_epoch(EpochLog(epoch + 1, loss, None, rate, len(tuples), 0.0), begin, out)
        return self.best if self.processes.is_first else None

    def _introduce(self) -> None:
        """Says what is trained on, and what is odd about it."""
        if self.validation is self.photos:
            self.say(
                "too few scenes to keep any for validation: the training photos serve for both (10 scenes would do)"
            )
        self.say(f"training on {self.photos.describe()}; validation on {self.validation.describe()}")
        if not self.learns:
            codebook = " and visual words" if self.model.method == ASMK else ""
            self.say(f"the backbone is frozen and there is no refinement: only whitening{codebook} are learned")

    def _train_on(self, tuple_loss: nn.Module, tuples: list[TrainingTuple], label: str) -> float:
        """One pass over the tuples; the mean loss of a tuple."""
        per_step = self.config.tuples_per_step
        steps = [tuples[i : i + per_step] for i in range(0, len(tuples), per_step)]
        mine = [self.processes.share(step) for step in steps]
        images = self._tuple_images([t for step in mine for t in step])
        total = 0.0
        for step in tqdm(mine, desc=label, unit="step", leave=False, disable=self.processes.hides_progress):
            self.optimiser.zero_grad()
            for position, _ in enumerate(step):
                total += self._learn_tuple(tuple_loss, next(images), last_of_step=position == len(step) - 1)
            if not step:
                self._learn_nothing(tuple_loss)
            self.optimiser.step()
        return sum(self.processes.gather(total)) / len(tuples)

    def _learn_tuple(self, tuple_loss: nn.Module, images: list[Image], *, last_of_step: bool) -> float:
        """Adds one tuple's gradient; the processes exchange gradients with the last of a step."""
        wait = isinstance(tuple_loss, DistributedDataParallel) and not last_of_step
        with tuple_loss.no_sync() if wait else nullcontext():  # type: ignore[operator]
            loss = tuple_loss(images)
            # HOW sums gradients over the tuples of a step; DDP divides by the number of processes.
            (loss * self.processes.world).backward()
        return float(loss.detach())

    def _learn_nothing(self, tuple_loss: nn.Module) -> None:
        """A zero gradient, from a process without a tuple in a short last step: the other processes wait for it."""
        black = np.zeros((MIN_SIDE, MIN_SIDE, 3), np.uint8)
        (0 * tuple_loss([black] * 3)).backward()

    def _tuple_images(self, tuples: list[TrainingTuple]) -> Iterator[list[Image]]:
        """The photos of each tuple: query, positive, negatives; read ahead."""
        reader = self.photos.read_all(i for t in tuples for i in (t.query, t.positive, *t.negatives))
        for t in tuples:
            images = []
            for index, image in islice(reader, 2 + len(t.negatives)):
                if image is None:
                    raise ImageError(f"{self.photos.names[index]}: could be read before, and now cannot")
                images.append(image)
            yield images

    def _finish_epoch(self, record: EpochLog, begin: float, out: Path) -> None:
        """Validates if this epoch is to be validated, keeps the best, and writes the files."""
        validates = record.epoch % self.config.validate_every == 0 or record.epoch == self.config.epochs
        if self.processes.is_first:
            if validates:
                record = self._validated(record)
            record = replace(record, seconds=round(time.perf_counter() - begin, 2))
        self.records.append(self.processes.from_first(record))
        if self.processes.is_first:
            self.say(str(record))
            self._write(out)

    def _validated(self, record: EpochLog) -> EpochLog:
        result = validate(self.model, self.photos, self.validation, self.config, self.extraction, self.asmk)
        record = replace(record, mean_average_precision=result.mean_average_precision)
        if record.epoch == 0 and result.mean_average_precision >= SATURATED:
            self.say(
                f"validation finds nearly all photos before the first step ({result.mean_average_precision:.4f}), and "
                "can hardly tell epochs apart: more scenes, or harder ones, could"
            )
        if self.best is None or all(record.rank > earlier.rank for earlier in self.records):
            self.best = Checkpoint(
                system=self.model.system,
                network=self.model.config,
                weights=on_cpu(self.model.state_dict()),
                extraction=self.extraction,
                asmk=self.asmk,
                codebook=result.codebook,
                training={},
            )
        return record

    def _write(self, out: Path) -> None:
        if self.best is None:
            return
        self.best.training = {
            "config": self.config.as_dict(),
            "weights": on_cpu(self.model.state_dict()),
            "optimiser": copy.deepcopy(self.optimiser.state_dict()),
            "records": [record.as_dict() for record in self.records],
            "unreadable": self.photos.unreadable,
            "unreadable_validation": self.validation.unreadable,
        }
        self.best.save(out)
        write_log(self.records, out)

    def _set_learning_rate(self, epoch: int) -> float:
        """Exponential decay by epoch; returns the backbone's rate."""
        rate = self.config.learning_rate * self.config.learning_rate_decay**epoch
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["factor"]
        return rate

    def _distributed(self) -> nn.Module:
        if self.processes.world == 1:
            return self.tuple_loss
        on_gpu = self.processes.device.type == "cuda"
        return DistributedDataParallel(self.tuple_loss, device_ids=[self.processes.device] if on_gpu else None)


def build_optimiser(model: RetrievalModel, config: TrainingConfig) -> torch.optim.Adam:
    """Adam with the model's own groups of parameters, each at a multiple of the learning rate."""
    groups = [
        {**group, "lr": config.learning_rate * group["factor"]}
        for group in model.parameter_groups(config.new_module_factor)
    ]
    return torch.optim.Adam(groups, weight_decay=config.weight_decay)


def load_moments(optimiser: torch.optim.Adam, state: dict[int, Any]) -> None:
    """Restores what Adam has seen; its settings stay. Raises an error of ``ODDITIES`` if the state does not fit it."""
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    for parameter, seen in optimiser.state.items():
        step, moments = seen["step"], (seen["exp_avg"], seen["exp_avg_sq"])
        if step.shape != () or step.dtype != torch.float32 or not step >= 1:
            raise ValueError(f"the optimiser's step is {step}")
        if any(moment.shape != parameter.shape for moment in moments):
            shapes = [tuple(moment.shape) for moment in moments]
            raise ValueError(f"the optimiser's moments are {shapes}, of a parameter {tuple(parameter.shape)}")


def on_cpu(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A copy of a state dict that further training leaves alone."""
    return {name: value.detach().cpu().clone() for name, value in state.items()}
