"""What all runs of an ablation share; a folder is begun with it and goes on with nothing else."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from runtime.errors import HowlError
from runtime.io.atomic import atomic_write
from tools.experiments.ablation.runs import ROWS

FILE = "settings.json"


@dataclass(frozen=True)
class Settings:
    """What decides the figures, but for backbones and seeds, of which a folder may get more later.

    Attributes:
        train: data that ``train/run.py`` takes.
        test: data that ``tools/evaluate.py`` takes.
        distractors: likewise.
        training: flags of ``train/run.py`` that all runs get.
        export: flags of ``export/to_trt.py`` that all runs get.
        data_root: where published data sets lie.
        rows: flags of ``train/run.py`` by row.
    """

    train: str
    test: list[str]
    distractors: str | None
    training: list[str]
    export: list[str]
    data_root: str = "data"
    rows: dict[str, list[str]] = field(default_factory=lambda: {name: list(row.flags) for name, row in ROWS.items()})

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def keep_settings(settings: Settings, folder: Path) -> None:
    """Writes the settings into the folder, or compares them with those with which it was begun.

    Raises:
        HowlError: they differ; the line says in what.
    """
    path = folder / FILE
    if not path.exists():
        with atomic_write(path) as file:
            file.write((json.dumps(settings.as_dict(), indent=1) + "\n").encode())
        return
    try:
        before = json.loads(path.read_text())
    except ValueError:
        raise HowlError(f"{path}: no settings of an ablation; name another folder with --out") from None
    for name, value in settings.as_dict().items():
        if before.get(name) != value:
            raise HowlError(
                f"{folder}: begun with {name} {_text(before.get(name))}, now {_text(value)}; "
                "give the same, or name another folder with --out"
            )


def _text(value: Any) -> str:
    return " ".join(value) if isinstance(value, list) and value else str(value or "none")
