"""The retriever and its encoder, on a small real engine: from photos to a ranked list."""

import json
import os
import pickle
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import runtime.addition
import runtime.encoder
import runtime.gpu.device
from runtime import HowlError, ImageError, MissingError, Retriever, StorageError, UsageError, WriterBusyError
from runtime.asmk.codebook import Codebook
from runtime.asmk.gpu import GpuAsmkKernel
from runtime.asmk.kernel import AsmkKernel
from runtime.bundle import EngineFiles, Manifest, file_checksum
from runtime.encoder import Encoder
from runtime.engine.onnxruntime import OnnxRuntimeEngine
from runtime.features import Features
from runtime.index import Hit, Index
from runtime.io.image import load_rgb
from runtime.rerank import RERANKERS

from ..cuda.stand_in import StandIn

MakePhoto = Callable[..., NDArray[np.uint8]]


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return tmp_path / "landmarks.index"


@pytest.fixture
def retriever(exported: Path, index: Path) -> Iterator[Retriever]:
    """With an index that does not exist yet."""
    with Retriever(exported / "engine.onnx", index, device="cpu") as retriever:
        yield retriever


def refusal(action: Callable[[], object]) -> str:
    with pytest.raises(HowlError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def ids(hits: list[Hit]) -> list[str]:
    return [hit.id for hit in hits]


# ---------------------------------------------------------------------------------------- on a GPU


@pytest.mark.slow
def test_on_a_gpu_the_hits_are_those_of_the_cpu(
    exported: Path, index: Path, photos: list[str], gpu: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One switch: words, codes and scores are equal to the bit, and the copy on the GPU follows the index."""
    monkeypatch.setattr(runtime.encoder, "open_engine", lambda path, *_: OnnxRuntimeEngine(path, "cpu"))
    with (
        Retriever(exported / "engine.onnx", index, device="cuda") as on_gpu,
        Retriever(exported / "engine.onnx", index, device="cpu") as on_cpu,
    ):
        assert isinstance(on_gpu.encoder.first_stage, GpuAsmkKernel)
        on_gpu.add(photos[:3])
        on_cpu.refresh()
        for change in (
            lambda: None,
            lambda: on_gpu.add(photos[3:]),
            lambda: on_gpu.remove([photos[1]]),
            on_gpu.compact,
        ):
            change()
            on_cpu.refresh()
            assert [on_gpu.search(photo) for photo in photos] == [on_cpu.search(photo) for photo in photos]
            assert on_gpu.search_many(photos, top=2) == on_cpu.search_many(photos, top=2)
        chosen = {"only": [photos[0], photos[2]], "exclude": [photos[2]]}
        assert on_gpu.search(photos[0], **chosen) == on_cpu.search(photos[0], **chosen)
        launched = len(gpu.launches)
        on_gpu.search(photos[0])
        assert gpu.launches[launched:] == [
            "group_minima",
            "nearest_words",
            "add_weights",
            "count_hits",
            "find_lowest",
            "collect_hits",
        ]


def test_a_gpu_that_is_not_there_is_an_error(exported: Path, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime.encoder, "open_engine", lambda path, *_: OnnxRuntimeEngine(path, "cpu"))
    monkeypatch.setattr(runtime.gpu.device, "find_gpus", list)
    line = refusal(lambda: Retriever(exported / "engine.onnx", index, device="cuda"))
    assert line.endswith("engine.onnx: needs an NVIDIA GPU, and none was found: ask for the CPU")


# ---------------------------------------------------------------------------------------- adding, searching


def test_every_photo_finds_itself_first(retriever: Retriever, photos: list[str]) -> None:
    report = retriever.add(photos)
    assert (report.added, report.skipped) == (photos, {})
    assert len(retriever) == len(photos)
    for photo in photos:
        hits = retriever.search(photo)
        assert hits[0].id == photo
        assert all(hits[0].score > hit.score for hit in hits[1:])
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_a_photo_that_was_changed_a_little_finds_the_original(
    retriever: Retriever, photos: list[str], make_photo: MakePhoto
) -> None:
    retriever.add(photos)
    for number, original in enumerate(photos):
        noise = np.random.default_rng(number).integers(-8, 9, (96, 128, 3))
        changed = np.clip(make_photo(number) * 0.9 + 10 + noise, 0, 255).astype(np.uint8)
        assert ids(retriever.search(changed, top=1)) == [original]


def test_paths_bytes_and_arrays_are_the_same_photo(
    retriever: Retriever, photos: list[str], make_photo: MakePhoto
) -> None:
    data = Path(photos[0]).read_bytes()
    same = [photos[0], Path(photos[0]), data, make_photo(0)]
    retriever.add(photos[1:])
    report = retriever.add(same, ids=["path", "Path", "bytes", "array"])
    assert report.added == ["path", "Path", "bytes", "array"]
    answers = [retriever.search(photo) for photo in same]
    assert answers == [answers[0]] * 4
    assert ids(answers[0])[:4] == ["path", "Path", "bytes", "array"]  # a tie: in the order of addition
    assert len({hit.score for hit in answers[0][:4]}) == 1


def test_many_searches_are_as_many_single_ones(retriever: Retriever, photos: list[str]) -> None:
    retriever.add(photos)
    assert retriever.search_many(photos, top=2) == [retriever.search(photo, top=2) for photo in photos]
    assert retriever.search_many([]) == []


def test_top_limits_the_answers(retriever: Retriever, photos: list[str]) -> None:
    retriever.add(photos)
    whole = retriever.search(photos[0], top=100)
    assert len(whole) == len(photos)
    assert retriever.search(photos[0], top=2) == whole[:2]


def test_the_index_is_there_when_opened_again(exported: Path, index: Path, photos: list[str]) -> None:
    with Retriever(exported / "engine.onnx", index, device="cpu") as first:
        first.add(photos[:3])
        first.add(photos[3:])
        answers = first.search_many(photos)
    with Retriever(str(exported / "engine.onnx"), str(index), device="cpu") as second:
        assert second.search_many(photos) == answers


def test_without_a_name_the_index_lies_beside_the_engine(engine: Path, photos: list[str]) -> None:
    with Retriever(engine, device="cpu") as retriever:
        assert not EngineFiles.of(engine).index.exists()
        retriever.add(photos)
    assert Index.exists(engine.parent / "engine.index")
    with Retriever(engine, device="cpu") as retriever:
        assert ids(retriever.search(photos[2], top=1)) == [photos[2]]


def test_removed_photos_are_not_found_and_can_be_added_again(retriever: Retriever, photos: list[str]) -> None:
    retriever.add(photos)
    retriever.remove([photos[0], photos[3]])
    assert len(retriever) == len(photos) - 2
    for hits in retriever.search_many(photos, top=100):
        assert not {photos[0], photos[3]} & set(ids(hits))
    retriever.add([photos[0]])
    assert ids(retriever.search(photos[0], top=1)) == [photos[0]]
    assert "nowhere.jpg is not in the index" in refusal(lambda: retriever.remove(["nowhere.jpg"]))


def test_an_index_that_became_empty_can_be_filled_again(retriever: Retriever, photos: list[str]) -> None:
    retriever.add(photos)
    retriever.remove(photos)
    assert retriever.search(photos[0]) == []
    retriever.add(photos[:1])
    assert ids(retriever.search(photos[0])) == photos[:1]


def test_who_loses_the_race_for_making_the_index_adds_to_the_winners(
    exported: Path, index: Path, photos: list[str]
) -> None:
    with (
        Retriever(exported / "engine.onnx", index, device="cpu") as loser,
        Retriever(exported / "engine.onnx", index, device="cpu") as winner,
    ):
        encode = loser.encoder.first_stage.encode_database

        def while_another_makes_it(features: Features) -> object:
            winner.add(photos[:1], existing="skip")
            return encode(features)

        loser.encoder.first_stage.encode_database = while_another_makes_it  # type: ignore[method-assign]
        report = loser.add(photos[:3], existing="skip")
        assert (report.added, report.present) == (photos[1:3], photos[:1])
    assert sorted(Index(index).ids()) == photos[:3]


def test_adding_takes_up_an_index_that_another_has_made(exported: Path, index: Path, photos: list[str]) -> None:
    with Retriever(exported / "engine.onnx", index, device="cpu") as retriever:
        with Retriever(exported / "engine.onnx", index, device="cpu") as other:
            other.add(photos[:1])
        retriever.add(photos[1:])
        assert len(retriever) == len(photos)


@pytest.mark.parametrize(
    "use",
    [
        lambda retriever, photo: retriever.search(photo),
        lambda retriever, photo: retriever.search_many([photo]),
        lambda retriever, photo: retriever.add([photo]),
        lambda retriever, photo: retriever.remove([photo]),
        lambda retriever, photo: retriever.compact(),
        lambda retriever, photo: retriever.refresh(),
        lambda retriever, photo: len(retriever),
        lambda retriever, photo: photo in retriever,
        lambda retriever, photo: retriever.aliases([photo]),
        lambda retriever, photo: retriever.stranger_score,
    ],
    ids=["search", "search_many", "add", "remove", "compact", "refresh", "len", "in", "aliases", "stranger_score"],
)
def test_a_closed_retriever_says_so(use: Callable, retriever: Retriever, photos: list[str]) -> None:
    retriever.add(photos[:2])
    retriever.close()
    with pytest.raises(UsageError, match="closed"):
        use(retriever, photos[0])


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"top": 0}, "top=0: must be at least 1"),
        ({"top": -5}, "top=-5: must be at least 1"),
        ({"top": "3"}, "top: a whole number is needed, not str"),
        ({"top": None}, "top: a whole number is needed, not NoneType"),
        ({"top": 2.5}, "top: a whole number is needed, not float"),
        ({"candidates": 0}, "candidates=0: must be at least 1"),
        ({"rerank": "x"}, f"rerank='x': there is {', '.join(RERANKERS)}, or give a Reranker (runtime.rerank)"),
        ({"rerank": 7}, f"rerank=7: there is {', '.join(RERANKERS)}, or give a Reranker (runtime.rerank)"),
    ],
)
def test_a_wrong_argument_of_search_is_one_line(
    arguments: dict, line: str, retriever: Retriever, photos: list[str]
) -> None:
    retriever.add(photos[:2])
    with pytest.raises(UsageError, match=f"^{re.escape(line)}$"):
        retriever.search(photos[0], **arguments)
    if "top" in arguments:
        with pytest.raises(UsageError, match=f"^{re.escape(line)}$"):
            retriever.search_many(photos[:1], **arguments)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"threads": 0}, "threads=0: must be at least 1"),
        ({"threads": 99_999}, "threads=99999: at most 1024; more than there are cores only take memory"),
        ({"threads": "2"}, "threads: a whole number is needed, not str"),
        ({"wait": -1}, "wait=-1: must be a number of seconds, at least 0"),
        ({"wait": float("inf")}, "wait=inf: must be finite"),
        ({"max_pixels": 0}, "max_pixels=0: must be at least 1"),
        ({"max_pixels": None}, "max_pixels: a whole number is needed, not NoneType"),
        ({"alpha": "3"}, "alpha: a number is needed, not str"),
        ({"threshold": True}, "threshold: a number is needed, not bool"),
        ({"root": 5}, "root: a path is needed, not int"),
        ({"index": "a\0b"}, "index: a path has no NUL"),
        ({"index": ""}, "index: the path is empty"),
        ({"engine": None}, "engine: a path is needed, not NoneType"),
    ],
)
def test_a_wrong_setting_is_one_line(arguments: dict, line: str, exported: Path) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(line)}$"):
        Retriever(**{"engine": exported / "engine.onnx"} | arguments)


def test_a_root_that_is_not_there_is_said(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="nowhere: no such folder"):
        Retriever(exported / "engine.onnx", root=tmp_path / "nowhere")


@pytest.mark.parametrize(
    "photo", [bytearray(b"x" * 100_000), [[[0, 0, 0]] * 300] * 300, "x" * 100_000, 7, None, np.zeros((9, 9))], ids=type
)
def test_what_is_no_photo_is_named_by_type_and_size(photo: object, retriever: Retriever, photos: list[str]) -> None:
    retriever.add(photos[:1])
    with pytest.raises(ImageError) as caught:
        retriever.search(photo)
    assert len(str(caught.value)) < 500


def test_any_bytes_will_do(retriever: Retriever, photos: list[str]) -> None:
    retriever.add(photos)
    data = Path(photos[0]).read_bytes()
    assert retriever.search(bytearray(data)) == retriever.search(memoryview(data)) == retriever.search(photos[0])


def test_without_an_index_there_is_nothing_to_search_or_remove(
    retriever: Retriever, index: Path, photos: list[str]
) -> None:
    assert len(retriever) == 0
    assert refusal(lambda: retriever.search(photos[0])).startswith(f"{index}: no index here; add photos first")
    assert refusal(lambda: retriever.remove(photos)).startswith(f"{index}: no index here")
    assert not index.exists()


def test_commits_are_bounded(retriever: Retriever, photos: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime.addition, "COMMIT_SIZE", 2)
    sizes = []
    add = Index.add

    def counted(self: Index, ids: Iterable[str], images: Iterable, **rest: Any) -> list[str]:
        sizes.append(len(list(ids)))
        return add(self, ids, images, **rest)

    monkeypatch.setattr(Index, "add", counted)
    assert retriever.add(photos[:5]).added == photos[:5]
    assert sizes == [2, 2, 1]
    monkeypatch.setattr(runtime.addition, "COMMIT_SECONDS", 0)
    retriever.remove(photos[:5])
    retriever.add(photos[:3])
    assert sizes[3:] == [1, 1, 1]


@contextmanager
def another_writer(index: Path, seconds: float) -> Iterator[None]:
    """A block in which another connection is writing to the index, for so many seconds."""
    begun = threading.Event()

    def write() -> None:
        with closing(Index(index)) as other, other._writing("nothing"):
            begun.set()
            time.sleep(seconds)

    thread = threading.Thread(target=write)
    thread.start()
    begun.wait()
    try:
        yield
    finally:
        thread.join()


def test_work_goes_on_while_another_process_writes(
    exported: Path, index: Path, photos: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime.addition, "COMMIT_SIZE", 2)
    with Retriever(exported / "engine.onnx", index, device="cpu", wait=60) as retriever:
        retriever.add(photos[:1])
        with another_writer(index, seconds=0.5):
            assert retriever.add(photos[1:]).added == photos[1:]
    assert Index(index).ids() == photos


def test_a_writer_that_does_not_end_is_said_with_what_was_not_added(
    exported: Path, index: Path, photos: list[str]
) -> None:
    with Retriever(exported / "engine.onnx", index, device="cpu", wait=0.05) as retriever:
        retriever.add(photos[:1])
        with another_writer(index, seconds=1), pytest.raises(WriterBusyError, match="; 5 photos were not added"):
            retriever.add(photos[1:])
        assert retriever.add(photos[1:]).added == photos[1:]


def test_what_was_committed_before_a_failure_stays(
    retriever: Retriever, index: Path, photos: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime.addition, "COMMIT_SIZE", 2)
    add = Index.add

    def fail_at_the_third(self: Index, ids: Iterable[str], images: Iterable, **rest: Any) -> list[str]:
        if photos[4] in ids:
            raise HowlError("the disk is full")
        return add(self, ids, images, **rest)

    monkeypatch.setattr(Index, "add", fail_at_the_third)
    assert refusal(lambda: retriever.add(photos)) == "the disk is full"
    assert Index(index).ids() == photos[:4]


def test_any_iterable_will_do(retriever: Retriever, photos: list[str]) -> None:
    assert retriever.add(Path(photo) for photo in photos[:3]).added == photos[:3]
    assert retriever.add(iter(photos[3:]), ids=(f"photo{i}" for i in range(3))).added == ["photo0", "photo1", "photo2"]
    assert len(retriever.search_many(photo for photo in photos[:2])) == 2
    retriever.remove(Path(photo) for photo in photos[:3])
    assert len(retriever) == 3


# ------------------------------------------------------------------------------------------------------ ids


def test_what_is_there_already_is_an_error_skipped_or_replaced(
    retriever: Retriever, photos: list[str], make_photo: MakePhoto
) -> None:
    retriever.add(photos[:2])
    assert "is in the index already" in refusal(lambda: retriever.add([photos[2], photos[0]]))
    assert len(retriever) == 2
    report = retriever.add(photos[:3], existing="skip")
    assert (report.added, report.present) == (photos[2:3], photos[:2])
    report = retriever.add([make_photo(9), make_photo(8)], ids=[photos[0], "new"], existing="replace")
    assert (report.added, report.present) == ([photos[0], "new"], [])
    assert sorted(retriever.ids()) == sorted([*photos[:3], "new"])
    assert ids(retriever.search(make_photo(9), top=1)) == photos[:1]
    assert "existing='overwrite': must be error, skip or replace" in refusal(
        lambda: retriever.add(photos[:1], existing="overwrite")
    )


def test_a_photo_that_cannot_be_read_replaces_none(retriever: Retriever, photos: list[str]) -> None:
    retriever.add(photos[:2])
    assert retriever.add([b"no photo"], ids=photos[:1], existing="replace").added == []
    assert ids(retriever.search(photos[0], top=1)) == photos[:1]


def test_ids_seen_from_a_root_do_not_depend_on_how_paths_are_typed(
    exported: Path, photos: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(photos[0]).parent
    (tmp_path / "link").symlink_to(root)
    monkeypatch.chdir(root)
    typed = [photos[0], Path(photos[1]).name, f"./{Path(photos[2]).name}", tmp_path / "link" / Path(photos[3]).name]
    for number, given in enumerate((root, ".", tmp_path / "link")):
        with Retriever(exported / "engine.onnx", tmp_path / f"{number}.index", root=given, device="cpu") as retriever:
            assert retriever.add(typed).added == [Path(photo).name for photo in photos[:4]]
            assert all(path in retriever for path in typed)
            assert Path(photos[0]).name in retriever
            retriever.remove(typed[:2])
            assert retriever.ids() == [Path(photo).name for photo in photos[2:4]]
            assert "lies outside the root" in refusal(lambda: retriever.add([tmp_path / "x.png"]))


def test_the_same_file_under_two_ids_is_said(
    retriever: Retriever, photos: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(photos[0]).parent)
    name = Path(photos[0]).name
    (tmp_path / "link.png").symlink_to(photos[1])
    assert retriever.add(photos[:2]).aliases == {}
    assert retriever.aliases([name, photos[2]]) == {name: photos[0]}
    report = retriever.add([name, tmp_path / "link.png", photos[3], f"../{Path.cwd().name}/{Path(photos[3]).name}"])
    assert report.aliases == {
        name: photos[0],
        str(tmp_path / "link.png"): photos[1],
        f"../{Path.cwd().name}/{Path(photos[3]).name}": photos[3],
    }
    assert len(report.added) == 4


def test_a_search_can_be_kept_within_or_without_some_ids(retriever: Retriever, photos: list[str]) -> None:
    retriever.add(photos)
    everything = retriever.search(photos[0])
    assert retriever.search(photos[0], only=photos[1:3]) == [hit for hit in everything if hit.id in photos[1:3]]
    without = [hit for hit in everything if hit.id != photos[0]]
    assert retriever.search(photos[0], exclude=[photos[0], "never added"]) == without
    assert retriever.search(photos[0], top=2, exclude=photos[:1]) == without[:2]
    assert retriever.search_many(photos[:1], only=photos[:3], exclude=(id_ for id_ in photos[:2])) == [
        [hit for hit in everything if hit.id == photos[2]]
    ]
    assert retriever.search(photos[0], only=[]) == []
    assert "only: nowhere.jpg is not in the index" in refusal(lambda: retriever.search(photos[0], only=["nowhere.jpg"]))
    for argument in ("only", "exclude"):
        assert f"{argument}: a list is needed" in refusal(lambda: retriever.search(photos[0], **{argument: photos[0]}))  # noqa: B023


# --------------------------------------------------------------------------------------------------- scores


def test_hits_below_the_least_score_are_left_out(retriever: Retriever, photos: list[str]) -> None:
    retriever.add(photos)
    hits = retriever.search(photos[0])
    assert retriever.search(photos[0], min_score=hits[1].score) == hits[:2]
    assert retriever.search_many(photos[:1], min_score=hits[1].score) == [hits[:2]]
    assert retriever.search(photos[0], min_score=2) == []
    for value, line in ((float("nan"), "min_score=nan: must be finite"), ("1", "min_score: a number is needed")):
        assert line in refusal(lambda: retriever.search(photos[0], min_score=value))  # noqa: B023


def test_what_strangers_score_is_measured_when_the_index_is_made_and_when_it_has_doubled(
    exported: Path, index: Path, make_photo: MakePhoto
) -> None:
    drawn = [make_photo(number) for number in range(70)]
    names = [f"photo{number}" for number in range(70)]
    with Retriever(exported / "engine.onnx", index, device="cpu") as retriever:
        retriever.add(drawn[:20], names[:20])
        assert retriever.stranger_score is None  # too few
        retriever.add(drawn[20:35], names[20:35])
        assert retriever.index
        strangers = retriever.index.strangers()
        assert strangers is not None
        assert strangers.images == 35
        assert retriever.stranger_score == strangers.best_of(35)
        retriever.add(drawn[35:50], names[35:50])
        assert retriever.index.strangers() == strangers
        retriever.add(drawn[50:], names[50:])
        assert retriever.index.strangers() != strangers
        assert (
            retriever.search(drawn[0])[0].score > retriever.stranger_score > retriever.search(drawn[0])[40 // 8].score
        )
    with Retriever(exported / "engine.onnx", index, device="cpu", alpha=2) as other:
        assert other.stranger_score is None  # its scores are others
        assert "0 of 70 could be read at the paths that are their ids" in refusal(other.measure_strangers)


def test_what_strangers_score_is_measured_when_it_is_asked_for(
    exported: Path, index: Path, tmp_path: Path, make_photo: MakePhoto
) -> None:
    for number in range(32):
        assert cv2.imwrite(str(tmp_path / f"{number}.png"), make_photo(number))
    with Retriever(exported / "engine.onnx", index, root=tmp_path, device="cpu", alpha=2) as retriever:
        retriever.add(sorted(tmp_path.glob("*.png")))
        with Retriever(exported / "engine.onnx", index, root=tmp_path, device="cpu") as other:
            assert other.stranger_score is None
            other.measure_strangers()
            assert other.stranger_score is not None


def test_one_photo_that_cannot_be_read_costs_no_other_its_answer(retriever: Retriever, photos: list[str]) -> None:
    retriever.add(photos)
    skipped: dict[int, str] = {}
    answers = retriever.search_many([photos[0], "nowhere.jpg", photos[1]], 3, skipped=skipped)
    assert answers == [retriever.search(photos[0], 3), [], retriever.search(photos[1], 3)]
    assert skipped == {1: "nowhere.jpg: No such file or directory"}
    with pytest.raises(ImageError, match="nowhere"):
        retriever.search_many([photos[0], "nowhere.jpg"])
    assert "skipped: a dict is needed, not list" in refusal(lambda: retriever.search_many(photos, skipped=[]))


def test_any_thread_may_use_a_retriever(retriever: Retriever, photos: list[str]) -> None:
    def in_thread(action: Callable[[], object]) -> object:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(action).result()

    in_thread(lambda: retriever.add(photos[:3]))
    retriever.add(photos[3:])
    in_thread(lambda: retriever.remove(photos[:1]))
    in_thread(retriever.refresh)
    in_thread(retriever.compact)
    assert ids(in_thread(lambda: retriever.search(photos[1])))[0] == photos[1]
    in_thread(retriever.close)


def test_another_process_opens_engine_and_index_by_their_paths(
    exported: Path, index: Path, photos: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(exported)
    with Retriever("engine.onnx", index, device="cpu", alpha=2) as retriever:
        retriever.add(photos)
        monkeypatch.chdir(tmp_path)
        content = pickle.dumps(retriever)
        with pickle.loads(content) as copy:
            assert copy.search(photos[0]) == retriever.search(photos[0])
            assert str(copy.encoder.first_stage) == str(retriever.encoder.first_stage)


SEARCH_IN_SPAWNED_PROCESSES = """
import sys
from multiprocessing import get_context
from runtime import Retriever
with Retriever(sys.argv[1], sys.argv[2], device="cpu") as retriever, get_context("spawn").Pool(2) as pool:
    print([hits[0].id for hits in pool.map(retriever.search, sys.argv[3:])])
"""


def test_spawned_processes_search_with_the_retriever_that_they_are_given(
    retriever: Retriever, photos: list[str], run_python: Callable
) -> None:
    retriever.add(photos[:3])
    done = run_python(SEARCH_IN_SPAWNED_PROCESSES, retriever.encoder.path, retriever.index_path, *photos[:3])
    assert done.stdout.strip() == str(photos[:3]), done.stderr


def test_a_retriever_knows_its_ids(retriever: Retriever, photos: list[str]) -> None:
    assert (retriever.ids(), photos[0] in retriever) == ([], False)
    retriever.add(photos[:2])
    assert retriever.ids() == photos[:2]
    assert photos[0] in retriever
    assert Path(photos[1]) in retriever
    assert photos[2] not in retriever
    assert 5 not in retriever


FORK_WHILE_OTHERS_SEARCH = """
import os, signal, sys, threading
from runtime import Retriever
retriever = Retriever(sys.argv[1], sys.argv[2], device="cpu")
photos, ended = sys.argv[3:], threading.Event()
def search():
    while not ended.is_set():
        retriever.search(photos[0])
threads = [threading.Thread(target=search) for _ in range(4)]
[thread.start() for thread in threads]
for number in range(8):
    if (child := os.fork()) == 0:
        signal.alarm(20)
        found = retriever.search(photos[1])[0].id == photos[1]
        retriever.add([photos[2]], ids=[str(number)])
        retriever.remove([str(number)])
        os._exit(0 if found else 1)
    print(os.waitpid(child, 0)[1], end=" ")
ended.set()
[thread.join() for thread in threads]
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_forked_in_the_middle_of_searches_works(
    retriever: Retriever, photos: list[str], run_python: Callable
) -> None:
    retriever.add(photos[:3])
    done = run_python(FORK_WHILE_OTHERS_SEARCH, retriever.encoder.path, retriever.index_path, *photos[:3])
    assert done.stdout.split() == ["0"] * 8, done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process")
def test_a_forked_process_searches_on(retriever: Retriever, photos: list[str], tmp_path: Path) -> None:
    retriever.add(photos)
    features = retriever.encoder.extract(photos[0])
    expected = retriever.index.search(retriever.encoder.encode_query(features), 3)
    if (child := os.fork()) == 0:
        found = retriever.index.search(retriever.encoder.encode_query(features), 3)
        os._exit(0 if found == expected else 1)
    assert os.waitpid(child, 0)[1] == 0


# ----------------------------------------------------------------------------------------------- refusing


@pytest.mark.parametrize(
    "call",
    [
        lambda retriever, photo: retriever.remove("12"),
        lambda retriever, photo: retriever.remove(b"12"),
        lambda retriever, photo: retriever.remove(Path("12")),
        lambda retriever, photo: retriever.remove(12),
        lambda retriever, photo: retriever.search_many(photo),
        lambda retriever, photo: retriever.search_many(cv2.imread(photo)),
        lambda retriever, photo: retriever.add(cv2.imread(photo)),
        lambda retriever, photo: retriever.add([photo], ids="3"),
        lambda retriever, photo: retriever.add([photo], ids=[3]),
        lambda retriever, photo: retriever.add([photo], ids=[b"3"]),
        lambda retriever, photo: retriever.remove([1]),
    ],
)
def test_a_single_value_is_no_list_and_an_id_is_a_text(call: Callable, retriever: Retriever, photos: list[str]) -> None:
    retriever.add(photos[:2], ids=["1", "2"])
    with pytest.raises(UsageError, match=r"^(ids|photos): [^\n]{10,80}$"):
        call(retriever, photos[2])
    assert len(retriever) == 2


def test_an_index_that_cannot_be_made_is_refused_before_the_work(
    exported: Path, photos: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("a file")
    with Retriever(exported / "engine.onnx", tmp_path / "file", device="cpu") as retriever:
        monkeypatch.setattr(retriever.encoder, "load", pytest.fail)
        with pytest.raises(StorageError, match="file: cannot make an index here"):
            retriever.add(photos)


def test_photos_that_cannot_be_read_are_skipped_with_the_reason(
    retriever: Retriever, photos: list[str], tmp_path: Path
) -> None:
    missing, text = str(tmp_path / "missing.jpg"), tmp_path / "text.jpg"
    text.write_bytes(b"hello")
    report = retriever.add([missing, photos[0], str(text), b"", photos[1]], ids=["m", "0", "t", "b", "1"])
    assert report.added == ["0", "1"]
    assert list(report.skipped) == ["m", "t", "b"]
    assert report.skipped["m"] == f"{missing}: No such file or directory"
    assert report.skipped["t"] == f"{text}: not an image of a format that howl reads"
    assert "empty file" in report.skipped["b"]
    assert len(retriever) == 2


def test_photos_that_are_all_skipped_make_no_index(retriever: Retriever, photos: list[str]) -> None:
    assert retriever.add([b"no photo"], ids=["a"]).added == []
    assert not retriever.index_path.exists()
    assert retriever.add(photos).added == photos


def test_a_search_in_an_index_that_was_emptied_finds_nothing(retriever: Retriever, photos: list[str]) -> None:
    retriever.add(photos)
    retriever.remove(photos)
    assert retriever.search(photos[0]) == []


def test_what_imread_gives_for_a_bad_path_is_an_error(retriever: Retriever, photos: list[str]) -> None:
    retriever.add(photos)
    with pytest.raises(ImageError, match="imread gives None for a bad path"):
        retriever.search(cv2.imread("nowhere.jpg"))


def test_a_query_that_cannot_be_read_is_an_error(retriever: Retriever, photos: list[str], tmp_path: Path) -> None:
    retriever.add(photos)
    with pytest.raises(ImageError, match=r"nothing\.jpg: No such file"):
        retriever.search(tmp_path / "nothing.jpg")


def test_photos_without_a_path_need_ids(retriever: Retriever, photos: list[str], make_photo: MakePhoto) -> None:
    for nameless, name in ((make_photo(0), "image array (96, 128, 3) uint8"), (b"12345", "image of 5 bytes")):
        line = refusal(lambda photo=nameless: retriever.add([photos[0], photo]))
        assert line.startswith(f"{name}: has no path to be its id")
    assert refusal(lambda: retriever.add(photos[:3], ids=["a", "b"])) == "2 ids were given for 3 photos"
    for single in (photos[0], Path(photos[0]), b"12345"):
        assert "photos: a list is needed, not a single" in refusal(lambda photo=single: retriever.add(photo))
    assert len(retriever) == 0


def test_a_photo_is_not_added_twice(retriever: Retriever, photos: list[str]) -> None:
    retriever.add(photos[:2])
    assert f"{photos[1]} is in the index already" in refusal(lambda: retriever.add(photos[1:]))
    assert f"{photos[3]} is named twice" in refusal(lambda: retriever.add([photos[3], photos[3]]))
    assert len(retriever) == 2


# ------------------------------------------------------------------------------------------- mismatches


def change_manifest(engine: Path, **changes: object) -> None:
    path = EngineFiles.of(engine).manifest
    replace(Manifest.load(path), **changes).save(path)


def test_an_index_of_another_engine_is_refused(engine: Path, index: Path, photos: list[str]) -> None:
    with Retriever(engine, index, device="cpu") as retriever:
        retriever.add(photos)
    change_manifest(engine, fingerprint="trained again")
    line = refusal(lambda: Retriever(engine, index, device="cpu"))
    assert str(index) in line
    assert str(engine) in line
    assert "index the photos again" in line


@pytest.mark.parametrize("suffix", [".onnx", ".codebook.npy"])
def test_files_that_do_not_belong_together_are_named(engine: Path, suffix: str) -> None:
    file = engine.with_suffix(suffix)
    file.write_bytes(file.read_bytes() + b"\0")
    line = refusal(lambda: Retriever(engine, device="cpu"))
    assert str(file) in line
    assert str(EngineFiles.of(engine).manifest) in line


def test_a_damaged_index_is_named(engine: Path, index: Path, photos: list[str]) -> None:
    with Retriever(engine, index, device="cpu") as retriever:
        retriever.add(photos)
    (codes,) = index.glob("*/codes.npy")
    codes.write_bytes(codes.read_bytes()[:-1])
    assert refusal(lambda: Retriever(engine, index, device="cpu")).startswith(f"{codes}: damaged")


@pytest.mark.parametrize(
    ("name", "device", "words"),
    [
        ("nothing.onnx", None, "no such engine"),
        ("engine.plan", "cpu", "a plan runs on a GPU only"),
        ("engine.onnx", "tpu", "device 'tpu'"),
    ],
)
def test_an_engine_that_cannot_be_opened_is_one_line(engine: Path, name: str, device: str, words: str) -> None:
    plan = engine.with_suffix(".plan")
    plan.write_bytes(b"a plan")
    change_manifest(
        engine, checksums={**Manifest.load(EngineFiles.of(engine).manifest).checksums, plan.name: file_checksum(plan)}
    )
    assert words in refusal(lambda: Retriever(engine.with_name(name), device=device))


# ------------------------------------------------------------------------------------------- the encoder


def kernel_of(engine: Path, **parameters: float) -> AsmkKernel:
    first_stage = Encoder(engine, device="cpu", **parameters).first_stage  # type: ignore[arg-type]
    assert isinstance(first_stage, AsmkKernel)
    return first_stage


def test_the_manifests_parameters_are_the_defaults_of_the_search(engine: Path) -> None:
    path = EngineFiles.of(engine).manifest
    content = json.loads(path.read_text())
    content["asmk"] = {"alpha": 2.0, "threshold": 0.1, "multiple_assignment": 3}
    path.write_text(json.dumps(content))
    parameters = kernel_of(engine).parameters
    assert (parameters.alpha, parameters.threshold, parameters.multiple_assignment) == (2.0, 0.1, 3)
    parameters = kernel_of(engine, threshold=0.0, alpha=4.0).parameters
    assert (parameters.alpha, parameters.threshold, parameters.multiple_assignment) == (4.0, 0.0, 3)
    assert "threshold is 2" in refusal(lambda: Encoder(engine, device="cpu", threshold=2))


def test_a_higher_threshold_and_exponent_lower_every_score(exported: Path, index: Path, photos: list[str]) -> None:
    engine = exported / "engine.onnx"
    with Retriever(engine, index, device="cpu") as retriever:
        retriever.add(photos)
        usual = {hit.id: hit.score for hit in retriever.search(photos[0])}
    for stricter in ({"threshold": 0.6}, {"alpha": 6.0}):
        with Retriever(engine, index, device="cpu", **stricter) as retriever:
            scores = {hit.id: hit.score for hit in retriever.search(photos[0])}
        assert 0 < sum(scores.values()) < sum(usual.values())
        assert all(score <= usual[id_] for id_, score in scores.items())


def test_a_query_has_several_words_a_descriptor_and_an_image_of_the_index_one(
    exported: Path, make_photo: MakePhoto
) -> None:
    encoder = Encoder(exported / "engine.onnx", device="cpu")
    codebook = Codebook.load(exported / "engine.codebook.npy")
    features = encoder.extract(make_photo(0))
    for encoded, m in ((encoder.encode_database(features), 1), (encoder.encode_query(features), 5)):
        words = codebook.assign(features.need_local().descriptors, m)
        assert encoded.words.tolist() == sorted(set(words.ravel().tolist()))


def test_descriptors_and_search_see_the_same_pixels(exported: Path, make_photo: MakePhoto) -> None:
    encoder = Encoder(exported / "engine.onnx", device="cpu")
    large = make_photo(3, 400, 304)
    assert encoder.load(large).shape == (128, 97, 3)
    np.testing.assert_array_equal(
        encoder.extract(large).need_local().descriptors,
        encoder.engine.extract(encoder.load(large)).need_local().descriptors,
    )


def test_positions_of_a_photo_that_fits_are_the_engines_own(exported: Path, make_photo: MakePhoto) -> None:
    encoder = Encoder(exported / "engine.onnx", device="cpu")
    photo = make_photo(0)
    found, own = encoder.extract(photo), encoder.engine.extract(load_rgb(photo))
    np.testing.assert_array_equal(found.need_local().positions, own.need_local().positions)


@pytest.mark.parametrize("size", [(512, 384), (400, 301), (100, 900)], ids=lambda size: f"{size[0]}×{size[1]}")
def test_positions_are_pixels_of_the_photo_before_it_was_shrunk(exported: Path, size: tuple[int, int]) -> None:
    """A cell of noise on an even ground lies where it was painted, to a pixel of the original."""
    encoder = Encoder(exported / "engine.onnx", device="cpu")
    height, width = size
    small = encoder.load(np.zeros((*size, 3), np.uint8)).shape
    cell_y, cell_x = 8 * height / small[0], 8 * width / small[1]  # the size of a cell in the original
    row, column = 2, 5
    left, right = round(column * cell_x), round((column + 1) * cell_x)
    above, below = round(row * cell_y), round((row + 1) * cell_y)
    photo = np.full((*size, 3), 128, np.uint8)
    photo[above:below, left:right] = cv2.resize(
        np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8), (right - left, below - above)
    )
    x, y, scale = encoder.extract(photo).need_local().positions[0]
    assert abs(x - (left + right - 1) / 2) <= 1
    assert abs(y - (above + below - 1) / 2) <= 1
    assert scale == 1


# ------------------------------------------------------------------------------------------- for who watches a search


def test_a_search_says_when_each_stage_ends(retriever: Retriever, photos: list[str]) -> None:
    retriever.add(photos)
    stages: list[str] = []
    assert retriever.search(photos[0], progress=stages.append) == retriever.search(photos[0])
    assert stages == ["decode", "extract", "encode", "search"]
    stages.clear()
    retriever.search(photos[0], rerank="spatial", progress=stages.append)
    assert stages == ["decode", "extract", "encode", "search", "rerank"]


def test_who_watches_a_search_can_end_it(retriever: Retriever, photos: list[str]) -> None:
    retriever.add(photos)

    def end(stage: str) -> None:
        assert stage == "decode"
        raise InterruptedError

    with pytest.raises(InterruptedError):
        retriever.search(photos[0], progress=end)
    assert retriever.search(photos[0])


def test_the_rerankers_are_those_that_engine_index_and_matcher_suffice_for(
    engine: Path, global_engine: Path, matcher: Path, photos: list[str], tmp_path: Path
) -> None:
    with Retriever(engine, tmp_path / "with", device="cpu") as retriever:
        alone = ["spatial", "similarity", "spatial+similarity", "ransac", "similarity+ransac"]
        assert retriever.rerankers() == alone
    with Retriever(engine, tmp_path / "with", device="cpu", matcher=matcher) as retriever:
        assert retriever.rerankers() == [
            "spatial",
            "similarity",
            "spatial+similarity",
            "ransac",
            "similarity+ransac",
            "lightglue",
        ]
    with Retriever(engine, tmp_path / "without", device="cpu", geometry=False) as retriever:
        assert retriever.rerankers() == ["similarity", "ransac", "similarity+ransac"]
        retriever.add(photos)
        assert retriever.rerankers() == ["similarity", "ransac", "similarity+ransac"]
    with Retriever(global_engine, tmp_path / "global", device="cpu") as retriever:
        assert retriever.rerankers() == ["similarity"]
