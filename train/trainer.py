"""Training: mine, step, validate, keep the best epoch; a run can be resumed after any epoch.

``start_training`` and ``resume_training`` are the stage as a whole, from options to a checkpoint.
"""

import copy
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from runtime.asmk.kernel import AsmkParameters
from runtime.errors import DamagedError, IncompatibleError, StorageError, UsageError
from runtime.first_stage import ASMK
from runtime.io.files import ensure_writable
from runtime.io.image import Image, shrink
from runtime.io.unpickle import one_line
from train.calibration import calibrate_batch_norm, learn_start, learn_whitening
from train.checkpoint import Checkpoint
from train.config import DATA_ROOT, TrainingConfig, TrainOptions
from train.data import open_data
from train.data.labelled import LabelledPhotos
from train.descriptors import describe_images
from train.distributed import ProcessGroup, join_process_group, use_threads
from train.forecast import Forecast, forecast, in_words
from train.learner import Learner, load_moments
from train.log import CURVE_SUFFIX, LOG_SUFFIX, EpochLog, write_log
from train.losses import LIST_LOSS
from train.mining import mine_tuples
from train.models.base import ExtractionConfig, RetrievalModel, of_declared_types
from train.models.registry import build_model
from train.validation import codebook_of, validate
from train.weights.init import init_weights
from train.weights.safe_load import ODDITIES

