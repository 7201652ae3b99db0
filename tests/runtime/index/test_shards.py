"""Shards: which one an image belongs to, what the folder says of itself, and how answers are merged."""

from pathlib import Path

import pytest

from runtime import DamagedError, Hit, HowlError, IncompatibleError, Index, MissingError, Retriever, UsageError
from runtime.index.shards import FILE, Shards, merged, rank
from runtime.index.verification import verify


def test_an_id_belongs_to_the_same_shard_for_ever() -> None:
    shards = Shards(Path("x"), 7)
    assert [shards.of(id_) for id_ in ("a.jpg", "b/c.jpg", "Ä.png", "")] == [6, 3, 6, 0]


def test_ids_are_spread_evenly() -> None:
    counts = [len(own) for own in Shards(Path("x"), 8).divided(f"photos/{i}.jpg" for i in range(8000)).values()]
    assert len(counts) == 8
    assert min(counts) > 900
    assert max(counts) < 1100


def test_ids_are_divided_with_their_positions() -> None:
    shards, ids = Shards(Path("x"), 3), [f"{i}.jpg" for i in range(20)]
    divided = shards.divided(ids)
    assert sorted(position for own in divided.values() for position in own) == list(range(20))
    assert all(shards.of(ids[position]) == shard for shard, own in divided.items() for position in own)
    assert shards.grouped(ids) == {shard: [ids[position] for position in own] for shard, own in divided.items()}


def test_the_folder_says_how_many_there_are(tmp_path: Path) -> None:
    assert not Shards.exist(tmp_path)
    with pytest.raises(MissingError, match="no index with shards here; howl index"):
        Shards.at(tmp_path)
    Shards(tmp_path, 4).write()
    assert Shards.exist(tmp_path)
    assert Shards.at(tmp_path) == Shards(tmp_path, 4)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", DamagedError),
        ("[4]", DamagedError),
        ('{"format": 1}', DamagedError),
        ('{"format": 1, "shards": "many"}', DamagedError),
        ('{"format": 2, "shards": 4}', IncompatibleError),
        ('{"format": 1, "shards": 0}', UsageError),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, text: str, error: type[HowlError]) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(error):
        Shards.at(tmp_path)


@pytest.mark.parametrize("count", [0, -1, 1001])
def test_no_number_of_shards(count: int) -> None:
    with pytest.raises(UsageError, match="1 to 1000"):
        Shards(Path("x"), count)


def test_what_needs_an_ordinary_index_refuses_shards(tmp_path: Path, engine: Path) -> None:
    Shards(tmp_path, 2).write()
    for refused in (
        lambda: Index(tmp_path),
        lambda: Index.exists(tmp_path),
        lambda: verify(tmp_path),
        lambda: Retriever(engine, tmp_path, device="cpu"),
    ):
        with pytest.raises(UsageError, match=r"an index of 2 shards: with --ray, .*shard-0, is an index of its own"):
            refused()


def test_equal_scores_are_in_the_order_of_paths() -> None:
    ids = ["a/b.jpg", "a/c/d.jpg", "a-b/c.jpg", "b.jpg"]  # as Path sorts them, and not str
    assert sorted(reversed(ids), key=lambda id_: rank(Hit(id_, 1.0))) == ids
    assert [Path(id_) for id_ in ids] == sorted(map(Path, ids))


def test_answers_are_merged_by_score_and_then_by_id() -> None:
    answers = {0: [Hit("a", 3.0), Hit("c", 1.0)], 2: [Hit("z", 4.0), Hit("b", 1.0), Hit("d", 0.5)]}
    hits = merged(answers, 4, ["shard-1"])
    assert [hit.id for hit in hits] == ["z", "a", "b", "c"]
    assert hits.missing == ("shard-1",)
    assert hits.is_partial
    assert not merged({}, 4).is_partial
