"""Adding photos, as commands do it: what is found in folders, and what is said of it; here or on a Ray cluster."""

import os
import sys
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.addition import AddReport
from runtime.errors import ImageError
from runtime.index.ids import id_of_path, is_unicode
from runtime.io.finding import NO_PERMISSION, describe_passed_over, look_for_photos
from runtime.io.image import describe_unreadable
from runtime.retriever import Retriever
from runtime.sharded.cluster import connect
from runtime.sync import differences
from tools.environment import peak_memory
from tools.integrations.ray_indexing import Task, index_photos


def add(retriever: Retriever, places: Sequence[str], existing: str = "skip") -> None:
    """Adds the photos of files and folders; where those in the index are skipped, an interrupted run goes on."""
    found = Photos.find(places, retriever.root)
    end_addition(found, fill(retriever, found, found.by_id, existing))


def add_on_cluster(task: Task, address: str, places: Sequence[str], root: Path | None, existing: str = "skip") -> None:
    """``add`` on the machines of a Ray cluster, to an index with shards."""
    found = Photos.find(places, None if root is None else Path(os.path.abspath(root)))
    connect(address)
    begin = time.perf_counter()
    report, held = index_photos(task, found.by_id, existing=existing, announce=announce_aliases)
    print_addition(task.index, found, report, held, time.perf_counter() - begin, "")
    end_addition(found, report)


def end_addition(found: "Photos", report: AddReport) -> None:
    """Says what was there already. Raises ImageError if not one of the photos can be read."""
    if report.present:
        print(f"{len(report.present)} were there already")
    if found.unnamed | report.skipped and not report.added and not report.present:
        raise ImageError("none of the photos could be read")


def sync(retriever: Retriever, places: Sequence[str], *, may_remove: bool) -> None:
    """Makes the index hold what files and folders hold: adds what is new, replaces what changed, removes the rest.

    Args:
        retriever: whose index it is.
        places: files and folders; photos elsewhere stay in the index.
        may_remove: whether to remove photos that vanished, or only to say that they did.
    """
    found = Photos.find(places, retriever.root)
    retriever.refresh()
    different = differences(retriever.index, found.by_id, places, retriever.root)
    report = fill(retriever, found, [*different.new, *different.changed], "replace")
    replaced = len(set(different.changed) & set(report.added))
    print(f"{len(report.added) - replaced} new, {replaced} replaced, {different.unchanged} as before")
    if different.elsewhere:
        print(
            f"{len(different.elsewhere)} others ({some_of(different.elsewhere)}) were added with another --root, or "
            "from elsewhere: they stay"
        )
    if vanished := different.vanished:
        some = some_of(vanished)
        if found.passed_over[NO_PERMISSION]:
            print(
                f"{len(vanished)} vanished ({some}), perhaps into folders that cannot be opened: they stay in the index"
            )
        elif may_remove:
            retriever.remove(vanished)
            print(f"{len(vanished)} vanished ({some}) and were removed; the index holds {len(retriever)}")
        else:
            print(f"{len(vanished)} vanished ({some}) and are still in the index; --yes removes them")


def some_of(ids: Sequence[str]) -> str:
    """Three ids, as an example."""
    return ", ".join(ids[:3]) + (", ..." if len(ids) > 3 else "")


@dataclass(frozen=True)
class Photos:
    """What was found to be indexed.

    Attributes:
        by_id: the photos.
        unnamed: by path, why a photo can have no id: file names may be any bytes.
        passed_over: by kind, how many files are no photos.
    """

    by_id: dict[str, Path]
    unnamed: dict[str, str]
    passed_over: Counter[str]

    @classmethod
    def find(cls, places: Sequence[str], root: Path | None) -> "Photos":
        """The photos of files and folders; ``root`` as in ``Retriever``. Raises HowlError if there are none."""
        found = look_for_photos(places)
        by_id: dict[str, Path] = {}
        unnamed: dict[str, str] = {}
        for path in found.photos:
            if is_unicode(str(path)):
                by_id.setdefault(id_of_path(path, root), path)
            else:
                unnamed[str(path)] = f"{str(path)!r}: its name is not valid Unicode; rename it"
        return cls(by_id, unnamed, found.passed_over)


def fill(retriever: Retriever, found: Photos, ids: Collection[str], existing: str) -> AddReport:
    """Adds some of the photos that were found, and prints what was added and what was not."""
    photos = {id_: found.by_id[id_] for id_ in ids}
    if aliases := retriever.aliases(photos.values(), photos):  # said before the work, which takes its time
        announce_aliases(aliases)
    begin = time.perf_counter()
    report = retriever.add(photos.values(), photos, existing=existing)
    took = time.perf_counter() - begin
    print_addition(retriever.index_path, found, report, len(retriever), took, _memory())
    return report


def announce_aliases(aliases: Mapping[str, str]) -> None:
    """Says that photos have two ids: by id, the other."""
    id_, other = next(iter(aliases.items()))
    print(
        f"{len(aliases)} of the photos are in the index, or named here, under another id too: {id_} is {other}; "
        "--root DIR gives a photo one id however its path is typed",
        file=sys.stderr,
    )


def print_addition(path: Path, found: Photos, report: AddReport, held: int, took: float, memory: str) -> None:
    """Prints what was added to an index in so many seconds, and what was not."""
    print(
        f"added {len(report.added)} photos to {path} in {took:.1f} s, "
        f"{len(report.added) / took:.1f} a second{memory}; it holds {held}"
    )
    if found.passed_over:
        print(describe_passed_over(found.passed_over))
    if skipped := found.unnamed | report.skipped:
        print(describe_unreadable(skipped))


def _memory() -> str:
    return "" if sys.platform == "win32" else f", with {peak_memory() / 1e6:.0f} MB of memory at most"
