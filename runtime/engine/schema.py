"""The names of an exported graph's input and outputs, and what its outputs mean: the one place that knows them.

image              uint8 [height, width, 3], RGB
descriptors        float32 [K, D]
strengths          float32 [K]
positions          float32 [K, 3]
count              int32 [1], the valid rows of the three above
global_descriptor  float32 [G]
activations        float32 [C, h, w]

A graph has the four local outputs, the global one, or all five, and perhaps activations beside the global one.
"""

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.errors import IncompatibleError
from runtime.features import Features, LocalFeatures

IMAGE = "image"
LOCAL_OUTPUTS = ("descriptors", "strengths", "positions", "count")
GLOBAL_OUTPUTS = ("global_descriptor",)
ACTIVATION_OUTPUTS = ("activations",)


def check_tensors(file: Path, inputs: Collection[str], outputs: Collection[str]) -> tuple[str, ...]:
    """Which outputs a graph has, from the names of its tensors. Raises IncompatibleError if it is not an engine."""
    found = tuple(name for name in (*LOCAL_OUTPUTS, *GLOBAL_OUTPUTS, *ACTIVATION_OUTPUTS) if name in outputs)
    if IMAGE not in inputs:
        raise IncompatibleError(f"{file}: has no input '{IMAGE}': it is not an engine that howl exported")
    has_local, has_global = set(LOCAL_OUTPUTS) <= set(found), set(GLOBAL_OUTPUTS) <= set(found)
    if not has_local and (set(LOCAL_OUTPUTS) & set(found) or not has_global):
        missing = next(name for name in LOCAL_OUTPUTS if name not in found)
        raise IncompatibleError(f"{file}: has no output '{missing}': it is not an engine that howl exported")
    return found


def features_of(outputs: Mapping[str, NDArray]) -> Features:
    """The features in a graph's outputs, without the padding up to K rows.

    Args:
        outputs: by name, of any floating or integer type; ``count`` is a scalar or [1].
    """
    local = None
    if "count" in outputs:
        n = int(outputs["count"].item())
        descriptors, strengths, positions = (
            np.asarray(outputs[name][:n], np.float32) for name in ("descriptors", "strengths", "positions")
        )
        local = LocalFeatures(descriptors, strengths, positions)
    whole, activations = (
        None if name not in outputs else np.asarray(outputs[name], np.float32)
        for name in (*GLOBAL_OUTPUTS, *ACTIVATION_OUTPUTS)
    )
    return Features(local, whole, activations)
