"""The checkpoint: weights, the configuration that made them, the codebook, and how far training has come.

A file of tensors and plain values, loaded with ``weights_only=True``: opening a stranger's file never runs its code.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from runtime.asmk.codebook import Codebook
from runtime.asmk.kernel import AsmkParameters
from runtime.errors import DamagedError, IncompatibleError, UsageError
from train.models.base import ExtractionConfig, ModelConfig, RetrievalModel
from train.models.registry import SYSTEMS, build_model
from train.weights.how import is_how_checkpoint, read_how_checkpoint
from train.weights.safe_load import load_tensors, save_tensors

FORMAT = "howl checkpoint"
VERSION = 2


@dataclass
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
        system: the name of the network's system in ``train.models.registry``.
        network: the configuration of the network.
        weights: its state dict, of the best epoch.
        extraction: image size, scales and features that it was validated with.
        asmk: parameters of the search that it was validated with; None if the system does not search by ASMK.
        codebook: visual words, float32 [C, D], learned with these weights; None if the system has none, or if HOW's
            authors made the checkpoint.
        training: what ``--resume`` needs, and the config; plain values and tensors.
    """

    system: str
    network: ModelConfig
    weights: dict[str, Tensor]
    extraction: ExtractionConfig
    asmk: AsmkParameters | None
    codebook: Codebook | None
    training: dict[str, Any]

    def build_model(self) -> RetrievalModel:
        """The network with its weights, ready for inference. Raises HowlError if they do not fit each other."""
        model = build_model(self.system, self.network)
        try:
            model.load_state_dict(self.weights)
        except RuntimeError as error:
            line = " ".join(str(error).split())
            raise IncompatibleError(
                f"the checkpoint's weights do not fit its configuration, train it again: {line}"
            ) from None
        return model.eval()

    def save(self, path: Path) -> None:
        """Writes the file whole or not at all."""
        codebook = None if self.codebook is None else np.ascontiguousarray(self.codebook.centroids)
        content = {
            "format": FORMAT,
            "version": VERSION,
            "system": self.system,
            "network": asdict(self.network),
            "weights": self.weights,
            "extraction": asdict(self.extraction),
            "asmk": None if self.asmk is None else asdict(self.asmk),
            "codebook": None if codebook is None else torch.from_numpy(codebook),
            "training": self.training,
        }
        save_tensors(path, content)

    @classmethod
    def load(cls, path: Path) -> "Checkpoint":
        """Reads what ``save`` wrote, or a checkpoint of HOW's authors (``train.weights.how``).

        Raises:
            HowlError: the file is missing, damaged, of another version, of another network than HOW's, or holds more
                than tensors and plain values; nothing in it has been run.
        """
        return cls.of(load_tensors(path), path)

    @classmethod
    def of(cls, content: Any, path: Path) -> "Checkpoint":
        """The checkpoint that is the content of a file; raises as ``load`` does, and names the file."""
        if is_how_checkpoint(content):
            how = read_how_checkpoint(content, path)
            return cls("how", how.network, how.weights, how.extraction, AsmkParameters(), codebook=None, training={})
        if not is_checkpoint(content):
            raise IncompatibleError(f"{path}: not a howl checkpoint; howl train --out {path.name} writes one")
        try:
            version = content["version"]
            if version > VERSION:
                raise IncompatibleError(f"{path}: written by a newer howl (format {version}); update howl")
            if version < VERSION:
                raise IncompatibleError(f"{path}: written by an earlier howl (format {version}); train it again")
            system, extraction = content["system"], content["extraction"]
            if system not in SYSTEMS:
                raise IncompatibleError(f"{path}: of the system {system}, which this howl does not know; update howl")
            asmk, codebook = content["asmk"], content["codebook"]
            return cls(
                system=system,
                network=SYSTEMS[system].Config(**content["network"]),
                weights=content["weights"],
                extraction=ExtractionConfig(**{**extraction, "scales": tuple(extraction["scales"])}),
                asmk=None if asmk is None else AsmkParameters(**asmk),
                codebook=None if codebook is None else Codebook(codebook.numpy()),
                training=content["training"],
            )
        except (KeyError, TypeError, AttributeError, UsageError) as error:
            raise DamagedError(f"{path}: a damaged checkpoint: {error}") from None


def is_checkpoint(content: Any) -> bool:
    """Whether the content of a file is what ``Checkpoint.load`` reads, damaged or not."""
    return is_how_checkpoint(content) or (isinstance(content, dict) and content.get("format") == FORMAT)
