"""A folder of folders: a user's own photos, one folder a scene."""

from pathlib import Path

from runtime.errors import HowlError
from runtime.image import Image, is_photo, load_rgb
from train.data.photos import PhotoSet


def scene_folders(root: Path) -> dict[str, list[Path]]:
    """The photos of every scene, by the scene's name: the folders right below ``root``, searched recursively.

    Raises:
        HowlError: the folder is missing, or holds no folder with a photo in it.
    """
    if not root.is_dir():
        raise HowlError(f"{root}: no such folder; --data takes scenes, sfm120k, or a folder with one folder a scene")
    scenes = {
        folder.name: sorted(path for path in folder.rglob("*") if is_photo(path))
        for folder in sorted(root.iterdir())
        if folder.is_dir()
    }
    scenes = {name: photos for name, photos in scenes.items() if photos}
    if not scenes:
        raise HowlError(f"{root}: no folder with photos in it; put the photos of each scene into a folder of its own")
    return scenes


def folder_photos(root: Path, scenes: dict[str, list[Path]], image_size: int) -> PhotoSet:
    """The given scenes of a folder as one set; ``image_size`` is the longest side that photos are shrunk to."""
    paths = [path for photos in scenes.values() for path in photos]
    labels = [label for label, photos in enumerate(scenes.values()) for _ in photos]

    def read(index: int) -> Image:
        return load_rgb(paths[index], image_size)

    return PhotoSet([str(path.relative_to(root)) for path in paths], labels, read)
