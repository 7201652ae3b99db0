"""The checkpoint: weights, the configuration that made them, the codebook, and how far training has come.

A file of tensors and plain values (``train.weights.tensor_file``): opening a stranger's file never runs its code, and
takes no more memory than the file has bytes, and its network.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from runtime.asmk.codebook import Codebook
from runtime.asmk.kernel import AsmkParameters
from runtime.errors import DamagedError, IncompatibleError
from runtime.first_stage import ASMK
from runtime.io.unpickle import one_line
from train.models.base import ExtractionConfig, ModelConfig, RetrievalModel, of_declared_types
from train.models.registry import SYSTEMS, build_model
from train.weights.cirtorch import is_cirtorch_checkpoint, read_cirtorch_checkpoint
from train.weights.delf import (
    is_delf_checkpoint,
    is_delg_pytorch_checkpoint,
    read_delf_checkpoint,
    refuse_delg_pytorch_checkpoint,
)
from train.weights.dir import is_dir_checkpoint, read_dir_checkpoint
from train.weights.fire import is_fire_checkpoint, read_fire_checkpoint
from train.weights.how import is_how_checkpoint, read_how_checkpoint
from train.weights.safe_load import ODDITIES, check_weights, load_tensors, save_tensors, state_dict_of

FORMAT = "howl checkpoint"
VERSION = 3
PUBLISHED = (  # which content is of a layout of authors, and what reads it; HOW's older one is the least particular
    (is_cirtorch_checkpoint, read_cirtorch_checkpoint),
    (is_dir_checkpoint, read_dir_checkpoint),
    (is_delf_checkpoint, read_delf_checkpoint),
    (is_delg_pytorch_checkpoint, refuse_delg_pytorch_checkpoint),
    (is_fire_checkpoint, read_fire_checkpoint),
    (is_how_checkpoint, read_how_checkpoint),
)


@dataclass
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
        system: the name of the network's system in ``train.models.registry``.
        network: the configuration of the network.
        weights: its state dict, of the best epoch; without whitening if the authors of a published file left it out.
        extraction: image size, scales and features that it was validated with.
        asmk: parameters of the search that it was validated with; None if the system does not search by ASMK.
        codebook: visual words, float32 [C, D], learned with these weights; None if the system has none, or if
            the system's authors made the checkpoint.
        training: what ``--resume`` needs, and the config; plain values and tensors.
        licence: a line on the licence of the weights, if their authors restrict what they may be used for.
    """

    system: str
    network: ModelConfig
    weights: dict[str, Tensor]
    extraction: ExtractionConfig
    asmk: AsmkParameters | None
    codebook: Codebook | None
    training: dict[str, Any]
    licence: str = ""

    @property
    def is_whitened(self) -> bool:
        """Whether whitening is among the weights; if not, it is to be learned before the network is used."""
        return any(name.startswith("whitening.") for name in self.weights)

    def build_model(self) -> RetrievalModel:
        """The network with its weights, ready for inference. Raises HowlError if they do not fit each other."""
        model = build_model(self.system, self.network)
        try:
            model.load_state_dict(self.weights, strict=self.is_whitened)
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
        """Reads what ``save`` wrote, or a checkpoint of a system's authors (``train.weights``).

        Raises:
            HowlError: the file is missing, damaged, of another version, of a network that howl does not have, holds
                more than tensors and plain values, or settings and weights that make no network; nothing in it has been
                run.
        """
        return cls.of(load_tensors(path), path)

    @classmethod
    def of(cls, content: Any, path: Path) -> "Checkpoint":
        """The checkpoint that is the content of a file; raises as ``load`` does, and names the file."""
        for is_theirs, read in PUBLISHED:
            if is_theirs(content):
                system, network, weights, extraction, licence = read(content, path)
                asmk = AsmkParameters() if SYSTEMS[system].method == ASMK else None
                return cls(system, network, weights, extraction, asmk, codebook=None, training={}, licence=licence)
        if not is_checkpoint(content):
            raise IncompatibleError(
                f"{path}: neither a checkpoint of howl's nor of a layout that it knows (docs/systems.md); weights of a "
                "backbone alone go to howl train --init"
            )
        try:
            check_version(content["version"], path)
            system, extraction, asmk, codebook = (content[key] for key in ("system", "extraction", "asmk", "codebook"))
            if system not in SYSTEMS:
                known = f"{one_line(system)}, which this howl does not know"
                raise IncompatibleError(f"{path}: of the system {known}; update howl")
            network = SYSTEMS[system].Config.of_file(content["network"])
            checkpoint = cls(
                system=system,
                network=network,
                weights=fitting_weights(system, network, content["weights"], path),
                extraction=ExtractionConfig(**{**extraction, "scales": tuple(extraction["scales"])}),
                asmk=None if asmk is None else AsmkParameters(**asmk),
                codebook=None if codebook is None else codebook_of(codebook, network.dimensions),
                training=content["training"],
            )
            checkpoint.check()
            return checkpoint
        except KeyError as error:
            raise DamagedError(f"{path}: a damaged checkpoint: it lacks {one_line(error)}") from None
        except ODDITIES as error:
            raise DamagedError(f"{path}: a damaged checkpoint: {one_line(error)}") from None

    def check(self) -> None:
        """Makes sure of what no part can know by itself. Raises UsageError, or an error of ``ODDITIES``."""
        if self.asmk is not None:
            of_declared_types(self.asmk)
        model = SYSTEMS[self.system]
        for name, value, is_needed in (
            ("asmk", self.asmk, model.method == ASMK),
            ("features", self.extraction.features, model.has_local_features),
        ):
            if (value is not None) != is_needed:
                raise ValueError(f"{name} is {value}, of a network of {self.system}")
        if self.extraction.activations and not model.has_activations:
            raise ValueError(f"activations, of a network of {self.system}")
        if not isinstance(self.training, dict):
            raise TypeError("training is no dict")
        if "config" in self.training and not isinstance(self.training["config"]["data"], str):
            raise TypeError("training.config.data is no text")


