"""A folder of folders: a user's own photos, one folder a scene."""

from pathlib import Path

from runtime.io.image import Image, load_rgb
from train.data.labelled import PhotoSet


def folder_photos(root: Path, scenes: dict[str, list[Path]], image_size: int) -> PhotoSet:
    """The given scenes of a folder as one set; ``image_size`` is the longest side that photos are shrunk to."""
    paths = [path for photos in scenes.values() for path in photos]
    labels = [label for label, photos in enumerate(scenes.values()) for _ in photos]

    def read(index: int) -> Image:
        return load_rgb(paths[index], image_size)

    return PhotoSet([str(path.relative_to(root)) for path in paths], labels, read)
