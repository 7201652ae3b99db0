"""Global descriptors: inner products against NumPy's, and an index of vectors against all of them at once."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime import native
from runtime.errors import HowlError, IncompatibleError
from runtime.features import Features
from runtime.first_stage import Layout
from runtime.index import Hit, Index
from runtime.vectors import FILE, InnerProduct, VectorFile

G = 37  # not a multiple of the lanes
STAGE = InnerProduct(G)


def draw(seed: int) -> Features:
    """An L2-normalised descriptor."""
    vector = np.random.default_rng(seed).normal(size=G)
    return Features(global_descriptor=(vector / np.linalg.norm(vector)).astype(np.float32))


def encoded(*seeds: int) -> list[NDArray[np.float16]]:
    return [STAGE.encode_database(draw(seed)) for seed in seeds]


def names(*seeds: int) -> list[str]:
    return [f"image{seed}" for seed in seeds]


def expected(query: int, seeds: list[int], top: int) -> list[Hit]:
    """The best of these images, by NumPy's sums in another order."""
    scores = np.array(encoded(*seeds), np.float64) @ STAGE.encode_query(draw(query))
    return [Hit(f"image{seeds[i]}", scores[i]) for i in np.argsort(-scores, kind="stable")[:top]]


def assert_hits(index: Index, query: int, seeds: list[int], top: int = 100) -> None:
    found = index.search(STAGE.encode_query(draw(query)), top)
    wanted = expected(query, seeds, top)
    assert [hit.id for hit in found] == [hit.id for hit in wanted]
    np.testing.assert_allclose([hit.score for hit in found], [hit.score for hit in wanted], atol=1e-6)


@pytest.mark.parametrize("dimensions", [1, 8, 15, 16, 17, 40, 512])
def test_products_are_those_of_numpy(dimensions: int) -> None:
    random = np.random.default_rng(dimensions)
    vectors = random.normal(size=(5, dimensions)).astype(np.float16)
    vectors[0] *= np.float16(1e-7)  # subnormal halves
    query = random.normal(size=dimensions).astype(np.float32)
    wanted = vectors.astype(np.float64) @ query.astype(np.float64)
    np.testing.assert_allclose(native.products(vectors, query), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dimensions", [15, 40, 512])
def test_products_are_rounded_alike_by_every_processor(dimensions: int) -> None:
    """In the order that the C code states: 16 sums in float32, and then the sums of their halves."""
    random = np.random.default_rng(dimensions)
    vectors = random.normal(size=(50, dimensions)).astype(np.float16)
    query = random.normal(size=dimensions).astype(np.float32)
    products = np.zeros((50, -(-dimensions // 16) * 16), np.float32)
    products[:, :dimensions] = vectors.astype(np.float32) * query
    sums = np.zeros((50, 16), np.float32)
    for lanes in np.split(products, products.shape[1] // 16, axis=1):
        sums += lanes
    while sums.shape[1] > 1:
        sums = np.add(*np.split(sums, 2, axis=1))
    np.testing.assert_array_equal(native.products(vectors, query), sums[:, 0])


@pytest.mark.parametrize("top", [1, 7, 100, 499, 500, 1000])
@pytest.mark.parametrize("values", [3, 10_000], ids=["ties", "few ties"])
def test_the_best_are_those_of_sorting_all(values: int, top: int) -> None:
    random = np.random.default_rng(top)
    store = VectorFile(random.integers(-values, values, (500, 1)).astype(np.float16))
    live = random.random(500) < 0.9
    query = np.ones(1, np.float32)
    scores = np.where(live, store.scores(query), -np.inf)
    wanted = np.argsort(-scores, kind="stable")[: min(top, live.sum())]
    images, found = store.best(query, live, top)
    assert images.tolist() == wanted.tolist()
    assert found.tolist() == scores[wanted].tolist()


def test_a_score_does_not_depend_on_what_stands_around_its_vector() -> None:
    query = STAGE.encode_query(draw(0))
    whole = STAGE.build(encoded(*range(20))).scores(query)
    for seed in range(20):
        assert STAGE.build(encoded(seed)).scores(query).tolist() == [whole[seed]]


def test_equal_scores_come_in_the_order_of_addition_and_only_living_ones() -> None:
    store = STAGE.build(encoded(1, 0, 0, 2, 0))
    live = np.array([True, True, False, True, True])
    images, scores = store.best(STAGE.encode_query(draw(0)), live, 2)
    assert images.tolist() == [1, 4]
    assert scores[0] == scores[1] == pytest.approx(1, abs=1e-3)
    assert [len(part) for part in store.best(STAGE.encode_query(draw(0)), live, 0)] == [0, 0]


def test_an_index_of_vectors_adds_removes_compacts_and_reopens(tmp_path: Path) -> None:
    path = tmp_path / "vectors.index"
    with closing(Index.create(path, fingerprint="gem", layout=STAGE.layout)) as index:
        assert index.search(STAGE.encode_query(draw(0)), 5) == []
        for seed in range(20):  # small segments, which are merged on the way
            index.add(names(seed), encoded(seed))
        assert_hits(index, 3, list(range(20)))
        index.remove(names(3, 7))
        left = [seed for seed in range(20) if seed not in (3, 7)]
        assert_hits(index, 3, left)
        assert index.stats().removed == 2
        index.compact()
        assert index.stats().removed == 0
        assert index.verify() == []
    with closing(Index(path)) as opened:
        assert opened.layout == Layout("vectors", G)
        assert_hits(opened, 3, left, top=4)
        np.testing.assert_allclose(
            sorted(opened.scores(STAGE.encode_query(draw(3))), reverse=True),
            [hit.score for hit in expected(3, left, 100)],
            atol=1e-6,
        )


def test_damage_to_the_vectors_is_found(tmp_path: Path) -> None:
    path = tmp_path / "vectors.index"
    with closing(Index.create(path, fingerprint="gem", layout=STAGE.layout)) as index:
        index.add(names(1, 2), encoded(1, 2))
    (file,) = path.glob(f"*/{FILE}")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with closing(Index(path)) as index:
        (damage,) = index.verify()
    assert damage.startswith(f"{file}: damaged (its content changed)")
    file.write_bytes(content[:-2])
    with pytest.raises(HowlError, match=f"{FILE}: damaged"):
        Index(path)


def test_vectors_that_are_no_numbers_are_faults() -> None:
    store = VectorFile(np.array([[1, np.nan]], np.float16))
    assert list(store.content_faults(2)) == [(FILE, "a vector is not finite")]
    assert list(store.shape_faults(2)) == [(FILE, "float16 [1, 2] instead of float16 [2, 2]")]


def test_local_features_are_no_vector() -> None:
    with pytest.raises(IncompatibleError, match="this needs a global descriptor"):
        STAGE.encode_query(Features())


def test_an_unknown_method_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IncompatibleError, match="an index of telepathy, which this howl does not know"):
        Index.create(tmp_path / "index", fingerprint="x", layout=Layout("telepathy", 3))