FEW_SCENES = 5  # of validation: below it, epochs differ by little more than chance
FEW_TUPLES = 20  # of a step, for a loss of a list
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
        loaded = init_weights(model, options.init, say if processes.is_first else lambda _: None)
        training = Training(model, photos, validation, config, options.extraction, processes, say)
        training.introduce()
        training.prepare(random_backbone=options.init == "random", loaded=loaded)
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
        training.introduce()
        return training.run(out)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in a run that has written a checkpoint to go on from.

    Attributes:
        epoch: how far the checkpoint has come.
        epochs: of the run, in all.
    """

    def __init__(self, epoch: int, epochs: int) -> None:
        super().__init__(f"epoch {epoch} of {epochs}")
        self.epoch, self.epochs = epoch, epochs


@contextmanager
def reading_run(checkpoint: Path) -> Iterator[None]:
    """Whatever is odd about the run that a checkpoint holds is a DamagedError of one line."""
    try:
        yield
    except ODDITIES as error:
        raise DamagedError(
            f"{checkpoint}: its training run is damaged, or an earlier version's; start it again: "
            f"{type(error).__name__}: {one_line(error)}"
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
        learner: takes the gradient steps.
        records: the log so far.
        best: the checkpoint of the best epoch so far.
        kept: the epoch from which the file that this run has written would go on; None before there is one.
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
        self.learner = Learner(self.model, self.photos, self.config, self.processes)
        self.records: list[EpochLog] = []
        self.best: Checkpoint | None = None
        self.kept: int | None = None
        self._complete = False
        self._forecast: Forecast | None = None

    @property
    def learns(self) -> bool:
        """Whether there is anything to learn: a frozen backbone alone has nothing."""
        return any(parameter.requires_grad for parameter in self.model.parameters())

    def prepare(self, *, random_backbone: bool, loaded: Collection[str] = ()) -> None:
        """Learns BatchNorm statistics of a random backbone, and the parts that learn without gradients.

        ``loaded`` are the parts of the network that have their weights already.
        """
        if random_backbone:
            calibrate_batch_norm(self.model.backbone, self.photos, self.config.seed)
        if "whitening" not in loaded:
            self._learn_whitening()
        if self.model.calibrated not in loaded:
            learn_start(self.model, self.photos, self.processes, self.config.seed)

    def load_state(self, checkpoint: Checkpoint) -> None:
        """Restores the state in which the checkpoint's run stopped."""
        progress = checkpoint.training
        self.best = checkpoint
        self.asmk = checkpoint.asmk
        self.model.load_state_dict(progress["weights"])
        load_moments(self.learner.optimiser, progress["optimiser"]["state"])
        self.records = [EpochLog(**record) for record in progress["records"]]
        for epoch, record in enumerate(self.records):
            of_declared_types(record)
            if record.epoch != epoch:
                raise ValueError(f"record {epoch} is of epoch {record.epoch}")
        self._complete = progress["complete"] is True
        self.photos.leave_out(progress["unreadable"])
        self.validation.leave_out(progress["unreadable_validation"])

    def introduce(self) -> None:
        """Says what is trained on, what is odd about it, and about how long the run will take."""
        if not self.processes.is_first:
            return
        self.say(f"training on {self.photos.describe()}; validation on {self.validation.describe()}")
        scenes = len(np.unique(self.validation.scenes[self.validation.usable]))
        if self.validation is self.photos:
            self.say(
                "too few scenes to keep any for validation (10 would do): later epochs will look better than they are"
            )
        elif scenes < FEW_SCENES:
            self.say(f"{scenes} scenes of validation can hardly tell epochs apart: more places would")
        if self.config.loss == LIST_LOSS and self.config.tuples_per_step < FEW_TUPLES:
            self.say(
                f"--loss {LIST_LOSS} ranks the photos of a step, of {self.config.tuples_per_step} tuples; more teach "
                f"more: --tuples-per-step {FEW_TUPLES}"
            )
        if not self.learns:
            codebook = " and visual words" if self.model.method == ASMK else ""
            self.say(f"the backbone is frozen and there is no refinement: only whitening{codebook} are learned")
        self._forecast = forecast(
            self.model, self.learner, self.photos, self.validation, self.config, self.extraction, self.processes
        )
        if self.records:
            self.say(f"going on after epoch {self.records[-1].epoch} of {self._epochs}{self._time_left()}")
        else:
            duration = "" if self._forecast is None else f", {in_words(self._forecast.total(self._epochs))}"
            tuples = min(len(self.photos.queries()), self.config.tuples)
            self.say(f"{self._epochs} epochs of {tuples} tuples{duration}")

    def run(self, out: Path) -> Checkpoint | None:
        """Trains the remaining epochs and writes the checkpoint, log and curve after each.

        Returns:
            the checkpoint of the best epoch, as it lies in ``out``; None in all processes but the first.

        Raises:
            Interrupted: by Ctrl-C, once there is a checkpoint to go on from.
        """
        try:
            self._run(out)
        except KeyboardInterrupt:
            if self.kept is None:
                raise
            raise Interrupted(self.kept, self._epochs) from None
        return self.best if self.processes.is_first else None

    def _run(self, out: Path) -> None:
        if not self.records:
            self._finish_epoch(EpochLog(0, None, None, 0.0, 0, 0.0), time.perf_counter(), out)
        else:
            if self.processes.is_first:
                self._write(out)  # if no epoch is left, nothing else writes it
            self.kept = self.records[-1].epoch
        for epoch in range(self.records[-1].epoch, self._epochs):
            begin = time.perf_counter()
            rate = self.learner.set_learning_rate(epoch)
            self.model.eval()
            tuples = mine_tuples(self._describe, self.photos, self.config, epoch, self.processes)
            self.model.train()
            loss = self.learner.learn(tuples, epoch)
            if self.config.relearns_whitening(type(self.model)):
                self._learn_whitening()
            self._finish_epoch(EpochLog(epoch + 1, loss, None, rate, len(tuples), 0.0), begin, out)
        if self.processes.is_first:
            self._learn_words(out)

    @property
    def _epochs(self) -> int:
        """How many there are to train, in all."""
        return self.config.epochs if self.learns else 0

    def _time_left(self) -> str:
        """For the end of a line; empty where nobody has asked for a forecast."""
        left = self._epochs - self.records[-1].epoch
        return "" if self._forecast is None or left < 0 else f"; {in_words(self._forecast.left(left))} left"

    def _describe(self, images: Sequence[Image]) -> Tensor:
        return describe_images(self.model, [shrink(image, self.config.tuple_size) for image in images])

    def _finish_epoch(self, record: EpochLog, begin: float, out: Path) -> None:
        """Validates if this epoch is to be validated, keeps the best, and writes the files."""
        validates = record.epoch % self.config.validate_every == 0 or record.epoch == self.config.epochs
        if self.processes.is_first:
            if validates:
                record = self._validated(record)
            record = replace(record, seconds=round(time.perf_counter() - begin, 2))
        self.records.append(self.processes.from_first(record))
        self._complete = False
        if self.processes.is_first:
            if self._forecast is not None:
                self._forecast = self._forecast.corrected(record)
            self.say(f"{record.line(self._epochs)}{self._time_left()}")
            self._write(out)
        self.kept = record.epoch

    def _validated(self, record: EpochLog) -> EpochLog:
        result = validate(self.model, self.photos, self.validation, self.config, self.extraction, self.asmk)
        record = replace(record, mean_average_precision=result.mean_average_precision)
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
            "optimiser": copy.deepcopy(self.learner.optimiser.state_dict()),
            "records": [record.as_dict() for record in self.records],
            "complete": self._complete,
            "unreadable": self.photos.unreadable,
            "unreadable_validation": self.validation.unreadable,
        }
        self.best.save(out)
        write_log(self.records, out)

    def _learn_whitening(self) -> None:
        data = learn_whitening(
            self.model,
            self.photos,
            self.processes,
            kind=self.config.whitening,
            count=self.config.whitening_photos,
            features=self.config.whitening_features,
            seed=self.config.seed,
        )
        if self.config.whitening != "pca" and not data.by_pairs and self.processes.is_first:
            self.say(f"whitening by PCA: too few pairs for --whitening {self.config.whitening}")

    def _learn_words(self, out: Path) -> None:
        """Gives the best epoch as many visual words as its descriptors allow; validation makes do with few."""
        if self.best is None or self.best.codebook is None or self._complete:
            return
        self.best.codebook = codebook_of(
            self.best.build_model().to(self.processes.device),
            self.photos,
            self.extraction,
            count=self.config.codebook_photos,
            words=self.config.words,
            seed=self.config.seed,
        )
        self._complete = True
        self._write(out)


def on_cpu(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A copy of a state dict that further training leaves alone."""
    return {name: value.detach().cpu().clone() for name, value in state.items()}
