"""The index on disk: what is found, what stays, who may write, and what damage is found."""

import json
import os
import shutil
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import runtime.index
from runtime.asmk.codes import AsmkCodes, pack_signs
from runtime.asmk.inverted_file import InvertedFile
from runtime.errors import DamagedError, IncompatibleError
from runtime.first_stage import ASMK, Layout
from runtime.index import Hit, Index
from runtime.index.catalogue import Catalogue
from runtime.index.schema import LEAST_VERSION, VERSION
from runtime.index.segment import IMAGE_FILES, segment_files
from runtime.index.verification import CATALOGUE, verify

from .index_images import (
    IN_A_NEW_PROCESS,
    LAYOUT,
    WORDS,
    D,
    as_query,
    everything,
    folders,
    found,
    make_image,
    make_images,
    make_query,
    new_index,
    refusal,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "landmarks.index"


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of six images in two segments, for copying."""
    path = tmp_path_factory.mktemp("made") / "landmarks.index"
    index = Index.create(path, fingerprint="an engine", layout=LAYOUT)
    index.add(*make_images(0, 1, 2))
    index.add(*make_images(3, 4, 5))
    index.close()
    return path


@pytest.fixture
def index(made: Path, path: Path) -> Iterator[Index]:
    """An index of six images in two segments."""
    index = Index(shutil.copytree(made, path))
    yield index
    index.close()


# ------------------------------------------------------------------------------------------------ searching


def test_every_image_finds_itself_first_with_score_one(index: Index) -> None:
    for seed in range(6):
        best = index.search(make_query(seed), 3)[0]
        assert (best.id, best.score) == (f"image{seed}", pytest.approx(1))


@pytest.mark.parametrize("largest", [1, 2, 3, 7, 100])
def test_segments_change_nothing_in_the_answers(path: Path, monkeypatch: pytest.MonkeyPatch, largest: int) -> None:
    """More images than a segment holds are split; the scores are those of one inverted file over all."""
    monkeypatch.setattr(runtime.index.directory, "MAX_IMAGES", largest)
    ids, images = make_images(*range(7))
    index = Index.create(path, fingerprint="an engine", layout=LAYOUT)
    index.add(ids, images)
    assert index.stats().segments == len(folders(path)) == -(-7 // largest)
    assert index.ids() == ids

    one_file = InvertedFile.build(images, Layout(ASMK, D))
    for seed in range(9):
        scores = one_file.scores(make_query(seed))
        order = [i for i in np.argsort(-scores, kind="stable") if scores[i] > 0]
        assert index.search(make_query(seed), 100) == [Hit(ids[i], scores[i]) for i in order]


@pytest.mark.parametrize("top", [1, 2, 3, 5, 6, 7, 1000])
def test_top_cuts_the_ranking_and_may_exceed_the_index(index: Index, top: int) -> None:
    whole = index.search(make_query(0), 6)
    assert len(whole) > 3
    assert index.search(make_query(0), top) == whole[:top]


def test_ties_come_in_the_order_of_addition(path: Path) -> None:
    index = Index.create(path, fingerprint="an engine", layout=LAYOUT)
    for ids in (["z", "b"], ["a"], ["y", "c"]):
        index.add(ids, [make_image(7)] * len(ids))
    order = ["z", "b", "a", "y", "c"]
    for top in range(1, 7):
        assert found(index, 7, top) == order[:top]
    index.remove(["b"])
    index.add(["b"], [make_image(7)])
    assert found(index, 7) == ["z", "a", "y", "c", "b"]


def test_images_that_share_nothing_are_no_hits(index: Index) -> None:
    none, one = np.empty(0, np.uint32), np.zeros(1, np.uint32)
    stranger = AsmkCodes(np.array([WORDS + 1], np.uint32), pack_signs(np.ones((1, D), np.float32)), one)
    nothing = AsmkCodes(none, np.empty((0, 1), np.uint64), none)
    assert index.search(as_query(stranger), 10) == index.search(as_query(nothing), 10) == []
    index.add(["stranger", "nothing"], [stranger, nothing])
    assert index.search(as_query(stranger), 10) == [Hit("stranger", 1.0)]
    assert "nothing" not in found(index, 0)
    assert len(index) == 8


def test_an_empty_index_finds_nothing(path: Path) -> None:
    index = Index.create(path, fingerprint="an engine", layout=LAYOUT)
    index.add([], [])
    assert (len(index), index.ids(), found(index, 0), folders(path)) == (0, [], [], set())
    assert len(Index(path)) == 0


UNUSUAL = [
    "",
    " ",
    "a photo.jpg",
    "Köln/Dom \N{SNOWMAN}.jpg",
    "写真/駅.png",
    "😀",
    "two\nlines",
    "'; DROP TABLE images; --",
]


@pytest.mark.parametrize("ids", [UNUSUAL, [""]], ids=["all", "only the empty"])
def test_any_text_can_be_an_id(path: Path, ids: list[str]) -> None:
    with_index = Index.create(path, fingerprint="an engine", layout=LAYOUT)
    with_index.add(ids, [make_image(seed) for seed in range(len(ids))])
    for index in (with_index, Index(path)):
        assert index.ids() == index.existing(ids) == ids
        for seed, id_ in enumerate(ids):
            assert found(index, seed, top=1) == [id_]
    with_index.remove(ids[:1])
    assert Index(path).ids() == ids[1:]


def test_a_page_is_a_slice_of_the_ids(path: Path) -> None:
    """Through several segments, some images of which were removed."""
    index = Index.create(path, fingerprint="an engine", layout=LAYOUT)
    assert index.page(0, 5) == []
    for first in (0, 40, 44):
        seeds = range(first, first + (40 if first == 0 else 4))
        index.add([f"image{seed}" for seed in seeds], [make_image(seed) for seed in seeds])
    index.remove(["image1", "image39", "image45"])
    ids = index.ids()
    assert len(index.parts()) > 1
    for start in range(0, 50, 3):
        for stop in (start, start + 1, start + 7, 100):
            assert index.page(start, stop) == ids[start:stop]


def test_an_id_that_is_no_unicode_text_is_refused(index: Index) -> None:
    """As the name of a file with bytes that are not UTF-8 comes from the operating system."""
    name = os.fsdecode(b"caf\xe9.jpg")
    for action in (
        lambda: index.add([name], [make_image(9)]),
        lambda: index.existing([name]),
        lambda: index.remove([name]),
    ):
        line = refusal(action)
        assert "caf\\udce9.jpg" in line
        line.encode()  # can be printed
    assert len(index) == 6


def test_stats_count_what_is_there(index: Index, path: Path) -> None:
    index.remove(["image1"])
    stats = index.stats()
    assert (stats.images, stats.removed, stats.entries, stats.segments) == (5, 1, 60, 2)
    assert stats.bytes == sum(len(file.read_bytes()) for file in path.rglob("*.*") if file.is_file())


# ------------------------------------------------------------------------------------- adding and removing


def test_removed_images_never_come_back(index: Index, path: Path) -> None:
    index.remove(["image1", "image4"])
    left = ["image0", "image2", "image3", "image5"]

    def assert_gone(index: Index) -> None:
        assert index.existing(["image1", "image4", "image0"]) == ["image0"]
        assert not {"image1", "image4"} & set(index.ids())
        for seed in range(8):
            assert not {"image1", "image4"} & set(found(index, seed))

    assert index.ids() == left
    assert_gone(index)
    assert_gone(Index(path))
    index.add(*make_images(6, 7))
    assert index.ids() == [*left, "image6", "image7"]
    assert_gone(index)
    assert_gone(Index(path))


def test_a_removed_id_can_be_added_and_removed_again(index: Index, path: Path) -> None:
    index.remove(["image1"])
    index.add(["image1"], [make_image(100)])
    for opened in (index, Index(path)):
        assert found(opened, 100, top=1) == ["image1"]
        assert "image1" not in [hit.id for hit in opened.search(make_query(1), 100) if hit.score > 0.99]
        assert len(opened) == 6
    index.remove(["image1"])
    for opened in (index, Index(path)):
        assert "image1" not in opened.ids()
        assert "image1" not in found(opened, 100)


def test_all_can_be_removed_and_the_index_goes_on(index: Index, path: Path) -> None:
    index.remove(index.ids())
    assert len(index) == 0
    assert everything(index) == [[]] * 8
    index.add(*make_images(8))
    assert Index(path).ids() == ["image8"]


def test_removing_a_missing_id_removes_nothing(index: Index, path: Path) -> None:
    assert "nowhere is not in the index; nothing was removed" in refusal(lambda: index.remove(["image0", "nowhere"]))
    assert len(index) == len(Index(path)) == 6
    index.remove(["image0", "image0"])  # named twice is removed once
    assert len(index) == 5
    assert "image0 is not in the index" in refusal(lambda: index.remove(["image0"]))


@pytest.mark.parametrize(
    ("ids", "words"),
    [(["new", "image4"], "image4 is in the index already"), (["new", "other", "new"], "new is named twice")],
)
def test_duplicates_are_refused_and_nothing_is_added(index: Index, path: Path, ids: list[str], words: str) -> None:
    before = everything(index), folders(path)
    assert words in refusal(lambda: index.add(ids, [make_image(9)] * len(ids)))
    assert (everything(index), folders(path)) == before
    assert (everything(Index(path)), Index(path).existing(["new"])) == (before[0], [])


def test_as_many_ids_as_images_are_needed(index: Index) -> None:
    with pytest.raises(ValueError, match="2 ids for 1 images"):
        index.add(["a", "b"], [make_image(9)])


# ----------------------------------------------------------------------------------------- several processes


@pytest.mark.slow
def test_a_new_process_gives_identical_answers(index: Index, path: Path, run_python: Callable) -> None:
    index.remove(["image2"])
    done = run_python(
        IN_A_NEW_PROCESS
        + """
index = Index(path)
answers = [[[hit.id, hit.score] for hit in index.search(make_query(seed), 100)] for seed in range(8)]
print(json.dumps([index.fingerprint, index.layout.dimensions, index.ids(), answers]))
""",
        path,
    )
    assert done.returncode == 0, done.stderr
    answers = [[[hit.id, hit.score] for hit in hits] for hits in everything(index)]
    assert json.loads(done.stdout) == ["an engine", D, index.ids(), answers]


def test_a_second_writer_is_refused_and_readers_see_the_last_commit(
    index: Index, path: Path, run_python: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = Index(path)
    before = everything(reader)
    write_segment = runtime.index.directory.write_segment
    attempts = []

    def attempt_meanwhile(*arguments: object) -> dict:
        attempts.append(
            run_python(
                IN_A_NEW_PROCESS
                + """
index = Index(path, wait=0.2)
begin = time.monotonic()
for action in (lambda: index.add(["second"], [make_image(50)]), lambda: index.remove(["image0"])):
    try:
        action()
    except HowlError as error:
        print(error)
print(0.4 <= time.monotonic() - begin < 5, len(index), len(Index(path)))
""",
                path,
            )
        )
        reader.refresh()
        assert everything(reader) == before
        return write_segment(*arguments)

    monkeypatch.setattr(runtime.index.directory, "write_segment", attempt_meanwhile)
    index.add(*make_images(6))

    (attempt,) = attempts
    assert attempt.returncode == 0, attempt.stderr
    line = f"{path}: another process is writing to it; try again later, or wait longer"
    assert attempt.stdout.splitlines() == [line, line, "True 6 6"]  # after it has waited, and the readers see six
    assert everything(reader) == before  # until it asks
    reader.refresh()
    assert everything(reader) == everything(index) != before
    assert reader.ids()[-1] == "image6"


def test_writers_take_turns_and_readers_follow(index: Index, path: Path) -> None:
    other = Index(path)
    other.add(*make_images(6))
    assert "image6 is in the index already" in refusal(lambda: index.add(*make_images(6)))
    other.remove(["image0"])
    index.add(*make_images(7))
    other.refresh()
    assert index.ids() == other.ids() == [f"image{seed}" for seed in range(1, 8)]


# ------------------------------------------------------------------------------------- interrupts


def test_an_interrupt_right_after_the_commit_deletes_no_live_segment(
    index: Index, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing = Catalogue.writing

    @contextmanager
    def interrupted(catalogue: Catalogue, wait: float) -> Iterator[None]:
        with writing(catalogue, wait):
            yield
        raise KeyboardInterrupt

    with monkeypatch.context() as interrupting:
        interrupting.setattr(Catalogue, "writing", interrupted)
        with pytest.raises(KeyboardInterrupt):
            index.add(*make_images(6))
    reopened = Index(path)
    assert reopened.ids()[-1] == "image6"
    assert found(reopened, 6, top=1) == ["image6"]
    index.refresh()
    assert everything(index) == everything(reopened)


# ---------------------------------------------------------------------------------------------------- damage


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def flip_last_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("name", segment_files(LAYOUT))
@pytest.mark.parametrize(
    ("damage", "words"),
    [(truncate, "bytes instead of"), (flip_last_bit, "its content changed"), (Path.unlink, "missing")],
    ids=["truncated", "bit flipped", "missing"],
)
def test_damage_to_a_segment_is_found_and_its_file_named(
    index: Index, path: Path, name: str, damage: Callable[[Path], None], words: str
) -> None:
    """By opening, but for bits of the entries, which opening leaves unread: those `verify` finds."""
    index.close()
    file = path / sorted(folders(path))[0] / name
    assert {entry.name for entry in file.parent.iterdir()} == set(segment_files(LAYOUT))
    damage(file)
    if name in InvertedFile.LARGE_FILES and damage is flip_last_bit:
        (line,) = Index(path).verify()
    else:
        line = refusal(lambda: Index(path))
        assert [line] == verify(path).damages
    assert line.startswith(f"{file}: ")
    assert words in line.removeprefix(f"{file}: ")


@pytest.mark.parametrize("name", [*InvertedFile.SMALL_FILES, *IMAGE_FILES])
def test_any_flipped_bit_of_a_small_file_is_found(index: Index, path: Path, name: str) -> None:
    index.close()
    file = path / sorted(folders(path))[0] / name
    content = file.read_bytes()
    for place in range(0, len(content), 37):
        file.write_bytes(content[:place] + bytes([content[place] ^ (1 << place % 8)]) + content[place + 1 :])
        assert refusal(lambda: Index(path)).startswith(f"{file}: damaged (its content changed)")
    file.write_bytes(content)
    assert len(Index(path)) == 6


@pytest.mark.parametrize("name", InvertedFile.LARGE_FILES)
def test_any_flipped_bit_of_an_entry_leaves_searches_sound(index: Index, path: Path, name: str) -> None:
    """Headers included: scores may change, but a search ends, and names images that are there."""
    index.close()
    file = path / sorted(folders(path))[0] / name
    content = file.read_bytes()
    for place in range(0, len(content), 5):
        file.write_bytes(content[:place] + bytes([content[place] ^ (1 << place % 8)]) + content[place + 1 :])
        with_damage = Index(path)
        for hits in everything(with_damage):
            assert {hit.id for hit in hits} <= set(with_damage.ids())
        (line,) = with_damage.verify()
        assert line.startswith(f"{file}: damaged (its content changed)")
        with_damage.close()


def test_a_missing_segment_is_named(index: Index, path: Path) -> None:
    folder = path / sorted(folders(path))[0]
    shutil.rmtree(folder)
    assert refusal(lambda: Index(path)).startswith(f"{folder}{os.sep}")


def tell(catalogue: Path, sql: str) -> None:
    connection = sqlite3.connect(catalogue)
    connection.execute(sql)
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(b"this is no database at all\n" * 200),
        lambda file: file.write_bytes(np.random.default_rng(0).bytes(20_000)),
        lambda file: file.write_bytes(bytes(20_000)),
        lambda file: file.write_bytes(file.read_bytes()[:1000]),
        lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
        lambda file: file.write_bytes(file.read_bytes().replace(b"CREATE TABLE", b"CREATE\nTEBLA")),
        lambda file: tell(file, "DROP TABLE removed"),
        lambda file: tell(file, "DELETE FROM metadata WHERE key = 'version'"),
        lambda file: tell(file, "DELETE FROM metadata WHERE key = 'fingerprint'"),
        lambda file: tell(file, "UPDATE metadata SET value = 'one' WHERE key = 'version'"),
        lambda file: tell(file, "UPDATE metadata SET value = 'x' WHERE key = 'dimensions'"),
        lambda file: tell(file, "UPDATE segments SET checksums = '{\"words.npy\": '"),
        lambda file: tell(file, "UPDATE segments SET checksums = '{\"words.npy\": [1]}'"),
        lambda file: file.write_bytes(file.read_bytes()[:-1]),
        lambda file: file.write_bytes(file.read_bytes()[:-3000]),
        lambda file: tell(file, "UPDATE segments SET name = '../victim' WHERE start = 0"),
        lambda file: tell(file, "UPDATE segments SET name = x'00ff' WHERE start = 0"),
        lambda file: tell(file, "UPDATE segments SET images = 9e999"),
        lambda file: tell(file, "UPDATE segments SET entries = 'some'"),
        lambda file: tell(file, "UPDATE segments SET start = 'first'"),
        lambda file: tell(file, "UPDATE metadata SET value = '1e400' WHERE key = 'dimensions'"),
        lambda file: tell(file, "UPDATE metadata SET value = '-1' WHERE key = 'dimensions'"),
        lambda file: tell(file, f"UPDATE metadata SET value = '{2**62}' WHERE key = 'dimensions'"),
        lambda file: tell(file, "UPDATE segments SET stop = start"),
        lambda file: tell(file, "UPDATE segments SET start = -5 WHERE start = 0"),
        lambda file: tell(file, "UPDATE segments SET stop = stop + 1 WHERE start = 0"),
    ],
    ids=["empty", "text", "noise", "zeros", "first kB", "first half", "schema", "no table", "no version",
         "no fingerprint", "version no number", "dimensions no number", "checksums cut", "checksums short",
         "a byte short", "a page short", "a folder elsewhere", "a name of bytes", "infinite", "text for a number",
         "text for an ordinal", "huge", "no dimensions", "too many dimensions", "an empty range", "a range below 0",
         "overlapping ranges"],
)  # fmt: skip
def test_a_damaged_catalogue_is_named_in_one_line(index: Index, path: Path, damage: Callable[[Path], None]) -> None:
    index.close()
    damage(path / CATALOGUE)
    assert refusal(lambda: Index(path)).startswith(f"{path / CATALOGUE}: ")


@pytest.mark.parametrize("value", ["'[]'", "x'00ff'", "1e300"])
def test_an_image_without_a_number_is_named_by_verify(index: Index, path: Path, value: str) -> None:
    index.close()
    tell(path / CATALOGUE, f"UPDATE images SET number = {value} WHERE id = 'image1'")
    assert refusal(Index(path).verify).startswith(f"{path / CATALOGUE}: ")


@pytest.mark.parametrize("text", [b"image0\xff", "imag€0".encode()])
def test_ids_that_are_no_unicode_are_refused(index: Index, path: Path, text: bytes) -> None:
    """Whole, or where they are cut apart: the euro sign has three bytes."""
    index.close()
    folder = path / sorted(folders(path))[0]
    with Path(folder / "id_ends.npy").open("rb") as file:
        ends = np.load(file)
    size = int(ends[-1])
    forge(path, "id_bytes.npy", np.frombuffer(text.ljust(size, b"x")[:size], np.uint8))
    forge(path, "id_ends.npy", np.array([5, *ends[1:]]))
    assert "id_bytes.npy: an id is not valid Unicode" in refusal(lambda: Index(path))


def forge(index: Path, name: str, array: NDArray) -> Path:
    """Puts an array into the first segment, with the checksum that the catalogue then needs."""
    file = index / sorted(folders(index))[0] / name
    np.save(file, array, allow_pickle=True)
    connection = sqlite3.connect(index / CATALOGUE)
    select = "SELECT checksums FROM segments WHERE name = ?"
    checksums = json.loads(connection.execute(select, (file.parent.name,)).fetchone()[0])
    checksums[name] = [file.stat().st_size, zlib.crc32(file.read_bytes())]
    connection.execute("UPDATE segments SET checksums = ? WHERE name = ?", (json.dumps(checksums), file.parent.name))
    connection.commit()
    connection.close()
    return file


@pytest.mark.parametrize("name", [*InvertedFile.SMALL_FILES, *IMAGE_FILES])
@pytest.mark.parametrize(
    "change",
    [
        lambda array: array.astype(object),
        lambda array: array.astype(np.float64),
        lambda array: array.astype(array.dtype.newbyteorder()),
        lambda array: array[:, None],
        lambda array: array[:-1],
        lambda array: np.append(array, array[-1:]),
        lambda array: array[:0],
        lambda array: array[::-1].copy() if array.dtype != np.uint8 else array[:-2],
    ],
    ids=["objects", "floats", "byte order", "two axes", "one less", "one more", "empty", "reversed"],
)
def test_a_forged_segment_with_right_checksums_is_refused(
    index: Index, path: Path, name: str, change: Callable[[NDArray], NDArray]
) -> None:
    """Whatever opens is sound: searching, merging and verifying never read or write outside the arrays."""
    index.close()
    file = path / sorted(folders(path))[0] / name
    array = np.load(file)
    forged = change(array)
    if forged.dtype == array.dtype and np.array_equal(forged, array):
        pytest.skip("the same array")
    forge(path, name, forged)
    assert "damaged" in refusal(lambda: Index(path))
    assert verify(path).damages != []


def test_an_index_of_the_first_format_is_refused_by_its_number(index: Index, path: Path) -> None:
    index.close()
    tell(path / CATALOGUE, "ALTER TABLE metadata RENAME TO about")
    line = refusal(lambda: Index(path))
    assert line == (
        f"{path / CATALOGUE}: index format 1 of an earlier howl, this one reads {LEAST_VERSION} to {VERSION}; "
        "index the photos again"
    )


def test_an_index_of_the_format_before_opens_searches_and_grows(path: Path) -> None:
    """It knew no geometry and no regions, and keeps none."""
    ids, images = make_images(0, 1, 2)
    with closing(Index.create(path, fingerprint="an engine", layout=replace(LAYOUT, geometry=False))) as index:
        index.add(ids, images)
        expected = everything(index)
    tell(path / CATALOGUE, f"UPDATE metadata SET value = '{LEAST_VERSION}' WHERE key = 'version'")
    tell(path / CATALOGUE, "DELETE FROM metadata WHERE key IN ('geometry', 'regions')")
    with closing(Index.of_engine(path, Path("engine.onnx"), "an engine", LAYOUT)) as index:
        assert not index.layout.geometry
        assert not index.layout.regions
        assert everything(index) == expected
        index.add(*make_images(3))
        index.remove([ids[0]])
        index.compact()
        assert verify(path).damages == []
        assert len(index) == 3
    assert not list(path.rglob("geometry.npy"))


def test_geometry_of_another_form_is_not_read(index: Index, path: Path) -> None:
    """Its numbers would mean other places."""
    index.close()
    tell(path / CATALOGUE, "UPDATE metadata SET value = 'yes' WHERE key = 'geometry'")
    line = refusal(lambda: Index(path))
    assert "keeps where features lie in a form that this version of howl does not read (yes)" in line
    assert line.endswith("make an index of the photos anew")


@pytest.mark.parametrize("levels", ["99", "-1", "three"])
def test_regions_that_no_index_has_are_damage(index: Index, path: Path, levels: str) -> None:
    index.close()
    tell(path / CATALOGUE, f"UPDATE metadata SET value = '{levels}' WHERE key = 'regions'")
    with pytest.raises(DamagedError, match=f"{path / CATALOGUE}: "):
        Index(path)


def test_a_stale_reader_finds_where_another_has_moved_an_image(index: Index, path: Path) -> None:
    ids, images = make_images(60, 61)
    index.add(ids, images)
    with closing(Index(path)) as writer:
        assert {id_ for segment, rows, _ in index.located(ids) for id_ in np.array(segment.ids)[rows]} == set(ids)
        writer.remove([ids[0]])
        writer.add([ids[0]], [images[1]])
    found = index.located(ids)
    assert sorted(place for _, _, places in found for place in places.tolist()) == [0, 1]


def test_an_image_without_geometry_is_refused_where_it_is_kept(index: Index) -> None:
    (id_,), (image,) = make_images(77)
    with pytest.raises(IncompatibleError, match="does not say where its features lie"):
        index.add([id_], [image._replace(geometry=None)])
    assert index.existing([id_]) == []


def test_a_newer_format_is_refused(index: Index, path: Path) -> None:
    index.close()
    tell(path / CATALOGUE, f"UPDATE metadata SET value = '{VERSION + 1}' WHERE key = 'version'")
    line = refusal(lambda: Index(path))
    assert line.startswith(f"{path / CATALOGUE}: index format {VERSION + 1} is newer")
    assert line.endswith("update howl")


def test_where_there_is_no_index_it_says_so(path: Path) -> None:
    assert not Index.exists(path)
    assert refusal(lambda: Index(path)).startswith(f"{path}: no index here")
    assert not path.exists()


@pytest.mark.parametrize("kind", ["folder with a file", "file"])
def test_no_index_is_made_among_or_over_other_files(path: Path, kind: str) -> None:
    file = path
    if kind != "file":
        path.mkdir()
        file = path / "holiday.jpg"
    file.write_bytes(b"a photo")
    assert refusal(lambda: Index.create(path, fingerprint="an engine", layout=LAYOUT)).startswith(f"{path}: ")
    assert file.read_bytes() == b"a photo"


def test_an_index_is_not_made_over_another(index: Index, path: Path) -> None:
    before = everything(index)
    assert "not empty" in refusal(lambda: Index.create(path, fingerprint="another engine", layout=LAYOUT))
    assert everything(Index(path)) == before


def codes_of(images: Sequence[AsmkCodes]) -> NDArray[np.uint64]:
    return np.concatenate([image.codes for image in images])


def test_the_arrays_are_memory_maps_of_the_files(index: Index) -> None:
    inverted_file = Index(index.path).parts()[0].segment.store
    assert not inverted_file.codes.flags.writeable
    assert not inverted_file.codes.flags.owndata
    _, images = make_images(0, 1, 2)
    assert sorted(inverted_file.codes.ravel().tolist()) == sorted(codes_of(images).ravel().tolist())


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts the files of /proc")
def test_an_open_index_keeps_as_many_files_open_however_many_segments_it_has(tmp_path: Path) -> None:
    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    kept = []
    for segments in (1, 7):
        made = new_index(tmp_path / str(segments))
        for seed in range(segments):
            made.add(*make_images(seed))
        made.close()
        before = open_files()
        index = Index(tmp_path / str(segments))
        assert index.stats().segments == segments
        kept.append(open_files() - before)
        index.close()
    assert max(kept) <= 2


def test_a_search_goes_on_in_arrays_whose_index_is_closed_and_gone(index: Index, path: Path) -> None:
    before, parts = everything(index), index.parts()
    index.close()
    shutil.rmtree(path)
    assert everything(index) == before
    del index
    assert [len(list(part.segment.ids)) for part in parts] == [3, 3]
