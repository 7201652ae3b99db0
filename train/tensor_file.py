"""Reading files of tensors without ever running what is in them."""

import pickle
import warnings
from pathlib import Path
from typing import Any

import torch

from runtime.errors import HowlError


def load_tensors(path: Path) -> Any:
    """The tensors, plain values and containers of a file that ``torch.save`` wrote, on the CPU.

    Raises:
        HowlError: the file is missing, damaged, or holds anything else; nothing in it has been run.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # PyTorch has its doubts about odd files: so have we, below
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise HowlError(f"{path}: no such file") from None
    except pickle.UnpicklingError:
        raise HowlError(f"{path}: refused: only tensors and plain values are read; nothing in it was run") from None
    except Exception:  # a damaged file can raise any
        raise HowlError(f"{path}: damaged, or not a file of tensors") from None
