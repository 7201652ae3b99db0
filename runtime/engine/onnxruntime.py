"""ONNX Runtime, on the CPU or on CUDA."""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.cores import available_cores
from runtime.engine.interface import PHOTO_BATCH
from runtime.engine.schema import IMAGE, check_tensors, features_of
from runtime.engine.turns import Turns
from runtime.errors import DamagedError, DependencyError, DeviceError, HowlError, UsageError
from runtime.features import Features
from runtime.forking import renew_after_fork
from runtime.gpu import find_gpus
from runtime.io.image import MIN_SIDE

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
_ABANDONED: list[Any] = []  # sessions from before a fork: their end would wait for threads that are not there


class OnnxSession:
    """A graph that ONNX Runtime has loaded. Any thread may run it; the memory of its activations is kept between runs.

    Attributes:
        path: of the file.
        inputs, outputs: the names of its tensors, in order.
        metadata: the texts that were written into the file, by name.
        provider: what runs it.
    """

    def __init__(
        self,
        path: Path,
        device: str | None = None,
        threads: int | None = None,
        *,
        smallest: Mapping[str, NDArray] | None = None,
    ) -> None:
        """Loads the graph.

        Args:
            path: of the graph.
            device: ``cpu``, ``cuda``, or None for CUDA if both ONNX Runtime and the machine have it.
            threads: CPU threads that share the work of a run; None for one per core.
            smallest: inputs of a run that costs little, at whose end ONNX Runtime gives back the memory that a rush of
                callers took; None to keep it.

        Raises:
            HowlError: ONNX Runtime is missing or installed twice, cannot read the file, or was asked for CUDA and
                would run on the CPU.
        """
        runtime = import_onnxruntime()
        wanted = choose_provider(device, runtime.get_available_providers())
        if wanted == CUDA and hasattr(runtime, "preload_dlls"):
            runtime.preload_dlls()
        options = runtime.SessionOptions()
        options.log_severity_level = 3  # its warnings are for its developers; errors raise
        cores = available_cores()
        is_limited = cores < (os.cpu_count() or 1)  # of which ONNX Runtime, left alone, takes all
        options.intra_op_num_threads = threads or (cores if is_limited else 0)
        # Threads that spin while they wait take cores from what comes next: quantising, matching, other callers.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # A fallback to another provider would be printed; it is an error below.
        self._load = partial(
            runtime.InferenceSession, str(path.absolute()), options, providers=[wanted], enable_fallback=0
        )
        try:
            self._session = self._load()
        except Exception as error:  # its exceptions share no base class
            raise DamagedError(f"{path}: ONNX Runtime cannot load it: {_first_line(error)}") from None
        self.path = path
        self.inputs = [tensor.name for tensor in self._session.get_inputs()]
        self.outputs = [tensor.name for tensor in self._session.get_outputs()]
        self.metadata: Mapping[str, str] = self._session.get_modelmeta().custom_metadata_map
        self._smallest = smallest
        self._shrinking = runtime.RunOptions()
        self._shrinking.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        self._clear_up = self._give_back if wanted == CPU and smallest is not None else None
        self._turns = Turns(PHOTO_BATCH, self._clear_up)
        self.provider: str = self._session.get_providers()[0]
        if self.provider != wanted:
            raise DeviceError(
                f"{path}: {wanted} was asked for, ONNX Runtime fell back to {self.provider}: install "
                f"'onnxruntime-gpu[cuda,cudnn]', or ask for the CPU"
            )
        if wanted == CPU:  # CUDA cannot be forked
            renew_after_fork(self)

    def run(self, outputs: Sequence[str], inputs: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """The outputs of these names. Raises HowlError if ONNX Runtime fails."""
        try:
            with self._turns.turn():
                if self._session is None:
                    self._session = self._load()
                values = self._session.run(outputs, inputs)
        except Exception as error:  # its exceptions share no base class
            shapes = ", ".join(f"{name} {value.shape}" for name, value in inputs.items())
            raise HowlError(f"{self.path}: ONNX Runtime failed on {shapes}: {_first_line(error)}") from None
        return dict(zip(outputs, values, strict=True))

    def renew_after_fork(self) -> None:
        """Has the graph loaded again when it is next run: its threads are not forked, and runs under way never end."""
        _ABANDONED.append(self._session)
        self._session = None
        self._turns = Turns(PHOTO_BATCH, self._clear_up)

    def _give_back(self) -> None:
        """Returns the memory that no run uses to the system, which ONNX Runtime only does at the end of a run."""
        with suppress(Exception):  # where there is no arena, there is nothing to give back
            self._session.run(self.outputs, self._smallest, self._shrinking)


class OnnxRuntimeEngine:
    """Runs ``engine.onnx``. After a rush of callers, on the CPU, its memory is given back."""

    def __init__(self, path: Path, device: str | None = None, threads: int | None = None) -> None:
        """Loads the graph: ``OnnxSession``.

        Raises:
            HowlError: as there; or it is no engine.
        """
        smallest = {IMAGE: np.zeros((MIN_SIDE, MIN_SIDE, 3), np.uint8)}
        self.session = OnnxSession(path, device, threads, smallest=smallest)
        self.path = path
        self._outputs = list(check_tensors(path, self.session.inputs, self.session.outputs))
        self.provider = self.session.provider

    def extract(self, image: NDArray[np.uint8]) -> Features:
        """The features of an RGB uint8 image [H, W, 3]."""
        return features_of(self.session.run(self._outputs, {IMAGE: image}))


def import_onnxruntime() -> Any:
    """ONNX Runtime, if exactly one of its two packages is installed: they write into the same folder."""
    installed = [name for name in ("onnxruntime", "onnxruntime-gpu") if _is_installed(name)]
    if len(installed) > 1:
        raise DependencyError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other: pip uninstall both, then "
            "install one"
        )
    try:
        import onnxruntime
    except ImportError:
        raise DependencyError(
            "ONNX Runtime is not installed: pip install onnxruntime, or onnxruntime-gpu on a GPU"
        ) from None
    return onnxruntime


def choose_provider(device: str | None, available: list[str]) -> str:
    """The execution provider for a device.

    ``available`` is what ONNX Runtime was compiled with; it says nothing about the machine.
    """
    if device == "cpu":
        return CPU
    if device == "cuda":
        if not find_gpus():
            raise DeviceError("no NVIDIA GPU was found on this machine; leave the device out, or ask for cpu")
        if CUDA not in available:
            raise DeviceError("the installed ONNX Runtime has no CUDA: install onnxruntime-gpu instead")
        return CUDA
    if device is None:
        return CUDA if CUDA in available and find_gpus() else CPU
    raise UsageError(f"device {device!r}: needs to be cpu or cuda")


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
