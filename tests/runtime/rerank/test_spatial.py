"""Spatial verification: against a slow plain reference, and on photos whose views are known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime import IncompatibleError, Retriever, UsageError, native
from runtime.asmk.codes import AsmkCodes, AsmkQuery, pack_signs
from runtime.asmk.geometry import pack_geometry, unpack_geometry
from runtime.asmk.inverted_file import InvertedFile
from runtime.asmk.kernel import AsmkParameters, selectivity
from runtime.first_stage import ASMK, Layout
from runtime.index import Index
from runtime.rerank import Located, Spatial
from runtime.rerank.spatial import Verified

D = 64
TABLE = selectivity(D, AsmkParameters())
LAYOUT = Layout(ASMK, D, geometry=True)
WORDS = 400
EXACT = replace(Spatial(), refinements=0)


def make_image(random: np.random.Generator, positions: NDArray[np.floating], words: NDArray[np.integer]) -> AsmkCodes:
    """An image with features at these positions [n, 3], in the order of their words; codes of a word are alike."""
    order = np.argsort(words)
    centres = np.random.default_rng(0).normal(size=(WORDS, D))[words[order]]
    codes = pack_signs(centres + 0.5 * random.normal(size=centres.shape))
    return AsmkCodes(words[order].astype(np.uint32), codes, pack_geometry(positions[order].astype(np.float32)))


def draw_positions(random: np.random.Generator, n: int) -> NDArray[np.float64]:
    scales = random.choice([1, 0.707, 0.5, 0.353], n)
    return np.stack([random.uniform(0, 700, n), random.uniform(0, 500, n), scales], axis=1)


def seen(positions: NDArray[np.float64], matrix: NDArray[np.float64], zoom: float) -> NDArray[np.float64]:
    """The same features from another viewpoint: x' = matrix · (x, y, 1), everything ``zoom`` times as large."""
    xy = positions[:, :2] @ matrix[:, :2].T + matrix[:, 2]
    return np.concatenate([xy, positions[:, 2:] / zoom], axis=1)


def a_pair(seed: int, matrix: NDArray[np.float64], zoom: float, same: int, others: int) -> tuple[AsmkCodes, AsmkCodes]:
    """A query and an image that share ``same`` features by a map, and ``others`` that lie anywhere in each."""
    random = np.random.default_rng(seed)
    words = random.permutation(WORDS)[: same + others]
    here = draw_positions(random, same + others)
    there = np.concatenate([seen(here[:same], matrix, zoom), draw_positions(random, others)])
    return make_image(random, here, words), make_image(random, there, words)


def as_query(image: AsmkCodes) -> AsmkQuery:
    return AsmkQuery(*image, TABLE)


def verify(spatial: Spatial, query: AsmkCodes, *images: AsmkCodes) -> Verified:
    file = InvertedFile.build(images, LAYOUT)
    numbers = np.arange(len(images))
    return spatial.verify(as_query(query), [Located(file, numbers, numbers)], len(images))


def plain(spatial: Spatial, query: AsmkCodes, image: AsmkCodes) -> tuple[float, int]:
    """The weight and the number of inliers of the best hypothesis, before any refinement, pair by pair."""
    shared = [
        (i, int(np.flatnonzero(image.words == word)[0])) for i, word in enumerate(query.words) if word in image.words
    ]
    assert query.geometry is not None
    assert image.geometry is not None
    here, there = unpack_geometry(query.geometry).astype(float), unpack_geometry(image.geometry).astype(float)
    distances = [int(np.bitwise_count(query.codes[i] ^ image.codes[j]).sum()) for i, j in shared]
    pairs = [(i, j, TABLE[d]) for (i, j), d in zip(shared, distances, strict=True) if TABLE[d] > 0]
    zooms = {(i, j): np.log2(here[i, 2] / there[j, 2]) for i, j, _ in pairs}
    best = (0.0, 0)
    for i, j, _ in sorted(pairs, key=lambda pair: -pair[2])[: spatial.hypotheses]:
        zoom = zooms[i, j]
        if abs(zoom) > spatial.most_zoom:
            continue
        shift = there[j, :2] - 2**zoom * here[i, :2]
        votes: dict[int, float] = {}  # the heaviest of every query descriptor
        for k, m, weight in pairs:
            error = np.linalg.norm(2**zoom * here[k, :2] + shift - there[m, :2])
            if error <= spatial.tolerance / there[m, 2] and abs(zooms[k, m] - zoom) <= spatial.octaves:
                source = int(query.geometry[k])
                votes[source] = max(votes.get(source, 0), weight)
        best = max(best, (sum(votes.values()), len(votes)))
    return best


