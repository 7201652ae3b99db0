"""ASMK* against its formula, written here a second time: slowly, with Python's loops."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.asmk.codebook import Codebook
from runtime.asmk.codes import AsmkQuery, code_length, pack_signs
from runtime.asmk.inverted_file import InvertedFile
from runtime.asmk.kernel import AsmkParameters, aggregate, selectivity
from runtime.errors import HowlError
from runtime.first_stage import ASMK, Layout

NEAR, FAR = 24, 8  # visual words around the database's descriptors, and far from all of them


class Collection:
    """Made descriptors: images are noisy views of things from one pool, so that some share words and residuals."""

    def __init__(self, dimensions: int, seed: int = 0) -> None:
        random = np.random.default_rng(seed)

        def noise(n: int, size: float) -> NDArray[np.float64]:
            return size * random.normal(size=(n, dimensions))

        near = noise(NEAR, 1)
        self.centroids = np.concatenate([near, 50 + noise(FAR, 1)]).astype(np.float32)
        things = near[random.integers(0, NEAR, 60)] + noise(60, 0.5)

        def view(n: int) -> NDArray[np.float32]:
            return (things[random.choice(60, n, replace=False)] + noise(n, 0.3)).astype(np.float32)

        empty = np.empty((0, dimensions), np.float32)
        self.database = [view(n) for n in (30, 25, 40, 1, 12)] + [empty] + [view(20)]
        self.queries = {
            "views": [view(n) for n in (30, 10)],
            "single descriptor": [view(1)],
            "nothing in common": [(50 + noise(5, 1)).astype(np.float32)],
            "no descriptors": [empty],
        }


def nearest_words(x: NDArray, centroids: NDArray, assignments: int) -> list[int]:
    distances = [(math.dist(x, c), w) for w, c in enumerate(centroids)]
    return [w for _, w in sorted(distances)[:assignments]]


def slow_aggregate(descriptors: NDArray, centroids: NDArray, assignments: int) -> dict[int, list[bool]]:
    """V_w = Σ (x − c_w) of every word, as signs."""
    centroids = centroids.astype(np.float64)
    sums: dict[int, NDArray] = {}
    for x in descriptors.astype(np.float64):
        for w in nearest_words(x, centroids, assignments):
            sums[w] = sums.get(w, 0) + (x - centroids[w])
    return {w: [component > 0 for component in total] for w, total in sums.items()}


def slow_score(query: dict[int, list[bool]], image: dict[int, list[bool]], alpha: float, threshold: float) -> float:
    total = 0.0
    for w in query:
        if w in image:
            different = sum(a != b for a, b in zip(query[w], image[w], strict=True))
            s = 1 - 2 * different / len(query[w])
            if s >= threshold:
                total += s**alpha
    return total / (math.sqrt(len(query)) * math.sqrt(len(image))) if query and image else 0.0


@pytest.mark.parametrize("dimensions", [128, 40])
@pytest.mark.parametrize("assignments", [1, 5])
@pytest.mark.parametrize("threshold", [0.0, 0.25])
def test_scores_equal_the_formula(dimensions: int, assignments: int, threshold: float) -> None:
    made = Collection(dimensions)
    codebook = Codebook(made.centroids)
    database = [aggregate(x, codebook.assign(x, 1), codebook.centroids) for x in made.database]
    inverted_file = InvertedFile.build(database, Layout(ASMK, dimensions))
    table = selectivity(dimensions, AsmkParameters(alpha=3, threshold=threshold))
    slow_database = [slow_aggregate(x, made.centroids, 1) for x in made.database]

    largest = {}
    for kind, queries in made.queries.items():
        for descriptors in queries:
            query = aggregate(descriptors, codebook.assign(descriptors, assignments), codebook.centroids)
            slow_query = slow_aggregate(descriptors, made.centroids, assignments)
            expected = [slow_score(slow_query, image, 3, threshold) for image in slow_database]
            np.testing.assert_allclose(inverted_file.scores(AsmkQuery(*query, table)), expected, rtol=0, atol=1e-6)
            largest[kind] = max(expected)
    assert largest["views"] > 0.005  # there was something to compare
    assert largest["nothing in common"] == largest["no descriptors"] == 0


@pytest.mark.parametrize("dimensions", [128, 40, 3])
def test_an_image_with_a_single_word_scores_one_against_itself(dimensions: int) -> None:
    centroids = np.zeros((1, dimensions), np.float32)
    descriptors = np.random.default_rng(1).normal(size=(4, dimensions)).astype(np.float32)
    image = aggregate(descriptors, np.zeros((4, 1), int), centroids)
    scores = InvertedFile.build([image], Layout(ASMK, dimensions)).scores(
        AsmkQuery(*image, selectivity(dimensions, AsmkParameters()))
    )
    assert scores == [1.0]


def test_a_score_worked_out_by_hand() -> None:
    """Two words of three are shared: one code differs in 1 of 4 bits (s = ½), the other in none (s = 1)."""

    def image(**signs: str) -> dict:
        return {ord(w): [s == "+" for s in code] for w, code in signs.items()}

    query, other = image(a="++++", b="+-+-", c="----"), image(a="+++-", b="+-+-")
    by_hand = (0.5**3 + 1) / math.sqrt(3 * 2)
    assert slow_score(query, other, 3, 0) == pytest.approx(by_hand, abs=1e-12)  # the yardstick itself

    centroids = np.zeros((3, 4), np.float32)
    rows = {name: np.array([[1 if bit else -1 for bit in c] for c in i.values()], np.float32)
            for name, i in (("query", query), ("other", other))}  # fmt: skip
    a = aggregate(rows["query"], np.array([[0], [1], [2]]), centroids)
    b = aggregate(rows["other"], np.array([[0], [1]]), centroids)
    scores = InvertedFile.build([b], Layout(ASMK, 4)).scores(AsmkQuery(*a, selectivity(4, AsmkParameters())))
    np.testing.assert_allclose(scores, [by_hand], atol=1e-12)


@pytest.mark.parametrize("assignments", [1, 3])
def test_aggregation_sums_the_residuals_of_every_word(assignments: int) -> None:
    made = Collection(40, seed=2)
    descriptors = made.database[0]
    found = aggregate(descriptors, Codebook(made.centroids).assign(descriptors, assignments), made.centroids)
    expected = slow_aggregate(descriptors, made.centroids, assignments)
    assert found.words.dtype == np.uint32
    assert found.words.tolist() == sorted(expected)
    for word, code in zip(found.words.tolist(), found.codes, strict=True):
        assert int(code[0]) == sum(1 << i for i, bit in enumerate(expected[word]) if bit)


def test_without_descriptors_there_is_no_word() -> None:
    found = aggregate(np.empty((0, 128), np.float32), np.empty((0, 5), np.int64), np.zeros((9, 128), np.float32))
    assert found.words.shape == (0,)
    assert found.codes.shape == (0, 2)


@pytest.mark.parametrize("dimensions", [1, 40, 64, 65, 128])
def test_bit_i_is_set_where_component_i_is_above_zero_and_padding_never(dimensions: int) -> None:
    vectors = np.random.default_rng(3).choice([-1.5, 0.0, 2.5], (20, dimensions)).astype(np.float32)
    codes = pack_signs(vectors)
    assert codes.shape == (20, code_length(dimensions)) == (20, math.ceil(dimensions / 64))
    for vector, code in zip(vectors, codes, strict=True):
        number = sum(int(part) << (64 * i) for i, part in enumerate(code))
        assert number == sum(1 << i for i, component in enumerate(vector) if component > 0)


@pytest.mark.parametrize("dimensions", [40, 128])
def test_opposite_codes_differ_in_every_dimension_and_in_no_padding(dimensions: int) -> None:
    vectors = np.random.default_rng(4).normal(size=(5, dimensions)).astype(np.float32)
    different = np.bitwise_count(pack_signs(vectors) ^ pack_signs(-vectors)).sum(axis=1)
    assert different.tolist() == [dimensions] * 5


@pytest.mark.parametrize(("dimensions", "last_that_counts"), [(128, 48), (40, 15)])
def test_similarity_at_the_threshold_counts_and_below_it_does_not(dimensions: int, last_that_counts: int) -> None:
    table = selectivity(dimensions, AsmkParameters(alpha=3, threshold=0.25))
    assert table.shape == (dimensions + 1,)
    assert table[0] == 1
    assert table[last_that_counts] == 0.25**3
    assert not table[last_that_counts + 1 :].any()


def test_with_a_negative_threshold_unlike_codes_count_against() -> None:
    table = selectivity(8, AsmkParameters(alpha=2, threshold=-0.5))
    np.testing.assert_allclose(table, [1, 0.5625, 0.25, 0.0625, 0, -0.0625, -0.25, 0, 0])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"alpha": 0}, "alpha is 0"),
        ({"alpha": -1.0}, "alpha is -1"),
        ({"threshold": 1.5}, "threshold is 1.5"),
        ({"threshold": float("nan")}, "threshold is nan"),
        ({"multiple_assignment": 0}, "multiple_assignment is 0"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(wrong: dict, words: str) -> None:
    with pytest.raises(HowlError, match=words):
        AsmkParameters(**wrong)
