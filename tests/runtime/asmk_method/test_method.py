"""asmk's public names: its call sequences, its answers, and none of its faults."""

import copy
import os
import warnings
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import runtime.asmk_method.ivf
from runtime import asmk_method
from runtime import asmk_method as kern_pkg
from runtime.asmk.codebook import Codebook
from runtime.asmk.kernel import aggregate
from runtime.asmk_method.importing import NUMBERS, fingerprint_of
from runtime.asmk_method.method import ASMKMethod
from runtime.errors import HowlError
from runtime.first_stage import ASMK, Layout
from runtime.index import Index

from .asmk_params import asmk_params

D, WORDS = 40, 24  # asmk compares 40 dimensions over 64 bits
CENTROIDS = np.random.default_rng(0).normal(size=(WORDS, D)).astype(np.float32)
PARAMS = asmk_params(WORDS, assignments=5)

Images = dict[int, NDArray[np.float32]]  # descriptors by image


def changed(path: str, value: Any) -> dict[str, Any]:
    """The parameters with one of them, such as "query_ivf.search.topk", changed; or gone, where it is `KeyError`."""
    params = copy.deepcopy(PARAMS)
    *folders, name = path.split(".")
    inner: Any = params
    for folder in folders:
        inner = inner[folder]
    inner[name] = value
    if value is KeyError:
        del inner[name]
    return params


def images_of(*numbers: int, seed: int = 0) -> Images:
    """Some images of 3 to 12 descriptors."""
    random = np.random.default_rng(seed)
    return {i: random.normal(size=(random.integers(3, 13), D)).astype(np.float32) for i in numbers}


def columns(images: Images) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """All descriptors and the image of each, as asmk takes them."""
    lengths = [len(descriptors) for descriptors in images.values()]
    return np.concatenate(list(images.values())), np.repeat(np.array(list(images)), lengths)


@pytest.fixture
def codebook_npy(tmp_path: Path) -> Path:
    path = tmp_path / "codebook.npy"
    Codebook(CENTROIDS).save(path)
    return path


@pytest.fixture
def trained(codebook_npy: Path) -> ASMKMethod:
    return ASMKMethod.initialize_untrained(PARAMS).train_codebook(cache_path=codebook_npy)


