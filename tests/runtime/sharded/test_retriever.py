"""A retriever of shards answers like one of a single index of all photos: the same scores, to the bit, and order."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtime import (
    DuplicateIdError,
    Hit,
    IncompatibleError,
    MissingError,
    Retriever,
    ServiceError,
    StorageError,
    UnknownIdError,
    UsageError,
)
from runtime.index.shards import Shards
from runtime.io.finding import find_photos

from .conftest import COPIES, PHOTOS, Divide, refusal

Open = Callable[..., Retriever]


@pytest.fixture
def whole(any_engine: Path, many: Path, tmp_path: Path) -> Iterator[Retriever]:
    """One index of all photos, added in one go."""
    with Retriever(any_engine, tmp_path / "whole", root=many, device="cpu", threads=1) as retriever:
        retriever.add(find_photos([many]))
        yield retriever


@pytest.fixture(params=[1, 2, 4])
def sharded(
    request: pytest.FixtureRequest, whole: Retriever, divide: Divide, local: Open, tmp_path: Path
) -> Iterator[Retriever]:
    """The same photos in shards, which got them in another order."""
    path = divide(whole, tmp_path / "sharded", request.param)
    with local(whole.encoder.path, path, root=whole.root) as retriever:
        yield retriever


def down(retriever: Retriever, *shards: int) -> None:
    """Lets shards not answer any more."""
    retriever.index._cluster.down = set(shards)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "how",
    [
        {"top": 1},
        {"top": 5},
        {"top": 1000},
        {"min_score": 0.05},
        {"only": ["a/00.png", "b-x/01.png", "c/02.png"]},
        {"exclude": ["a/00.png", "not there"]},
    ],
    ids=str,
)
def test_answers_are_those_of_one_index(whole: Retriever, sharded: Retriever, many: Path, how: dict) -> None:
    for photo in find_photos([many])[::5]:
        hits = sharded.search(photo, **how)
        assert hits == whole.search(photo, **how)
        assert not hits.is_partial


@pytest.mark.parametrize("rerank", ["similarity", "spatial", "spatial+similarity"])
@pytest.mark.parametrize("candidates", [None, 7])
def test_reranked_answers_are_those_of_one_index(
    whole: Retriever, sharded: Retriever, many: Path, rerank: str, candidates: int | None
) -> None:
    assert sharded.rerankers() == whole.rerankers()
    if rerank not in whole.rerankers():
        assert type(refusal(lambda: sharded.search(find_photos([many])[0], rerank=rerank))) is IncompatibleError
        return
    photos = find_photos([many])[::7]
    how = {"top": 20, "rerank": rerank, "candidates": candidates}
    assert sharded.search_many(photos, **how) == whole.search_many(photos, **how)  # type: ignore[arg-type]
    assert sharded.search(photos[0], **how) == whole.search(photos[0], **how)  # type: ignore[arg-type]


def test_ties_at_the_last_place_go_to_the_first_path(whole: Retriever, sharded: Retriever, many: Path) -> None:
    photo = many / "a" / "00.png"  # which is there twice
    (first, second) = sharded.search(photo, top=2)
    assert first.score == second.score
    assert [first.id, second.id] == ["a/00.png", f"a/{PHOTOS:02}.png"]
    assert sharded.search(photo, top=1) == [first] == whole.search(photo, top=1)


def test_what_it_holds(whole: Retriever, sharded: Retriever, many: Path) -> None:
    assert len(sharded) == len(whole) == PHOTOS + COPIES
    assert sorted(sharded.ids()) == sorted(whole.ids())
    assert "a/00.png" in sharded
    assert str(many / "a" / "00.png") in sharded
    assert many / "a" / "99.png" not in sharded
    index = sharded.index
    assert index is not None
    assert [*index.page(0, 7), *index.page(7, 8), *index.page(8, 1000)] == sharded.ids()
    assert index.page(1000, 2000) == []
    assert set(index.selected(["a"])) == {id_ for id_ in whole.ids() if id_.startswith("a/")}
    assert sharded.aliases([many / "b-x" / "01.png"], ["another"]) == {"another": "b-x/01.png"}
    assert whole.index is not None
    assert index.origins(["a/00.png", "x"]) == whole.index.origins(["a/00.png", "x"])


def test_additions_and_removals_are_those_of_one_index(
    whole: Retriever, sharded: Retriever, make_photo: Callable, many: Path
) -> None:
    new = {f"z/{i}.png": make_photo(100 + i) for i in range(6)}
    for retriever in (whole, sharded):
        assert retriever.add(new.values(), new).added == list(new)
        assert retriever.add(new.values(), new, existing="skip").present == list(new)
        assert type(refusal(lambda r=retriever: r.add(new.values(), new))) is DuplicateIdError
        retriever.remove(["z/0.png", "a/00.png"])
        assert type(refusal(lambda r=retriever: r.remove(["z/1.png", many / "z" / "0.png"]))) is UnknownIdError
        retriever.add([make_photo(200)], ["z/1.png"], existing="replace")
        assert "z/1.png" in retriever
    for photo in (make_photo(101), make_photo(200), many / "a" / "00.png"):
        assert sharded.search(photo) == whole.search(photo)
    sharded.compact()
    assert sharded.search(make_photo(200)) == whole.search(make_photo(200))
    assert len(sharded) == len(whole)


def test_strangers_score_about_the_same(whole: Retriever, sharded: Retriever, make_photo: Callable) -> None:
    new = {f"z/{i}.png": make_photo(100 + i) for i in range(170)}
    for retriever in (whole, sharded):
        retriever.add(new.values(), new)
    assert whole.stranger_score is not None
    assert sharded.stranger_score == pytest.approx(whole.stranger_score, rel=0.25)


def test_unknown_only(sharded: Retriever, many: Path) -> None:
    assert type(refusal(lambda: sharded.search(many / "a" / "00.png", only=["nowhere"]))) is UnknownIdError
    assert sharded.search(many / "a" / "00.png", only=[]) == []


def test_a_shard_that_does_not_answer_is_named(whole: Retriever, sharded: Retriever, many: Path) -> None:
    photo, shards = many / "b-x" / "01.png", Shards.at(sharded.index_path)
    if shards.count == 1:
        pytest.skip("then none answers, which is an error")
    down(sharded, 0)
    hits = sharded.search(photo, top=1000)
    assert hits.missing == ("shard-0",)
    assert hits == [hit for hit in whole.search(photo, top=1000) if shards.of(hit.id) != 0]
    assert sharded.search_many([photo], top=3)[0].missing == ("shard-0",)
    assert len(sharded) == len(whole)
    sharded.refresh()  # what answers is taken up
    down(sharded)
    assert sharded.search(photo, top=1000) == whole.search(photo, top=1000)


def test_a_shard_that_does_not_answer_can_be_an_error(
    whole: Retriever, divide: Divide, local: Open, tmp_path: Path, many: Path
) -> None:
    path = divide(whole, tmp_path / "sharded", 3)
    with local(whole.encoder.path, path, root=many, on_missing="fail") as sharded:
        down(sharded, 1)
        error = refusal(lambda: sharded.search(many / "a" / "00.png"))
        assert type(error) is ServiceError
        assert "shard-1 of 3 shards" in str(error)
        assert type(refusal(sharded.refresh)) is ServiceError


def test_reranking_and_writing_need_all_shards_that_are_concerned(
    whole: Retriever, divide: Divide, local: Open, tmp_path: Path, many: Path, make_photo: Callable
) -> None:
    shards = Shards.at(divide(whole, tmp_path / "sharded", 2))
    with local(whole.encoder.path, shards.path, root=many) as sharded:
        ids = [f"z/{i}.png" for i in range(20)]
        own = {shard: next(id_ for id_ in ids if shards.of(id_) == shard) for shard in (0, 1)}
        hits = sharded.search(many / "a" / "00.png", top=1000)
        assert {shards.of(hit.id) for hit in hits} == {0, 1}
        index = sharded.index
        assert index is not None
        located = index.located([hit.id for hit in hits])
        down(sharded, 0)
        assert type(refusal(lambda: located[0][0].images_at(located[0][1]))) is ServiceError
        error = refusal(lambda: index.add([own[0]], [None], existing="skip"))
        assert type(error) is StorageError
        assert "shard-0 of 2 shards" in str(error)
        assert "add them again" in str(error)
        assert type(refusal(lambda: sharded.add([make_photo(1)], [own[0]], existing="skip"))) is ServiceError
        down(sharded)
        assert sharded.add([make_photo(1)], [own[0]], existing="skip").added == [own[0]]


def test_what_cannot_be_opened(whole: Retriever, divide: Divide, local: Open, tmp_path: Path, engine: Path) -> None:
    path = divide(whole, tmp_path / "sharded", 2)
    assert type(refusal(lambda: local(whole.encoder.path, tmp_path / "nothing"))) is MissingError
    assert type(refusal(lambda: local(whole.encoder.path, path, on_missing="perhaps"))) is UsageError
    assert type(refusal(lambda: local(whole.encoder.path, path, regions=2))) in (IncompatibleError, UsageError)
    Shards(path, 3).write()
    error = refusal(lambda: local(whole.encoder.path, path))
    assert type(error) is MissingError
    assert "shard-2" in str(error)
    if whole.encoder.path != engine:
        Shards(path, 2).write()
        assert type(refusal(lambda: local(engine, path))) is IncompatibleError


def test_hits_are_lists() -> None:
    from runtime import Hits

    hits = Hits([Hit("a", 2.0), Hit("b", 1.0)], ["shard-3"])
    assert hits == [Hit("a", 2.0), Hit("b", 1.0)]
    assert hits.above(1.5) == [Hit("a", 2.0)]
    assert hits.above(1.5).missing == hits.best(1).missing == ("shard-3",)


def test_where_no_shard_answers_there_is_no_answer(sharded: Retriever, many: Path) -> None:
    down(sharded, *range(len(list(sharded.index_path.glob("shard-*")))))
    for ask in (lambda: sharded.search(many / "a" / "00.png"), sharded.refresh):
        error = refusal(ask)
        assert isinstance(error, ServiceError)
        assert str(error).endswith("try again later")
