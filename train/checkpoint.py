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
from runtime.errors import HowlError
from train.models.extractor import ExtractionConfig
from train.models.how import Network, NetworkConfig
from train.weights.how import HowWeights, is_how_checkpoint, read_how_checkpoint
from train.weights.safe_load import load_tensors, save_tensors

FORMAT = "howl checkpoint"
VERSION = 1


@dataclass
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
        network: the configuration of the network.
        weights: its state dict, of the best epoch.
        extraction: image size, scales and features that it was validated with.
        asmk: parameters of the search that it was validated with.
        codebook: visual words, float32 [C, D], learned with these weights; none (C = 0) where HOW's authors made them.
        training: what ``--resume`` needs, and the config; plain values and tensors.
    """

    network: NetworkConfig
    weights: dict[str, Tensor]
    extraction: ExtractionConfig
    asmk: AsmkParameters
    codebook: Codebook
    training: dict[str, Any]

    def build_network(self) -> Network:
        """The network with its weights, ready for inference. Raises HowlError where they do not fit each other."""
        network = Network(self.network)
        try:
            network.load_state_dict(self.weights)
        except RuntimeError as error:
            line = " ".join(str(error).split())
            raise HowlError(f"the checkpoint's weights do not fit its configuration, train it anew: {line}") from None
        return network.eval()

    def save(self, path: Path) -> None:
        """Writes the file whole or not at all."""
        content = {
            "format": FORMAT,
            "version": VERSION,
            "network": asdict(self.network),
            "weights": self.weights,
            "extraction": asdict(self.extraction),
            "asmk": asdict(self.asmk),
            "codebook": torch.from_numpy(np.ascontiguousarray(self.codebook.centroids)),
            "training": self.training,
        }
        save_tensors(path, content)

    @classmethod
    def load(cls, path: Path) -> "Checkpoint":
        """Reads what ``save`` wrote, or one of HOW's own checkpoints (``train.weights.how``).

        Raises:
            HowlError: the file is missing, damaged, newer than this program, of another network than HOW's, or holds
                more than tensors and plain values; nothing in it has been run.
        """
        return cls.of(load_tensors(path), path)

    @classmethod
    def of(cls, content: Any, path: Path) -> "Checkpoint":
        """The checkpoint that is the content of a file; raises as ``load`` does, and names the file."""
        if is_how_checkpoint(content):
            return cls.of_how(read_how_checkpoint(content, path))
        if not is_checkpoint(content):
            raise HowlError(f"{path}: not a howl checkpoint; python train/run.py --out {path.name} writes one")
        try:
            if content["version"] > VERSION:
                raise HowlError(f"{path}: written by a newer howl (format {content['version']}); update howl")
            extraction = content["extraction"]
            return cls(
                network=NetworkConfig(**content["network"]),
                weights=content["weights"],
                extraction=ExtractionConfig(**{**extraction, "scales": tuple(extraction["scales"])}),
                asmk=AsmkParameters(**content["asmk"]),
                codebook=Codebook(content["codebook"].numpy()),
                training=content["training"],
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise HowlError(f"{path}: a damaged checkpoint: {error}") from None

    @classmethod
    def of_how(cls, how: HowWeights) -> "Checkpoint":
        """HOW's weights with the search that HOW's authors set: words are still to be learned."""
        return cls(
            network=how.network,
            weights=how.weights,
            extraction=how.extraction,
            asmk=AsmkParameters(),
            codebook=Codebook(np.empty((0, how.network.dimensions), np.float32)),
            training={},
        )


def is_checkpoint(content: Any) -> bool:
    """Whether the content of a file is what ``Checkpoint.load`` reads, damaged or not."""
    return is_how_checkpoint(content) or (isinstance(content, dict) and content.get("format") == FORMAT)