def one_line(call: Callable[[], Any]) -> str:
    with pytest.raises(HowlError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --------------------------------------------------------------------------- a slow, plain reference


def codes_of(descriptors: NDArray[np.float32], assignments: int) -> dict[int, NDArray[np.bool_]]:
    """The signs of the summed residuals, by word."""
    sums: dict[int, NDArray[np.float64]] = {}
    for x in descriptors.astype(np.float64):
        for word in np.argsort(np.square(x - CENTROIDS).sum(axis=1))[:assignments].tolist():
            sums[word] = sums.get(word, 0) + (x - CENTROIDS[word])
    return {word: total > 0 for word, total in sums.items()}


def score_of(query: NDArray, image: NDArray, *, alpha: float = 3, tau: float = 0, database: int = 1) -> float:
    a, b = codes_of(query, 5), codes_of(image, database)
    total = 0.0
    for word in a.keys() & b.keys():
        similarity = 1 - 2 * float((a[word] != b[word]).mean())
        if similarity >= tau:
            total += float(np.sign(similarity)) * abs(similarity) ** alpha
    return total / np.sqrt(len(a) * len(b))


def assert_answers(method: ASMKMethod, queries: Images, expected: dict[int, Images], **how: Any) -> None:
    """`expected` gives the images that stand at the columns of an answer."""
    images, ranks, scores = method.query_ivf(*columns(queries))[1:]
    assert images.tolist() == sorted(queries)
    assert ranks.dtype == np.int64
    assert scores.dtype == np.float64
    for query, row_ranks, row_scores in zip(images.tolist(), ranks, scores, strict=True):
        plain = [0.0 if image is None else score_of(queries[query], image, **how) for image in expected.values()]
        assert list(expected) == list(range(len(expected)))
        rounded = np.round(plain, 9)
        best = np.lexsort((np.arange(len(plain)), -rounded))[: len(row_ranks)]
        assert row_ranks.tolist() == best.tolist()
        np.testing.assert_allclose(row_scores, np.array(plain)[best], atol=1e-9)


QUERIES = images_of(7, 11, 12, seed=1)


@pytest.mark.parametrize(
    ("parameter", "value", "how"),
    [
        ("index", KeyError, {}),
        ("query_ivf.similarity.alpha", 1.5, {"alpha": 1.5}),
        ("query_ivf.similarity.similarity_threshold", 0.25, {"tau": 0.25}),
        ("query_ivf.similarity.similarity_threshold", -0.5, {"tau": -0.5}),
        ("build_ivf.quantize.multiple_assignment", 3, {"database": 3}),
        ("build_ivf.kernel.binary", "bin", {}),
        ("query_ivf.search.topk", 4, {}),
        ("query_ivf.search.topk", 4000, {}),
        ("query_ivf.search", {}, {}),
        ("query_ivf.search", None, {}),
    ],
)
def test_answers_are_those_of_a_plain_reference(codebook_npy: Path, parameter: str, value: Any, how: dict) -> None:
    images = images_of(*range(9))
    method = ASMKMethod.initialize_untrained(changed(parameter, value))
    method = method.train_codebook(cache_path=codebook_npy).build_ivf(*columns(images))
    assert_answers(method, QUERIES, images, **how)
    assert method.query_ivf(*columns(QUERIES))[2].shape == (3, 4 if value == 4 else 9)


def test_every_number_up_to_the_largest_is_ranked(trained: ASMKMethod) -> None:
    """So that scores can be put back at their ranks, as MASt3R-SfM does."""
    images = images_of(6, 2, 3)
    method = trained.build_ivf(*columns(images))
    assert_answers(method, QUERIES, {i: images.get(i) for i in range(7)})
    _, _, ranks, ranked_scores = method.query_ivf(*columns(QUERIES))
    scores = np.empty_like(ranked_scores)
    scores[np.arange(len(scores))[:, None], ranks] = ranked_scores
    assert scores[0, 6] == pytest.approx(score_of(QUERIES[7], images[6]))


@pytest.mark.parametrize("kind", ["scattered", "uint64", "uint8", "float64", "read-only", "in columns", "lists"])
def test_arrays_of_any_kind_and_order_are_taken_and_left_as_they_are(trained: ASMKMethod, kind: str) -> None:
    images = images_of(*range(9))
    vecs, ids = columns(images)
    order = np.random.default_rng(2).permutation(len(ids))
    change: dict[str, Callable[[], tuple]] = {
        "scattered": lambda: (vecs[order], ids[order]),
        "uint64": lambda: (vecs, ids.astype(np.uint64)),
        "uint8": lambda: (vecs, ids.astype(np.uint8)),
        "float64": lambda: (vecs.astype(np.float64), ids),
        "read-only": lambda: (vecs, ids),
        "in columns": lambda: (np.asfortranarray(vecs), np.repeat(ids, 2)[::2]),
        "lists": lambda: (vecs.tolist(), ids.tolist()),
    }
    given = change[kind]()
    before = copy.deepcopy(given)
    if kind == "read-only":
        for array in given:
            array.setflags(write=False)
    method = trained.build_ivf(*given)
    assert_answers(method, QUERIES, images)
    found, _, scores = method.query_ivf(*given)[1:]
    assert found.tolist() == list(range(9))
    assert found.dtype == np.asarray(given[1]).dtype
    np.testing.assert_allclose(scores, method.query_ivf(vecs, ids)[3], atol=1e-9)
    for array, untouched in zip(given, before, strict=True):
        np.testing.assert_array_equal(array, untouched)


@pytest.mark.parametrize("order", [range(40), range(39, -1, -1)], ids=["ascending", "descending"])
@pytest.mark.parametrize("largest", [7, 65_536])
def test_images_added_one_by_one_are_those_added_at_once(
    trained: ASMKMethod, monkeypatch: pytest.MonkeyPatch, largest: int, order: range
) -> None:
    monkeypatch.setattr(runtime.asmk_method.ivf, "MAX_IMAGES", largest)
    images = images_of(*range(40))
    builder = trained.create_ivf_builder()
    for i in order:
        builder.add(images[i], np.full(len(images[i]), i))
    sizes = [len(part.file) for part in builder.ivf._unsaved]
    assert max(sizes) <= largest
    assert len(sizes) <= 6 + sum(sizes) / (largest / 2)
    one_by_one, at_once = trained.add_ivf_builder(builder), trained.build_ivf(*columns(images))
    assert one_by_one.inverted_file.stats == at_once.inverted_file.stats
    for i in (1, 2, 3):
        found, expected = (method.query_ivf(*columns(QUERIES))[i] for method in (one_by_one, at_once))
        np.testing.assert_array_equal(found, expected)


def test_what_is_added_to_the_builder_later_is_found(trained: ASMKMethod) -> None:
    images = images_of(*range(6))
    builder = trained.create_ivf_builder()
    method = trained.add_ivf_builder(builder)
    builder.add(*columns(images), progress=1)
    assert_answers(method, QUERIES, images)


def test_nothing_in_is_an_answer(trained: ASMKMethod) -> None:
    empty = np.empty((0, D)), np.empty(0)
    nothing = trained.build_ivf(*empty)
    assert nothing.inverted_file.stats["images"] == 0
    metadata, images, ranks, scores = nothing.query_ivf(*columns(QUERIES))
    assert (images.tolist(), ranks.shape, scores.shape) == ([7, 11, 12], (3, 0), (3, 0))
    builder = trained.create_ivf_builder()
    builder.add(*columns(images_of(0, 1)))
    builder.add(*empty)
    builder.add([], [])
    metadata, images, ranks, scores = trained.add_ivf_builder(builder).query_ivf(*empty)
    assert (images.shape, ranks.shape, scores.shape) == ((0,), (0, 2), (0, 2))
    assert 0 <= metadata["query_avg_time"] < 1


def test_images_that_share_nothing_score_zero_in_the_order_of_their_numbers(codebook_npy: Path) -> None:
    method = ASMKMethod.initialize_untrained(changed("query_ivf.quantize.multiple_assignment", 1))
    method = method.train_codebook(cache_path=codebook_npy).build_ivf(CENTROIDS[[0, 1, 0]] + 0.1, [2, 1, 0])
    _, _, ranks, scores = method.query_ivf(CENTROIDS[[5, 0]] + 0.1, [0, 1])
    assert ranks.tolist() == [[0, 1, 2], [0, 2, 1]]
    assert scores.tolist() == [[0, 0, 0], [1, 1, 0]]


# --------------------------------------------------------------------------- steps, metadata, parameters


def test_each_step_gives_a_new_object_and_its_metadata(tmp_path: Path) -> None:
    training = np.random.default_rng(0).normal(size=(8 * 32, D))
    untrained = ASMKMethod.initialize_untrained(changed("train_codebook.codebook.size", 8))
    trained = untrained.train_codebook(training)
    built = trained.build_ivf(*columns(images_of(*range(4))))
    assert (untrained.codebook, untrained.metadata, trained.inverted_file, trained.kernel) == (None, {}, None, None)
    assert list(trained.metadata) == ["train_codebook"]
    assert trained.metadata["train_codebook"].keys() == {"index_time", "cluster_time", "train_time", "index_class"}
    assert list(built.metadata) == ["train_codebook", "build_ivf"]
    assert built.metadata["build_ivf"].keys() == {"index_time", "ivf_stats"}
    assert (len(built.codebook), built.codebook.size, built.codebook.centroids.shape) == (8, 8, (8, D))
    entries = np.zeros(8, int)
    for descriptors in images_of(*range(4)).values():
        entries[np.unique(built.codebook.assign(descriptors, 1))] += 1
    assert built.metadata["build_ivf"]["ivf_stats"] == {
        "images": 4,
        "vectors_per_image": entries.sum() / 4,
        "mean_entries_per_vw": entries.mean(),
        "empty_vw": (entries == 0).sum(),
        "min_entries_per_vw": entries.min(),
        "max_entries_per_vw": entries.max(),
        "std_of_entries_per_vw": entries.std(),
        "imbalance_factor_of_vw": pytest.approx(8 * (entries**2).sum() / entries.sum() ** 2),
    }


def test_a_learned_codebook_is_saved_as_npy_and_loaded(tmp_path: Path) -> None:
    training, path = np.random.default_rng(0).normal(size=(8 * 32, D)), tmp_path / "new" / "codebook.pkl"
    untrained = ASMKMethod.initialize_untrained(changed("train_codebook.codebook.size", 8))
    learned = untrained.train_codebook(training, cache_path=path)
    loaded = untrained.train_codebook(None, cache_path=str(path))
    np.testing.assert_array_equal(np.load(path), learned.codebook.centroids)
    np.testing.assert_array_equal(loaded.codebook.centroids, learned.codebook.centroids)
    assert loaded.metadata["train_codebook"].keys() == {"load_time", "index_class"}


def test_the_parameters_of_a_step_can_be_replaced(codebook_npy: Path) -> None:
    method = ASMKMethod.initialize_untrained({}).train_codebook(
        cache_path=codebook_npy, step_params=PARAMS["train_codebook"]
    )
    images = images_of(*range(9))
    method = method.build_ivf(*columns(images), step_params=PARAMS["build_ivf"])
    assert method.params == {"train_codebook": PARAMS["train_codebook"], "build_ivf": PARAMS["build_ivf"]}
    top_4 = changed("query_ivf.search.topk", 4)["query_ivf"]
    assert method.query_ivf(*columns(QUERIES), step_params=top_4, progress=1)[2].shape == (3, 4)


def test_topk_can_be_changed_between_queries(codebook_npy: Path) -> None:
    params = copy.deepcopy(PARAMS)
    method = ASMKMethod.initialize_untrained(params).train_codebook(cache_path=codebook_npy)
    method = method.build_ivf(*columns(images_of(*range(9))))
    method.params["query_ivf"]["search"]["topk"] = 2
    assert method.query_ivf(*columns(QUERIES))[2].shape == (3, 2)


@pytest.mark.parametrize(
    ("parameter", "value", "part"),
    [
        ("train_codebook", KeyError, "train_codebook.codebook.size is missing"),
        ("train_codebook.codebook.size", "many", "'many' is no codebook size"),
        ("train_codebook.codebook.size", WORDS + 1, "has 24 visual words, train_codebook.codebook.size is 25"),
        ("build_ivf", KeyError, "build_ivf.kernel.binary is missing"),
        ("build_ivf.kernel.binary", False, "build_ivf.kernel.binary is False"),
        ("build_ivf.kernel.binary", "nobin", "build_ivf.kernel.binary is 'nobin'"),
        ("build_ivf.ivf.use_idf", True, "build_ivf.ivf.use_idf is on"),
        ("build_ivf.ivf.use_idf", KeyError, "build_ivf.ivf.use_idf is missing"),
        ("build_ivf.quantize.multiple_assignment", 0, "build_ivf.quantize.multiple_assignment is 0"),
        ("query_ivf.quantize", None, "query_ivf.quantize.multiple_assignment is missing"),
        ("query_ivf.quantize.multiple_assignment", 2.5, "query_ivf.quantize.multiple_assignment is 2.5"),
        ("query_ivf.search.topk", 0, "query_ivf.search.topk is 0"),
        ("query_ivf.similarity.alpha", 0, "alpha is 0"),
        ("query_ivf.similarity.similarity_threshold", 2, "threshold is 2"),
    ],
)
def test_parameters_that_cannot_be_are_named(codebook_npy: Path, parameter: str, value: Any, part: str) -> None:
    def run() -> None:
        method = ASMKMethod.initialize_untrained(changed(parameter, value)).train_codebook(cache_path=codebook_npy)
        method.build_ivf(*columns(QUERIES)).query_ivf(*columns(QUERIES))

    assert part in one_line(run)


def test_a_gpu_is_said_to_be_ignored_once_and_changes_nothing(codebook_npy: Path) -> None:
    images, untrained = images_of(*range(9)), ASMKMethod.initialize_untrained(changed("index.gpu_id", 0))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        method = untrained.train_codebook(cache_path=codebook_npy).build_ivf(*columns(images))
        assert_answers(method, QUERIES, images)
    assert [warning.filename for warning in caught] == [__file__]
    assert "index.gpu_id is 0 and is ignored" in str(caught[0].message)
    assert "set it to None" in str(caught[0].message)


def test_steps_out_of_order_say_what_to_call(tmp_path: Path, trained: ASMKMethod) -> None:
    untrained, built = ASMKMethod.initialize_untrained(PARAMS), trained.build_ivf(*columns(QUERIES))
    assert "call train_codebook first" in one_line(untrained.create_ivf_builder)
    assert "call build_ivf first" in one_line(lambda: trained.query_ivf(*columns(QUERIES)))
    assert "trained already" in one_line(lambda: trained.train_codebook(CENTROIDS))
    assert "built already" in one_line(lambda: built.build_ivf(*columns(QUERIES)))
    missing = tmp_path / "missing"
    assert one_line(lambda: untrained.train_codebook(None, cache_path=missing)).endswith(f"saved at {missing}")
    assert one_line(lambda: trained.build_ivf(None, None, cache_path=missing)).endswith(f"saved at {missing}")


def test_a_codebook_has_as_many_words_as_asked_for_or_is_refused() -> None:
    untrained = ASMKMethod.initialize_untrained(PARAMS)
    assert len(untrained.train_codebook(CENTROIDS).codebook) == WORDS
    for few in (CENTROIDS[1:], CENTROIDS[:0], CENTROIDS.ravel(), []):
        assert "24 visual words need as many descriptors" in one_line(lambda few=few: untrained.train_codebook(few))


@pytest.mark.parametrize(
    ("vecs", "ids", "part"),
    [
        (np.zeros((2, D)), [0, -1], "image id -1: ids number the images from 0"),
        (np.zeros((2, D)), np.array([0, 2**64 - 1], np.uint64), "image id 18446744073709551615: ids number"),
        (np.zeros((2, D)), np.array([0, NUMBERS], np.uint64), f"stay below {NUMBERS}"),
        (np.zeros((2, D)), [0.0, 1.0], "image ids are whole numbers [n], not float64"),
        (np.zeros((2, D)), [[0, 1]], "image ids are whole numbers [n]"),
        (np.zeros((2, D)), [0], "1 image ids were given for 2 rows"),
        (np.zeros((2, D + 1)), [0, 1], "do not fit a codebook of 40 dimensions"),
        (np.zeros(2), [0, 1], "do not fit a codebook of 40 dimensions"),
    ],
)
def test_columns_that_cannot_be_are_refused_and_add_nothing(
    trained: ASMKMethod, vecs: NDArray, ids: Any, part: str
) -> None:
    builder = trained.create_ivf_builder()
    assert part in one_line(lambda: builder.add(vecs, ids))
    assert len(builder.ivf) == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_descriptors_that_are_not_finite_are_refused_with_their_place(trained: ASMKMethod, value: float) -> None:
    vecs = np.random.default_rng(0).normal(size=(200, CENTROIDS.shape[1])).astype(np.float32)
    whole = trained.build_ivf(vecs, np.arange(200))
    vecs[7, 3] = value
    images = np.arange(200)
    builder = trained.create_ivf_builder()
    for call in (
        lambda: builder.add(vecs, images),
        lambda: trained.build_ivf(vecs, images),
        lambda: whole.query_ivf(vecs, images),
        lambda: ASMKMethod.initialize_untrained(PARAMS).train_codebook(vecs),
    ):
        assert one_line(call) == "descriptor 7 of 200 is not finite"


def test_an_image_is_added_once(trained: ASMKMethod) -> None:
    builder = trained.create_ivf_builder()
    builder.add(*columns(images_of(3, 1)))
    before = builder.ivf.stats
    assert one_line(lambda: builder.add(*columns(images_of(0, 1, 2)))).startswith("image 1 is in the inverted file")
    assert builder.ivf.stats == before


# --------------------------------------------------------------------------- on disk


def test_a_saved_ivf_is_loaded_grows_and_is_saved(tmp_path: Path, trained: ASMKMethod) -> None:
    images, path = images_of(*range(12)), tmp_path / "ivf.pkl"
    first = {i: images[i] for i in (4, 0, 9)}
    trained.build_ivf(*columns(first), cache_path=path)
    builder = trained.create_ivf_builder(cache_path=str(path))
    assert builder.loaded_from_cache
    builder.add(*columns({i: images[i] for i in range(12) if i not in first}))
    assert sorted(Index(path).ids()) == ["0", "4", "9"]
    grown = trained.add_ivf_builder(builder)
    assert grown.metadata["build_ivf"].keys() == {"load_time", "index_time", "ivf_stats"}
    loaded = trained.build_ivf(None, None, cache_path=path)
    assert loaded.metadata["build_ivf"].keys() == {"load_time", "ivf_stats"}
    for method in (grown, loaded):
        assert_answers(method, QUERIES, images)
    assert loaded.inverted_file.stats == grown.inverted_file.stats
    again = trained.create_ivf_builder(cache_path=path)
    assert one_line(lambda: again.add(*columns(images_of(9)))).startswith("image 9 is in the inverted file already")


def test_what_was_removed_from_a_saved_ivf_is_gone(tmp_path: Path, trained: ASMKMethod) -> None:
    images, path = images_of(*range(6)), tmp_path / "ivf"
    trained.build_ivf(*columns(images), cache_path=path)
    index = Index(path)
    index.remove(["1", "5"])
    index.close()
    left = {i: images[i] if i != 1 else None for i in range(5)}
    assert_answers(trained.build_ivf(cache_path=path), QUERIES, left)


def test_nothing_is_saved_before_the_builder_is_taken_over(tmp_path: Path, trained: ASMKMethod) -> None:
    """An interrupted build must not look like a finished one."""
    path = tmp_path / "ivf"
    builder = trained.create_ivf_builder(cache_path=path)
    builder.add(*columns(images_of(0, 1)))
    assert not path.exists()
    assert not trained.create_ivf_builder(cache_path=path).loaded_from_cache
    trained.add_ivf_builder(builder)
    assert trained.create_ivf_builder(cache_path=path).loaded_from_cache


def test_a_save_that_fails_leaves_nothing_and_can_be_tried_again(
    tmp_path: Path, trained: ASMKMethod, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = trained.create_ivf_builder(cache_path=tmp_path / "ivf")
    builder.add(*columns(images_of(0, 1)))
    before = os.listdir(tmp_path)

    def fail(*_: Any) -> None:
        raise HowlError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Index, "add", fail)
        assert one_line(builder.save) == "the disk is full"
    assert os.listdir(tmp_path) == before
    builder.save()
    assert Index(tmp_path / "ivf").ids() == ["0", "1"]


def test_two_that_build_one_cache_do_not_mix(tmp_path: Path, trained: ASMKMethod) -> None:
    builders = [trained.create_ivf_builder(cache_path=tmp_path / "ivf") for _ in range(2)]
    for seed, builder in enumerate(builders):
        builder.add(*columns(images_of(0, 1, seed=seed)))
    builders[0].save()
    assert "0 is in the index already" in one_line(builders[1].save)


def test_a_cache_of_another_codebook_or_of_none_is_refused(tmp_path: Path, trained: ASMKMethod) -> None:
    path = tmp_path / "ivf"
    trained.build_ivf(*columns(images_of(0)), cache_path=path)
    Codebook(CENTROIDS + 1).save(tmp_path / "other.npy")
    other = ASMKMethod.initialize_untrained(PARAMS).train_codebook(cache_path=tmp_path / "other.npy")
    assert one_line(lambda: other.build_ivf(cache_path=path)).startswith(f"{path}: made with another codebook")
    (tmp_path / "folder").mkdir()
    assert one_line(lambda: other.build_ivf(cache_path=tmp_path / "folder")).startswith(f"{tmp_path / 'folder'}: ")
    assert one_line(lambda: ASMKMethod.initialize_untrained(PARAMS).train_codebook(cache_path=tmp_path)).startswith(
        f"{tmp_path}: "
    )
    with closing(
        Index.create(tmp_path / "named", fingerprint=fingerprint_of(trained.codebook), layout=Layout(ASMK, D))
    ) as named:
        named.add(["photo.jpg"], [aggregate(CENTROIDS[:1], np.zeros((1, 1), int), CENTROIDS)])
    assert "have names instead of numbers" in one_line(lambda: trained.build_ivf(cache_path=tmp_path / "named"))


# --------------------------------------------------------------------------- distractors


def test_distractors_follow_the_images_under_numbers_that_are_never_negative(
    tmp_path: Path, trained: ASMKMethod
) -> None:
    distractors, images = images_of(*range(5), seed=3), images_of(*range(4), seed=4)
    trained.build_ivf(*columns(distractors), cache_path=tmp_path / "distractors")
    kwargs = {"distractors_path": tmp_path / "distractors", "cache_path": tmp_path / "ivf"}
    built = trained.build_ivf(*columns(images), **kwargs)
    loaded = trained.build_ivf(None, None, **kwargs)
    assert loaded.metadata["build_ivf"].keys() == {"load_time", "ivf_stats"}
    expected = images | {4 + i: descriptors for i, descriptors in distractors.items()}
    for method in (built, loaded):
        assert_answers(method, QUERIES, expected)
        assert method.inverted_file.stats["images"] == 9
    builder = trained.create_ivf_builder(cache_path=tmp_path / "ivf")
    builder.add(*columns(images_of(4, seed=5)))
    expected = images | images_of(4, seed=5) | {5 + i: descriptors for i, descriptors in distractors.items()}
    assert_answers(trained.add_ivf_builder(builder), QUERIES, expected)


def test_distractors_come_first(tmp_path: Path, trained: ASMKMethod) -> None:
    trained.build_ivf(*columns(images_of(0)), cache_path=tmp_path / "distractors")
    builder = trained.create_ivf_builder()
    builder.add(*columns(images_of(1)))
    line = one_line(lambda: builder.initialize_with_distractors(tmp_path / "distractors"))
    assert line.endswith("distractors come before all images; call initialize_with_distractors first")
    assert one_line(lambda: trained.create_ivf_builder().initialize_with_distractors(tmp_path / "missing")).startswith(
        f"{tmp_path / 'missing'}: "
    )


# --------------------------------------------------------------------------- step by step, as HOW does


def test_hows_separate_steps_give_what_its_one_step_gives(tmp_path: Path, trained: ASMKMethod) -> None:
    """Aggregate parts of the database, keep them as pickles, and build the inverted file of these."""
    images = images_of(*range(9))
    codebook = trained.codebook
    kernel = kern_pkg.ASMKKernel(codebook, **trained.params["build_ivf"]["kernel"])
    parts = []
    for part in (range(5), range(5, 9)):
        vecs, imids = columns({i: images[i] for i in part})
        quantized = codebook.quantize(vecs, imids, **trained.params["build_ivf"]["quantize"])
        parts.append(kernel.aggregate(*quantized, **trained.params["build_ivf"]["aggregate"]))
    builder = trained.create_ivf_builder(cache_path=tmp_path / "ivf.pkl")
    for des, word_ids, image_ids in parts:
        builder.ivf.add(des, word_ids, image_ids)
    assert_answers(trained.add_ivf_builder(builder), QUERIES, images)
    assert_answers(trained.build_ivf(None, None, cache_path=tmp_path / "ivf.pkl"), QUERIES, images)


def test_entries_that_are_not_the_kernels_are_refused(trained: ASMKMethod) -> None:
    kernel = asmk_method.ASMKKernel(trained.codebook, binary=True)
    vecs, ids = columns(images_of(0, 1))
    des, words, image_ids = kernel.aggregate(*trained.codebook.quantize(vecs, ids, multiple_assignment=1))
    ivf = trained.create_ivf_builder().ivf
    for wrong in (
        (des.astype(np.uint32), words, image_ids),
        (np.repeat(des, 2, axis=1), words, image_ids),
        (des, words + WORDS, image_ids),
        (np.repeat(des, 2, axis=0), np.repeat(words, 2), np.repeat(image_ids, 2)),
    ):
        assert "aggregate the descriptors again" in one_line(lambda wrong=wrong: ivf.add(*wrong))
    assert len(ivf) == 0


# --------------------------------------------------------------------------- beside the real package


@pytest.fixture
def features() -> Callable[[int, int], tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Images of 300 descriptors around some of 3,000 elements, D = 128."""
    random = np.random.default_rng(0)
    elements = random.normal(size=(3000, 128))

    def draw(images: int, first: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        topics = np.repeat(random.integers(0, 40, images), 300)
        chosen = elements[60 * topics + random.integers(0, 600, len(topics))]
        vecs = (chosen + 0.7 * random.normal(size=chosen.shape)).astype(np.float32)
        return vecs, np.repeat(np.arange(first, first + images), 300)

    return draw


def test_the_documented_calls_give_the_same_ranks_and_scores_through_the_real_package(
    tmp_path: Path, features: Callable
) -> None:
    theirs = pytest.importorskip("asmk", reason="the package asmk is not installed").asmk_method
    params = changed("train_codebook.codebook.size", "1k")
    vecs, imids = features(200)
    qvecs, qimids = features(30)
    dvecs, dimids = features(40)
    answers = []
    for package, folder in ((theirs, "theirs"), (asmk_method, "ours")):
        path = tmp_path / folder
        path.mkdir()
        untrained = package.ASMKMethod.initialize_untrained(params)
        # Ours goes on from the codebook that theirs has learned and saved.
        trained = untrained.train_codebook(vecs, cache_path=tmp_path / "codebook.pkl")
        assert trained.metadata["train_codebook"].keys() >= {"index_class"}
        trained.build_ivf(dvecs, dimids.copy(), cache_path=path / "distractors.pkl")
        built = trained.build_ivf(vecs, imids.copy(), cache_path=path / "ivf.pkl")
        loaded = trained.build_ivf(None, None, cache_path=path / "ivf.pkl")
        builder = trained.create_ivf_builder()
        for half in (imids < 100, imids >= 100):
            builder.add(vecs[half], imids[half])
        more = trained.build_ivf(vecs, imids.copy(), distractors_path=path / "distractors.pkl")
        methods = [built, loaded, trained.add_ivf_builder(builder), more]
        if package is asmk_method:  # what theirs saved
            methods[1] = trained.build_ivf(None, None, cache_path=tmp_path / "theirs" / "ivf.pkl")
            methods[3] = trained.build_ivf(
                vecs, imids, distractors_path=tmp_path / "theirs" / "distractors.pkl", cache_path=path / "more.pkl"
            )
        answers.append([method.query_ivf(qvecs, qimids) for method in methods])
        stats = built.metadata["build_ivf"]["ivf_stats"]
        assert stats == pytest.approx(trained.add_ivf_builder(builder).metadata["build_ivf"]["ivf_stats"])
        answers[-1].append(stats)
    assert answers[0].pop() == pytest.approx(answers[1].pop())
    for (_, images, ranks, scores), (_, our_images, our_ranks, our_scores) in zip(*answers, strict=True):
        ranks = np.where(ranks < 0, ranks + 240, ranks)  # distractor j is number j − 40 there, 200 + j here
        np.testing.assert_array_equal(our_images, images)
        np.testing.assert_allclose(our_scores, scores, rtol=0, atol=1e-6)
        by_number = np.take_along_axis(scores, np.argsort(ranks, axis=1), axis=1)
        np.testing.assert_allclose(np.take_along_axis(by_number, our_ranks, axis=1), our_scores, rtol=0, atol=1e-6)
        ties = np.abs(np.diff(scores, axis=1)) < 1e-6
        apart = ~(np.pad(ties, ((0, 0), (0, 1))) | np.pad(ties, ((0, 0), (1, 0))))
        np.testing.assert_array_equal(our_ranks[apart], ranks[apart])
        assert apart.mean() > 0.5
