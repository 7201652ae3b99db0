"""The log of a training run, one line of JSON an epoch, and its curve as a picture."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runtime.io.files import atomic_write

LOG_SUFFIX, CURVE_SUFFIX = ".jsonl", ".png"  # of the files beside the checkpoint


@dataclass(frozen=True)
class EpochLog:
    """One line of the log.

    Attributes:
        epoch: epochs trained so far; 0 is the network before its first step.
        loss: mean loss of a tuple; None for epoch 0.
        mean_average_precision: of validation, in [0, 1]; None where the epoch was not validated.
        learning_rate: of the backbone.
        tuples: trained on.
        seconds: mining, training and validation together.
    """

    epoch: int
    loss: float | None
    mean_average_precision: float | None
    learning_rate: float
    tuples: int
    seconds: float

    @property
    def rank(self) -> tuple[float, bool, int]:
        """The larger, the better: by validation; of equals the earliest, but the untrained network last of all."""
        score = -1.0 if self.mean_average_precision is None else self.mean_average_precision
        return score, self.epoch > 0, -self.epoch

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def line(self, epochs: int) -> str:
        """For people, in a run of so many epochs."""
        loss = "before training" if self.loss is None else f"loss {self.loss:.4f}"
        score = "" if self.mean_average_precision is None else f"  mAP {self.mean_average_precision:.4f}"
        return f"epoch {self.epoch} of {epochs}  {loss}{score}  {self.seconds:.0f} s"


def write_log(records: list[EpochLog], checkpoint: Path) -> None:
    """Writes ``ckpt.jsonl`` and ``ckpt.png`` beside ``ckpt.pt``."""
    lines = "".join(json.dumps(record.as_dict()) + "\n" for record in records)
    with atomic_write(checkpoint.with_suffix(LOG_SUFFIX)) as file:
        file.write(lines.encode())
    plot_curve(records, checkpoint.with_suffix(CURVE_SUFFIX))


def plot_curve(records: list[EpochLog], path: Path) -> None:
    """Loss and validation mAP over epochs."""
    from matplotlib.figure import Figure  # half a second that only training's end should pay
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, 4))
    losses = figure.subplots()
    scores = losses.twinx()
    trained = [(r.epoch, r.loss) for r in records if r.loss is not None]
    validated = [(r.epoch, 100 * r.mean_average_precision) for r in records if r.mean_average_precision is not None]
    if trained:
        losses.plot(*zip(*trained, strict=True), "o-", color="tab:blue")
    scores.plot(*zip(*validated, strict=True), "s-", color="tab:red")
    losses.set_xlabel("epoch")
    losses.set_ylabel("loss of a tuple", color="tab:blue")
    scores.set_ylabel("validation mAP, %", color="tab:red")
    losses.xaxis.set_major_locator(MaxNLocator(integer=True))
    losses.set_title("training")
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=120)
