"""Global descriptors in the file from which hloc makes pairs of its own (``pairs_from_retrieval``).

Every photo is a group by its name, with the dataset ``global_descriptor``: what hloc's ``extract_features`` writes.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryFile

from tqdm import tqdm

from runtime.encoder import Encoder
from runtime.errors import DependencyError, ImageError
from runtime.features import Features
from runtime.io.files import atomic_write


def save_descriptors(encoder: Encoder, names: Mapping[Path, str], path: Path) -> dict[str, str]:
    """Writes the global descriptor of every photo, float32 [G], whole or not at all.

    Args:
        encoder: of an engine with global descriptors.
        names: of the photos.
        path: the HDF5 file.

    Returns:
        why photos were left out, by path: they cannot be read.

    Raises:
        HowlError: h5py is not installed, the engine gives local features only, no photo can be read, or the file cannot
            be written.
    """
    try:
        import h5py
    except ImportError as error:
        raise DependencyError(f"HDF5 files need h5py ({error}): pip install '.[hloc]'") from None
    left_out: dict[str, str] = {}
    with TemporaryFile() as spool:  # HDF5 goes back and forth in its file
        with h5py.File(spool, "w") as file:
            photos = encoder.encode_all(list(names), Features.need_global)
            for photo, descriptor in tqdm(photos, total=len(names), desc="reading", unit="photo", disable=None):
                if isinstance(descriptor, ImageError):
                    left_out[str(photo)] = str(descriptor)
                else:
                    file.create_group(names[photo]).create_dataset("global_descriptor", data=descriptor)
        if len(left_out) == len(names):
            raise ImageError(f"{next(iter(left_out.values()))}; no photo is left")
        spool.seek(0)
        with atomic_write(path) as file:
            shutil.copyfileobj(spool, file)
    return left_out