@pytest.mark.parametrize("seed", range(8))
def test_the_best_hypothesis_is_that_of_the_plain_reference(seed: int) -> None:
    """Zooms are whole steps of the packed scales, so that both have the same numbers; several words a descriptor."""
    random = np.random.default_rng(seed)
    zoom = [1.0, 0.5, 2.0, 1.0][seed % 4]
    matrix = np.array([[zoom, 0, 30], [0, zoom, -20]])
    query, image = a_pair(seed, matrix, zoom, same=20, others=150)
    assert query.geometry is not None
    doubled = query.geometry.copy()
    doubled[random.integers(len(doubled), size=60)] = doubled[0]
    query = query._replace(geometry=doubled)
    found = verify(EXACT, query, image)
    weight, inliers = plain(EXACT, query, image)
    assert found.weights[0] == pytest.approx(weight, rel=1e-9)
    assert found.inliers[0] == inliers
    assert found.counts[0] == len(found.correspondences[0])
    assert found.marks[0].sum() == inliers
    assert found.weights[0] == pytest.approx((found.correspondences["weight"][0] * found.marks[0]).sum() * native.UNIT)


@pytest.mark.parametrize(
    ("matrix", "zoom"),
    [
        (np.array([[1, 0, 40], [0, 1, -25.0]]), 1.0),
        (np.array([[2, 0, -100], [0, 2, 30.0]]), 2.0),
        (np.array([[0.5, 0, 100], [0, 0.5, 60.0]]), 0.5),
        (np.array([[1.1, 0.08, 10], [-0.06, 0.95, 20.0]]), 1.0),
        (np.array([[0.8, -0.1, 60], [0.1, 0.9, 0.0]]), 0.85),
    ],
    ids=["shift", "nearer", "further", "stretched and sheared", "a little turned"],
)
def test_the_map_of_a_known_view_is_found_among_twice_as_many_others(matrix: NDArray[np.float64], zoom: float) -> None:
    query, image = a_pair(1, matrix, zoom, same=80, others=160)
    found = verify(Spatial(), query, image)
    assert found.inliers[0] >= 70
    assert found.inliers[0] <= 110, "some of the others agree by chance"
    corners = np.array([[0, 0, 1], [700, 0, 1], [0, 500, 1], [700, 500, 1]])
    error = np.linalg.norm(corners @ found.maps[0].T - corners @ matrix.T, axis=1)
    assert error.max() < 25


def test_refining_finds_more_than_the_best_hypothesis() -> None:
    matrix = np.array([[1.15, 0.2, 0], [-0.2, 0.9, 40.0]])
    query, image = a_pair(2, matrix, 1.0, same=100, others=100)
    assert verify(Spatial(), query, image).weights[0] > 1.2 * verify(EXACT, query, image).weights[0]


def test_images_of_other_places_have_few_inliers() -> None:
    random = np.random.default_rng(3)
    query, same = a_pair(3, np.array([[1, 0, 40], [0, 1, -25.0]]), 1.0, same=80, others=100)
    words = query.words.astype(np.int64)
    strangers = [make_image(random, draw_positions(random, len(words)), words) for _ in range(20)]
    found = verify(Spatial(), query, same, *strangers)
    assert found.inliers[0] > 2 * found.inliers[1:].max()
    assert found.weights[0] > 2 * found.weights[1:].max()
    assert (found.counts > 100).all()


def test_a_descriptor_of_the_query_counts_once() -> None:
    query, image = a_pair(4, np.eye(2, 3), 1.0, same=30, others=0)
    assert query.geometry is not None
    one = query._replace(geometry=np.full_like(query.geometry, query.geometry[0]))
    piled = image._replace(geometry=one.geometry)
    found = verify(EXACT, one, piled)
    assert (found.inliers[0], found.counts[0]) == (1, 30)
    assert found.weights[0] == pytest.approx(found.correspondences["weight"].max() * native.UNIT)


def test_images_are_verified_alike_whatever_stands_around_them_and_wherever_they_lie(tmp_path: Path) -> None:
    """Alone, in one file, in any order, or in segments of an index some of whose images were removed."""
    pairs = [a_pair(5, np.array([[1, 0, 10 * i], [0, 1, 5.0]]), 1.0, same=10 + 5 * i, others=80) for i in range(6)]
    query, images = pairs[0][0], [image for _, image in pairs]
    together = verify(Spatial(), query, *images)
    alone = [verify(Spatial(), query, image) for image in images]
    np.testing.assert_array_equal(together.weights, [found.weights[0] for found in alone])
    np.testing.assert_array_equal(together.maps, [found.maps[0] for found in alone])
    index = Index.create(tmp_path / "index", fingerprint="x", layout=LAYOUT)
    ids = [f"image{i}" for i in range(6)]
    for part in (slice(0, 3), slice(3, 5), slice(5, 6)):
        index.add(ids[part], images[part])
    index.add(["gone"], images[:1])
    index.remove(["gone"])
    order = [4, 0, 5, 2]
    located = [Located(*each) for each in index.located([ids[i] for i in order])]
    found = Spatial().verify(as_query(query), located, len(order))
    np.testing.assert_array_equal(found.weights, together.weights[order])
    np.testing.assert_array_equal(found.maps, together.maps[order])
    at = Spatial().verify(as_query(query), [Located(*each) for each in index.located_at(np.array(order))], len(order))
    np.testing.assert_array_equal(at.weights, found.weights)
    assert index.located(["gone", "unknown"]) == []
    index.compact()
    located = [Located(*each) for each in index.located([ids[i] for i in order])]
    np.testing.assert_array_equal(Spatial().verify(as_query(query), located, len(order)).weights, found.weights)


