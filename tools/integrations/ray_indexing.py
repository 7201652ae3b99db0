"""Indexing on many machines: Ray Data runs engines, and one actor a shard writes what they give.

A batch of photos goes to an engine, and what it gives goes to the writers of its shards at once; the batch is done when
all of them have committed. So nothing large passes through the machine that was asked, and a batch that is done again,
because a machine died before it said that it was done, finds its photos there and changes nothing.
"""

import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from runtime import errors
from runtime.addition import AddReport, Item, aliases, items_of
from runtime.bundle import load_first_stage, load_manifest
from runtime.errors import HowlError, IncompatibleError, ServiceError, UsageError
from runtime.first_stage import Layout
from runtime.index import Index
from runtime.index.ids import check_ids, duplicate
from runtime.index.shards import Shards
from runtime.index.strangers import SAMPLE
from runtime.io.reading_log import left_behind
from runtime.sharded.cluster import load_ray, result
from runtime.sharded.shard import ShardState
from tools.integrations.ray_workers import ADDED, SKIPPED, Batch, Extraction, ShardWriter, each, reason_of

BATCH, LEAST_BATCH, SHARE = 64, 8, 16  # photos: of a batch, at least, and for each shard
WAVES = 2  # batches of each engine, at least, so that none waits long for the last one
MAX_BATCHES = 20_000  # of all, which Ray keeps account of
THREADS = 4  # of an engine on the CPU, if nothing else is said


@dataclass(frozen=True)
class Task:
    """What is to be indexed how.

    Attributes:
        engine: its file, which all machines see at this path.
        index: the folder that has the shards, likewise.
        shards: how many; None for those that it has.
        geometry: whether a new index keeps where features lie.
        regions: levels of the grid by which it aggregates; None for what it has, or for none.
        device: of the engines: ``cpu``, ``cuda``, or None for GPUs where the cluster has some.
        threads: of an engine on the CPU; None for 4, or what the smallest machine has.
        max_pixels: of a photo.
        wait: seconds, for another process that is writing to a shard.
    """

    engine: Path
    index: Path
    shards: int | None
    geometry: bool
    regions: int | None
    device: str | None
    threads: int | None
    max_pixels: int
    wait: float


def index_photos(
    task: Task, photos: Mapping[str, Path], *, existing: str, announce: Callable[[Mapping[str, str]], object]
) -> tuple[AddReport, int]:
    """Adds photos to an index with shards, which is made if there is none. This process is connected to a cluster.

    Args:
        task: what is to be done how.
        photos: files that all machines see at these paths, by id.
        existing: as in ``Retriever.add``.
        announce: is given, before the work, the photos whose files have another id too (``AddReport.aliases``).

    Returns:
        what was added and what was not, and how many photos the index holds.

    Raises:
        HowlError: as ``Retriever.add``; what was committed before is in the index.
    """
    check_ids(task.index, list(photos))
    manifest = load_manifest(task.engine)
    first_stage = load_first_stage(task.engine, manifest)
    layout = replace(first_stage.for_regions(task.regions or 0).layout, regions=task.regions or 0)
    layout = layout if task.geometry else replace(layout, geometry=False)
    with writers_of(task, manifest.fingerprint, layout) as (shards, writers, layout):
        held = shards.grouped(photos)
        there = each(writers, "existing", {shard: (ids,) for shard, ids in held.items()})
        known = {id_ for own in there.values() for id_ in own}
        if known and existing == "error":
            raise duplicate(task.index, next(id_ for id_ in photos if id_ in known))
        present = [] if existing == "replace" else [id_ for id_ in photos if id_ in known]
        new = photos if existing == "replace" else {id_: path for id_, path in photos.items() if id_ not in known}
        items = items_of(list(new.values()), list(new))

        def ids_at(places: Sequence[int]) -> dict[int, str]:
            found = each(writers, "ids_at", dict.fromkeys(range(shards.count), (places,)))
            return {place: id_ for own in found.values() for place, id_ in own.items()}

        report = AddReport(present=present, aliases=aliases(items, ids_at))
        if report.aliases:
            announce(report.aliases)
        if items:
            extract(task, layout, shards, writers, items, "replace" if existing == "replace" else "skip", report)
            each(writers, "measure", dict.fromkeys(range(shards.count), (first_stage.settings,)))
        states = each(writers, "refresh", dict.fromkeys(range(shards.count), ()))
    return report, sum(state.images for state in states.values())


@contextmanager
def writers_of(task: Task, fingerprint: str, layout: Layout) -> Iterator[tuple[Shards, list[Any], Layout]]:
    """The shards of an index, made if there is none, their writers, and what its segments hold.

    Raises:
        UsageError: the number of shards is missing, or another one than the index has.
        IncompatibleError: the index is of another engine, or has other regions.
        ServiceError: the cluster failed, in the block too.
        HowlError: a shard cannot be made or opened.
    """
    ray = load_ray()
    is_new = not Shards.exist(task.index)
    shards = new_shards(task) if is_new else Shards.at(task.index)
    if task.shards not in (None, shards.count):
        raise UsageError(f"--shards {task.shards}: {task.index} has {shards.count}, which cannot be changed")
    made = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy="SPREAD")(ShardWriter)
    writers = [made.remote(shards.place(shard).absolute(), task.wait) for shard in range(shards.count)]
    try:
        if not is_new:
            has: ShardState = result(writers[0].refresh.remote())
            if task.regions is not None and task.regions != has.layout.regions:
                raise IncompatibleError(
                    f"{task.index}: aggregates its photos by {has.layout.regions} levels of regions, not "
                    f"{task.regions}: an index has one way for all of them; make another one (howl index --index)"
                )
            layout = has.layout if has.layout.fits(layout) else layout
        each(writers, "make", dict.fromkeys(range(shards.count), (fingerprint, layout)))
        if is_new:
            shards.write()
        yield shards, writers, layout
    except ray.exceptions.RayError as error:  # the head is gone, or Ray itself failed
        raise ServiceError(f"{task.index}: the cluster gave up: {reason_of(error)}; the same command goes on") from None
    finally:
        for writer in writers:
            ray.kill(writer)


