"""What is compared: the rows of the ablation, and its runs with their files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


class Row(NamedTuple):
    """A row of the table.

    Attributes:
        label: for people.
        flags: of ``train/run.py``; nothing else differs between rows.
    """

    label: str
    flags: tuple[str, ...]


BASELINE, BOTH = "how", "both"
ROWS = {
    BASELINE: Row("HOW", ("--smoothing", "average")),
    "filter": Row("+ learnable filter", ("--smoothing", "learned")),
    "graph": Row("+ graph", ("--smoothing", "average", "--graph")),
    BOTH: Row("+ both", ("--smoothing", "learned", "--graph")),
}


@dataclass(frozen=True)
class Run:
    """A network to train, export and evaluate, and its files, which share a name in one folder."""

    backbone: str
    row: str
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.backbone}-{self.row}-seed{self.seed}"

    @property
    def checkpoint(self) -> Path:
        return self._file(".pt")

    @property
    def trained(self) -> Path:
        """An empty file: the checkpoint's training has come to its end."""
        return self._file(".trained")

    @property
    def engine(self) -> Path:
        return self._file(".onnx")

    @property
    def evaluation(self) -> Path:
        return self._file(".eval.json")

    @property
    def log(self) -> Path:
        return self._file(".log")

    def _file(self, suffix: str) -> Path:
        return self.folder / f"{self.name}{suffix}"


def all_runs(backbones: Sequence[str], seeds: Sequence[int], folder: Path) -> list[Run]:
    """All rows of the first seed, then all of the next: whenever it stops, the finished seeds are a fair comparison."""
    return [Run(backbone, row, seed, folder) for seed in seeds for backbone in backbones for row in ROWS]