def check_version(version: Any, path: Path) -> None:
    """Raises IncompatibleError if the file is of another version than this howl's."""
    if version > VERSION:
        raise IncompatibleError(f"{path}: written by a newer howl (format {version}); update howl")
    if version < VERSION:
        raise IncompatibleError(f"{path}: written by an earlier howl (format {version}); train it again")


def fitting_weights(system: str, network: ModelConfig, weights: Any, path: Path) -> dict[str, Tensor]:
    """The weights of a file, which are all that the network has and no others. Raises HowlError."""
    wanted = build_model(system, network).state_dict()
    weights = state_dict_of(weights, path)
    check_weights(wanted, weights, path)
    if unknown := weights.keys() - wanted.keys():
        raise IncompatibleError(f"{path}: has weights {one_line(min(unknown))}, for which its network has no place")
    return {name: value.to(wanted[name].dtype) for name, value in weights.items()}


def codebook_of(words: Any, dimensions: int) -> Codebook:
    """The codebook of a file. Raises ValueError if it is none."""
    if not isinstance(words, Tensor) or words.dtype != torch.float32 or words.ndim != 2:
        raise ValueError("its codebook is not float32 [words, dimensions]")
    if len(words) == 0 or words.shape[1] != dimensions or not words.isfinite().all():
        raise ValueError(f"its codebook {tuple(words.shape)} is not one or more words of {dimensions} finite numbers")
    return Codebook(words.numpy())


def is_checkpoint(content: Any) -> bool:
    """Whether the content of a file is what ``Checkpoint.load`` reads, damaged or not."""
    return any(is_theirs(content) for is_theirs, _ in PUBLISHED) or (
        isinstance(content, dict) and content.get("format") == FORMAT
    )