def new_shards(task: Task) -> Shards:
    """The shards of an index that is to be made. Raises HowlError if it cannot be, there or at all."""
    if Index.exists(task.index):
        raise UsageError(f"{task.index}: an index without shards; name another folder to make one with shards")
    if task.shards is None:
        raise UsageError(f"{task.index}: no index with shards here yet; --shards N says how many it is to have")
    shards = Shards(task.index, task.shards)
    own = {shards.name(shard) for shard in range(shards.count)}
    if task.index.is_dir() and (others := {entry.name for entry in task.index.iterdir()} - own):
        raise UsageError(f"{task.index}: not empty ({min(others)}), and not an index; name a new folder")
    return shards


def extract(
    task: Task,
    layout: Layout,
    shards: Shards,
    writers: Sequence[Any],
    items: Sequence[Item],
    existing: str,
    report: AddReport,
) -> None:
    """Runs engines on photos and has the writers commit what they give; the report is told what was added.

    Raises:
        HowlError: an engine cannot be run, or a shard cannot be written; what was committed before is there.
    """
    ray = load_ray()
    import ray.data as ray_data

    pool, resources, threads = engines(ray.nodes(), task.device, task.threads)
    size = batch_size(len(items), shards.count, pool)
    left_over = task.index.absolute().with_name(f"{task.index.name}.reading")
    with left_behind(left_over):
        pass  # logs of batches that were never done again: a photo that kills is found again
    quiet(ray_data)
    named = {item.id: str(item.photo) for item in items}
    done = ray_data.from_arrow(tables(items, shards, size)).map_batches(
        Extraction,
        batch_size=None,
        batch_format="numpy",
        compute=ray_data.ActorPoolStrategy(min_size=1, max_size=pool),
        fn_constructor_kwargs=dict(
            engine=task.engine.absolute(),
            settings=dict(device=task.device, threads=threads, max_pixels=task.max_pixels),
            regions=layout.regions,
            shards=shards,
            writers=list(writers),
            existing=existing,
            log=left_over,
        ),
        **resources,
    )
    with tqdm(total=len(items), desc="indexing", unit="photo", disable=None) as bar:
        for batch in done.iter_batches(batch_size=None, batch_format="numpy"):
            take(batch, report, named)
            bar.update(len(batch["id"]))


def engines(
    nodes: Sequence[Mapping[str, Any]], device: str | None, threads: int | None
) -> tuple[int, dict[str, Any], int | None]:
    """How many engines a cluster runs, what Ray is to reserve for each, and their threads.

    Args:
        nodes: its machines, as ``ray.nodes()`` gives them.
        device: of the engines, as in ``Task``.
        threads: of an engine on the CPU, as in ``Task``.

    Raises:
        UsageError: no machine has a GPU, or so many CPUs.
    """
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    gpus = int(sum(node.get("GPU", 0) for node in alive))
    if device == "cuda" and not gpus:
        raise UsageError("--device cuda: no machine of the cluster has a GPU that Ray knows of")
    if gpus and device != "cpu":
        return gpus, {"num_gpus": 1}, threads
    cpus = [int(node.get("CPU", 0)) for node in alive if node.get("CPU", 0) >= 1]
    own = threads or min([THREADS, *cpus])
    count = sum(cpu // own for cpu in cpus)
    if not count:
        raise UsageError(f"--threads {own}: no machine of the cluster has so many CPUs")
    return count, {"num_cpus": own}, own


def batch_size(photos: int, shards: int, engines: int) -> int:
    """Photos of a batch: a commit in each shard should be worth it, and no engine should be without work."""
    enough = max(BATCH, SHARE * shards, math.ceil(photos / MAX_BATCHES))
    return max(LEAST_BATCH, min(enough, math.ceil(photos / (WAVES * engines))))


def tables(items: Sequence[Item], shards: Shards, size: int) -> list[Any]:
    """Photos in batches: tables of Arrow, each a task of its own. About 64 photos of each shard are samples."""
    import pyarrow

    samples = set[str]()
    for own in shards.grouped([item.id for item in items]).values():
        samples.update(own[:: max(1, len(own) // SAMPLE)])
    return [
        pyarrow.table(
            {
                "id": [item.id for item in some],
                "path": [os.path.abspath(str(item.photo)) for item in some],
                "is_sample": [item.id in samples for item in some],
            }
        )
        for some in (items[start : start + size] for start in range(0, len(items), size))
    ]


def take(batch: Batch, report: AddReport, named: Mapping[str, str]) -> None:
    """Tells a report what became of photos. Raises the HowlError that a batch failed with.

    Args:
        batch: outcomes.
        report: is told.
        named: the paths of the photos as they were typed, by id.
    """
    for id_, outcome, line in zip(batch["id"], batch["outcome"], batch["line"], strict=True):
        if outcome == ADDED:
            report.added.append(str(id_))
        elif outcome == SKIPPED:
            typed = named[str(id_)]
            report.skipped[str(id_)] = str(line).replace(os.path.abspath(typed), typed, 1)
        else:
            raise getattr(errors, str(outcome).split()[1], HowlError)(str(line))


def quiet(ray_data: Any) -> None:
    """Ray Data's own progress and log would come between howl's."""
    context = ray_data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