def test_nothing_in_common_is_no_evidence() -> None:
    query, _ = a_pair(6, np.eye(2, 3), 1.0, same=5, others=0)
    random = np.random.default_rng(6)
    other = np.setdiff1d(np.arange(WORDS), query.words)[:20]
    nothing = AsmkCodes(query.words[:0], query.codes[:0], np.empty(0, np.uint32))
    found = verify(Spatial(), query, make_image(random, draw_positions(random, 20), other), nothing)
    assert found.inliers.tolist() == found.counts.tolist() == [0, 0]
    assert Spatial().scores(np.array([0.3, 0.1]), found).tolist() == [0.3, 0.1]
    assert Spatial().agreeing(np.array([0.3, 0.1]), found).tolist() == [0, 0]
    assert verify(Spatial(), nothing, other_image := make_image(random, draw_positions(random, 20), other)).counts == [
        0
    ]
    assert Spatial().verify(as_query(query), [], 0).weights.shape == (0,)
    assert len(other_image.words) == 20


# ---------------------------------------------------------------------------------------- photos


def test_hits_say_what_agrees(exported: Path, tmp_path: Path, photos: list[str]) -> None:
    with Retriever(exported / "engine.onnx", tmp_path / "index", device="cpu") as retriever:
        retriever.add(photos)
        for photo in photos:
            first = retriever.search(photo, top=10)
            assert all(hit.inliers is None and hit.verified is None for hit in first)
            hits = retriever.search(photo, top=10, rerank="spatial")
            assert {hit.id for hit in hits} == {hit.id for hit in first}
            assert (hits[0].id, hits[0].verified) == (photo, True)
            assert hits[0].inliers == max(hit.inliers or 0 for hit in hits)
            assert all(type(hit.inliers) is int and type(hit.verified) is bool for hit in hits)
            assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
            as_before = retriever.search(photo, top=10, rerank=Spatial(gain=0))
            assert [(hit.id, hit.score) for hit in as_before] == [(hit.id, hit.score) for hit in first]
        assert len(retriever.search(photos[0], top=2, rerank="spatial", candidates=1)) == 2


def test_many_searches_give_what_each_gives(exported: Path, tmp_path: Path, photos: list[str]) -> None:
    with Retriever(exported / "engine.onnx", tmp_path / "index", device="cpu") as retriever:
        retriever.add(photos)
        many = retriever.search_many(photos, 3, rerank="spatial")
        assert many == [retriever.search(photo, 3, rerank="spatial") for photo in photos]
        assert many != retriever.search_many(photos, 3)


def test_the_least_score_is_one_of_the_first_stage(exported: Path, tmp_path: Path, photos: list[str]) -> None:
    """Only that is to be compared with the scores of strangers."""
    with Retriever(exported / "engine.onnx", tmp_path / "index", device="cpu") as retriever:
        retriever.add(photos)
        first = {hit.id: hit.score for hit in retriever.search(photos[0])}
        least = sorted(first.values())[-2]
        hits = retriever.search(photos[0], rerank="spatial", min_score=least)
        assert {hit.id: hit.first_score for hit in hits} == {id_: s for id_, s in first.items() if s >= least}


def test_what_is_verified_is_not_known_for_another_alpha(exported: Path, tmp_path: Path, photos: list[str]) -> None:
    with Retriever(exported / "engine.onnx", tmp_path / "index", device="cpu", alpha=1) as retriever:
        retriever.add(photos)
        assert {hit.verified for hit in retriever.search(photos[0], rerank="spatial")} == {None}
        known = retriever.search(photos[0], rerank=Spatial(alpha=1, least=0.1))
        assert known[0].verified is True


@pytest.mark.parametrize("wrong", [{"hypotheses": 0}, {"refinements": -1}, {"tolerance": -1.0}, {"gain": float("nan")}])
def test_values_that_geometry_cannot_work_with_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(wrong))}"):
        Spatial(**wrong)  # type: ignore[arg-type]


def test_an_index_without_geometry_says_so(exported: Path, tmp_path: Path, photos: list[str]) -> None:
    """It searches as ever, and takes photos as ever; the retriever that opens it need not ask for the same."""
    with Retriever(exported / "engine.onnx", tmp_path / "index", device="cpu", geometry=False) as retriever:
        retriever.add(photos[:3])
        expected = retriever.search(photos[0])
        assert retriever.index is not None
        assert not list(retriever.index.path.rglob("geometry.npy"))
    with Retriever(exported / "engine.onnx", tmp_path / "index", device="cpu") as retriever:
        retriever.add(photos[3:])
        assert retriever.search(photos[0])[0] == expected[0]
        with pytest.raises(IncompatibleError, match=r"index: does not keep where its features lie.*make another"):
            retriever.search(photos[0], rerank="spatial")
