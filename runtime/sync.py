"""What photos on the disk and an index do not have in common: new ones, changed ones, and those that vanished."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.index import AnyIndex
from runtime.index.ids import id_of_path
from runtime.index.origin import Origin, place_of


@dataclass(frozen=True)
class Differences:
    """Photos by id.

    Attributes:
        new: on the disk alone.
        changed: whose file has another size or time of change than when it was indexed, or was not known then.
        vanished: in the index alone: the files that they came from are gone.
        elsewhere: in the index alone, but their ids do not lead to the files that they came from: they were added with
            another root, or under ids of their own.
        unchanged: how many are the same on both sides.
    """

    new: list[str]
    changed: list[str]
    vanished: list[str]
    elsewhere: list[str]
    unchanged: int


def differences(
    index: AnyIndex | None, photos: Mapping[str, Path], places: Sequence[str | Path], root: Path | None = None
) -> Differences:
    """Compares an index with the photos that were found in some folders.

    Args:
        index: None for an empty one.
        photos: what was found, by id.
        places: the folders and files that were looked through: ids elsewhere have not vanished.
        root: the folder from which ids are seen, if there is one.
    """
    if index is None:
        return Differences(list(photos), [], [], [], 0)
    known = index.origins(list(photos))
    changed = [id_ for id_, origin in known.items() if origin is None or origin != Origin.of(photos[id_])]
    names = [id_of_path(place, root) for place in places]
    held = dict.fromkeys([id_ for name in names for id_ in (*index.existing([name]), *index.below(name))])
    # A file that is there but was passed over, because of its name, has not vanished.
    gone = [id_ for id_ in held if id_ not in photos and not os.path.lexists(Path(root or "", id_))]
    came_from = {id_: origin for id_, origin in index.origins(gone).items() if origin is not None}
    vanished = [id_ for id_ in gone if id_ in came_from and came_from[id_].place == place_of(Path(root or "", id_))]
    elsewhere = sorted(set(gone) - set(vanished))
    new = [id_ for id_ in photos if id_ not in known]
    return Differences(new, changed, vanished, elsewhere, len(known) - len(changed))
