"""What asmk saved is read as it was meant, into an index or by its own names, or refused in one line."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import runtime.asmk_method.pickles
from runtime.asmk.codebook import Codebook
from runtime.asmk.codes import AsmkCodes, AsmkQuery, pack_signs
from runtime.asmk.kernel import AsmkParameters, selectivity
from runtime.asmk_method.importing import fingerprint_of, import_asmk
from runtime.asmk_method.method import ASMKMethod
from runtime.asmk_method.pickles import from_asmk_codes, load_asmk_codebook, load_asmk_ivf, words_of_size
from runtime.errors import HowlError
from runtime.first_stage import ASMK, Layout
from runtime.index import Index

from .asmk_params import asmk_params

D, WORDS = 40, 30
TABLE = selectivity(D, AsmkParameters())
CENTROIDS = np.random.default_rng(0).normal(size=(WORDS, D)).astype(np.float32)

Entries = tuple[list[int], NDArray[np.float64]]  # of an image: its words, ascending, and the sums behind their codes


def image(seed: int, words: int = 8) -> Entries:
    random = np.random.default_rng(seed)
    return sorted(random.choice(WORDS, words, replace=False).tolist()), random.normal(size=(words, D))


IMAGES = [image(1), image(2), image(3, words=0), image(4), image(5, words=1)]


def packed_by_asmk(vector: NDArray[np.float64]) -> list[int]:
    """Bit by bit: component i is bit 31 − i % 32 of word i // 32."""
    words = [0] * (-(-len(vector) // 32))
    for i, value in enumerate(vector):
        words[i // 32] |= int(value > 0) << (31 - i % 32)
    return words


def ivf_of(images: list[Entries], *, offset: int | None = 0) -> dict[str, Any]:
    """The `state_dict` of asmk's IVF of these images, the first `offset` of which were its distractors."""
    vectors: list[Any] = [None] * WORDS
    ids: list[Any] = [None] * WORDS
    counts = np.zeros(WORDS, np.int32)
    for number, (words, sums) in enumerate(images):
        for word, row in zip(words, sums, strict=True):
            if vectors[word] is None or len(ids[word]) == counts[word]:  # room for more is filled with what was there
                vectors[word] = np.resize(vectors[word] if counts[word] else [[0, 0]], (3 + 2 * counts[word], 2))
                vectors[word] = vectors[word].astype(np.uint32)
                ids[word] = np.resize(ids[word] if counts[word] else [0], 3 + 2 * counts[word]).astype(np.int64)
            vectors[word][counts[word]] = packed_by_asmk(row)
            ids[word][counts[word]] = number
            counts[word] += 1
    state = {
        "norm_factor": np.array([len(words) for words, _ in images], np.float64),
        "n_images": np.int64(len(images)),
        "ivf_vecs": vectors,
        "ivf_image_ids": ids,
        "counts": counts,
        "idf": np.ones(WORDS, np.float32),
        "imid_offset": offset,
    }
    if offset is None:  # as asmk saved it before there were distractors
        del state["imid_offset"]
    return {"type": "IVF", "params": {"use_idf": False}, "state": state}


def codebook_state(size: Any = WORDS) -> dict[str, Any]:
    return {"type": "Codebook", "params": {"size": size}, "state": {"centroids": CENTROIDS}}


def saved(path: Path, content: Any) -> Path:
    path.write_bytes(pickle.dumps(content))
    return path


@pytest.fixture
def codebook_pickle(tmp_path: Path) -> Path:
    return saved(tmp_path / "codebook.pkl", codebook_state())


def aggregated(entries: Entries) -> AsmkCodes:
    return AsmkCodes(np.array(entries[0], np.uint32), pack_signs(entries[1].reshape(-1, D)))


def assert_same_images(found: list[AsmkCodes], expected: list[Entries]) -> None:
    assert len(found) == len(expected)
    for ours, entries in zip(found, expected, strict=True):
        assert ours.words.dtype == np.uint32
        np.testing.assert_array_equal(ours.words, aggregated(entries).words)
        np.testing.assert_array_equal(ours.codes, aggregated(entries).codes)


def one_line(call: Callable[[], Any]) -> str:
    with pytest.raises(HowlError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("dimensions", [1, 31, 32, 33, 40, 64, 65, 96, 128, 130])
def test_codes_keep_every_bit_and_no_other(dimensions: int) -> None:
    vectors = np.random.default_rng(dimensions).normal(size=(50, dimensions))
    theirs = np.array([packed_by_asmk(vector) for vector in vectors], np.uint32)
    ours = from_asmk_codes(theirs, dimensions)
    assert ours.dtype == np.uint64
    np.testing.assert_array_equal(ours, pack_signs(vectors))


@pytest.mark.parametrize("largest", [2, 3, 65_536])
def test_images_come_back_in_order_however_many_are_read_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, largest: int
) -> None:
    monkeypatch.setattr(runtime.asmk_method.pickles, "MAX_IMAGES", largest)
    ivf = load_asmk_ivf(saved(tmp_path / "ivf.pkl", ivf_of(IMAGES, offset=2)), D)
    blocks = list(ivf.blocks())
    assert (ivf.words, ivf.images, ivf.distractors) == (WORDS, 3, 2)
    assert all(len(numbers) == len(images) <= largest for numbers, images in blocks)
    assert np.concatenate([numbers for numbers, _ in blocks]).tolist() == [0, 1, 2, -1, -2]
    assert_same_images([image for _, images in blocks for image in images], IMAGES[2:] + IMAGES[:2])


def test_lists_in_any_order_and_ids_of_any_type_are_read(tmp_path: Path) -> None:
    content = ivf_of(IMAGES)
    state = content["state"]
    for word, count in enumerate(state["counts"]):
        if count:
            state["ivf_vecs"][word] = state["ivf_vecs"][word][:count][::-1]
            state["ivf_image_ids"][word] = state["ivf_image_ids"][word][:count][::-1].astype(np.uint64)
    [(_, images)] = load_asmk_ivf(saved(tmp_path / "ivf.pkl", content), D).blocks()
    assert_same_images(images, IMAGES)


def test_an_import_is_the_index_of_the_same_images(tmp_path: Path, codebook_pickle: Path) -> None:
    """Scored as the images themselves are, those without entries among them; and the codebook lies beside."""
    path = tmp_path / "landmarks.index"
    report = import_asmk(codebook_pickle, saved(tmp_path / "ivf.pkl", ivf_of(IMAGES)), path)
    assert (report.images, report.distractors, report.entries, report.words) == (5, 0, 25, WORDS)
    assert (report.index, report.codebook) == (path, tmp_path / "landmarks.codebook.npy")
    np.testing.assert_array_equal(Codebook.load(report.codebook).centroids, CENTROIDS)
    expected = Index.create(tmp_path / "expected", fingerprint="", layout=Layout(ASMK, D))
    expected.add([str(i) for i in range(5)], [aggregated(entries) for entries in IMAGES])
    imported = Index(path)
    assert (imported.ids(), imported.layout.dimensions) == (expected.ids(), D)
    assert imported.fingerprint == fingerprint_of(Codebook(CENTROIDS)) != fingerprint_of(Codebook(CENTROIDS * 2))
    for seed in range(1, 9):
        query = aggregated(image(seed, words=20))
        np.testing.assert_array_equal(
            imported.scores(AsmkQuery(*query, TABLE)), expected.scores(AsmkQuery(*query, TABLE))
        )


def test_distractors_are_imported_under_names_of_their_own(tmp_path: Path, codebook_pickle: Path) -> None:
    report = import_asmk(codebook_pickle, saved(tmp_path / "ivf.pkl", ivf_of(IMAGES, offset=2)), tmp_path / "index")
    assert (report.images, report.distractors) == (3, 2)
    index = Index(tmp_path / "index")
    assert index.ids() == ["0", "1", "2", "distractor 0", "distractor 1"]
    best = [index.search(AsmkQuery(*aggregated(entries), TABLE), 1)[0].id for entries in (IMAGES[0], IMAGES[3])]
    assert best == ["distractor 0", "1"]


@pytest.mark.parametrize("offset", [0, None], ids=["no distractors", "asmk before distractors"])
def test_an_empty_ivf_makes_an_empty_index(tmp_path: Path, codebook_pickle: Path, offset: int | None) -> None:
    content = ivf_of([], offset=offset)
    content["state"] |= {"norm_factor": [], "n_images": 0}  # as asmk begins
    assert import_asmk(codebook_pickle, saved(tmp_path / "ivf.pkl", content), tmp_path / "index").images == 0
    assert Index(tmp_path / "index").ids() == []


def change_list(key: str, change: Callable[[Any], Any]) -> Callable[[dict], None]:
    """Changes the first list that has entries."""

    def apply(content: dict) -> None:
        state = content["state"]
        word = np.flatnonzero(state["counts"])[0]
        state[key][word] = change(state[key][word])

    return apply


def change_state(**values: Any) -> Callable[[dict], None]:
    return lambda content: content["state"].update(values)


def change_entry(number: int) -> Callable[[NDArray], NDArray]:
    return lambda ids: np.append(number, ids[1:])


def twice(content: dict) -> None:
    """Gives the first image of a list of two or more a second entry in it, in place of another image's."""
    state = content["state"]
    word = np.flatnonzero(state["counts"] > 1)[0]
    first, second = state["ivf_image_ids"][word][:2]
    state["ivf_image_ids"][word][1] = first
    state["norm_factor"][[first, second]] += [1, -1]


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda content: content.update(type="Codebook"), "not the pickle of an asmk IVF"),
        (lambda content: content.pop("params"), "it lacks params or state"),
        (lambda content: content["params"].update(use_idf=True), "built with use_idf"),
        (change_state(n_images=-1), "n_images is -1"),
        (change_state(n_images="5"), "n_images is '5'"),
        (change_state(n_images=4), "norm_factor does not fit 4 images"),
        (change_state(norm_factor=np.array([8.0, 8, 0, 7, 1])), "image 3 has 8 entries instead of 7"),
        (change_state(imid_offset=6), "6 distractors among 5 images"),
        (change_state(counts=np.zeros(WORDS)), "counts are not whole numbers"),
        (change_state(counts=np.full(WORDS, -1)), "counts are not whole numbers"),
        (change_state(counts=np.zeros(WORDS - 1, np.int32)), "not of one length"),
        (change_state(counts=np.zeros(WORDS, np.int32)), "image 0 has 0 entries instead of 8"),
        (change_state(ivf_vecs=None), "not of one length"),
        (change_state(ivf_vecs=[None] * (WORDS - 1)), "not of one length"),
        (change_list("ivf_vecs", lambda _: None), "entries but no arrays of them"),
        (change_list("ivf_image_ids", lambda _: None), "entries but no arrays of them"),
        (change_list("ivf_vecs", lambda vectors: vectors.astype(np.uint64)), "entries but no arrays of them"),
        (change_list("ivf_vecs", lambda vectors: vectors.astype(np.float32)), "built with binary: False"),
        (change_list("ivf_vecs", lambda vectors: vectors[:, :1]), "codes of 1 × 32 bits do not come from"),
        (change_list("ivf_vecs", lambda vectors: vectors[:0]), "has 0 entries instead of"),
        (change_list("ivf_image_ids", lambda ids: ids[:0]), "has 0 entries instead of"),
        (change_list("ivf_image_ids", change_entry(5)), "names an image that is none of the 5"),
        (change_list("ivf_image_ids", change_entry(-1)), "names an image that is none of the 5"),
        (change_list("ivf_vecs", lambda vectors: vectors | np.uint32(1)), "codes of more than 40 bits"),
        (twice, "twice"),
    ],
)
def test_an_ivf_that_cannot_be_is_refused_and_nothing_is_left(
    tmp_path: Path, codebook_pickle: Path, change: Callable[[dict], Any], part: str
) -> None:
    content = ivf_of(IMAGES)
    change(content)
    path = saved(tmp_path / "ivf.pkl", content)
    line = one_line(lambda: import_asmk(codebook_pickle, path, tmp_path / "landmarks.index"))
    assert line.startswith(f"{path}: ")
    assert part in line
    assert sorted(os.listdir(tmp_path)) == ["codebook.pkl", "ivf.pkl"]


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda content: content.update(type="IVF"), "not the pickle of an asmk Codebook"),
        (lambda content: content.update(params=None), "it lacks params or state"),
        (lambda content: content["state"].update(centroids=None), "not float32 [words, dimensions]"),
        (lambda content: content["state"].update(centroids=CENTROIDS.astype(float)), "not float32"),
        (lambda content: content["state"].update(centroids=CENTROIDS[0]), "not float32 [words, dimensions]"),
        (lambda content: content["state"].update(centroids=CENTROIDS * np.float32("nan")), "not all numbers"),
        (lambda content: content["state"].update(centroids=CENTROIDS[:, :0]), "not all numbers"),
        (lambda content: content["params"].update(size="64k"), "30 visual words and says 65536"),
        (lambda content: content["params"].pop("size"), "None is no codebook size"),
    ],
)
def test_a_codebook_that_cannot_be_is_refused(tmp_path: Path, change: Callable[[dict], Any], part: str) -> None:
    content = codebook_state()
    content["state"] = dict(content["state"])
    change(content)
    path = saved(tmp_path / "codebook.pkl", content)
    line = one_line(lambda: load_asmk_codebook(path))
    assert line.startswith(f"{path}: ")
    assert part in line


class Runs:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("made",)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = saved(tmp_path / "codebook.pkl", {**codebook_state(), "more": Runs()})
    assert one_line(lambda: load_asmk_codebook(path)).startswith(f"{path}: refused: it asks for")
    assert not Path("made").exists()


def test_a_codebook_of_another_size_is_refused_by_both_names(tmp_path: Path) -> None:
    content = codebook_state(size=WORDS - 1)
    content["state"] = {"centroids": CENTROIDS[1:]}
    codebook, ivf = saved(tmp_path / "codebook.pkl", content), saved(tmp_path / "ivf.pkl", ivf_of(IMAGES))
    line = one_line(lambda: import_asmk(codebook, ivf, tmp_path / "index"))
    assert str(codebook) in line
    assert str(ivf) in line


def test_what_is_there_already_stays_as_it_is(tmp_path: Path, codebook_pickle: Path) -> None:
    ivf = saved(tmp_path / "ivf.pkl", ivf_of(IMAGES))
    Codebook(CENTROIDS + 1).save(tmp_path / "landmarks.codebook.npy")
    line = one_line(lambda: import_asmk(codebook_pickle, ivf, tmp_path / "landmarks.index"))
    assert line.startswith(f"{tmp_path / 'landmarks.codebook.npy'}: another codebook is there already")
    line = one_line(lambda: import_asmk(codebook_pickle, ivf, tmp_path))
    assert line.startswith(f"{tmp_path}: is there already")
    np.testing.assert_array_equal(Codebook.load(tmp_path / "landmarks.codebook.npy").centroids, CENTROIDS + 1)


@pytest.mark.parametrize("had_codebook", [False, True])
def test_an_import_that_fails_at_the_last_step_leaves_nothing(
    tmp_path: Path, codebook_pickle: Path, monkeypatch: pytest.MonkeyPatch, had_codebook: bool
) -> None:
    ivf = saved(tmp_path / "ivf.pkl", ivf_of(IMAGES))
    if had_codebook:  # the same: from an import before
        Codebook(CENTROIDS).save(tmp_path / "landmarks.codebook.npy")
    before = sorted(os.listdir(tmp_path))

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fail)
        line = one_line(lambda: import_asmk(codebook_pickle, ivf, tmp_path / "landmarks.index"))
    assert line.endswith("No space left on device")
    assert sorted(os.listdir(tmp_path)) == before
    assert import_asmk(codebook_pickle, ivf, tmp_path / "landmarks.index").images == 5


@pytest.mark.parametrize(("size", "words"), [(7, 7), (np.int64(7), 7), ("64k", 65_536), ("1M", 1024**2)])
def test_sizes_are_read_as_asmk_reads_them(size: Any, words: int) -> None:
    assert words_of_size(size) == words


@pytest.mark.parametrize("size", [0, -1, None, 1.5, "", "k", "64", "64K", "-1k", "1.5k"])
def test_no_other_size_is_one(size: Any) -> None:
    assert "is no codebook size" in one_line(lambda: words_of_size(size))


# ------------------------------------------------------------------------------- under asmk's own names


def trained(codebook: Path) -> ASMKMethod:
    params = asmk_params(WORDS, assignments=5)
    del params["index"]  # which older users leave out
    return ASMKMethod.initialize_untrained(params).train_codebook(None, cache_path=str(codebook))


def descriptors(seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(20, D)).astype(np.float32)


def test_asmks_pickles_are_caches_that_are_left_alone(tmp_path: Path, codebook_pickle: Path) -> None:
    path = saved(tmp_path / "ivf.pkl", ivf_of(IMAGES))
    before = path.read_bytes()
    method = trained(codebook_pickle).build_ivf(None, None, cache_path=path)
    assert method.metadata["train_codebook"].keys() == {"load_time", "index_class"}
    assert method.metadata["build_ivf"].keys() == {"load_time", "ivf_stats"}
    assert path.read_bytes() == before
    query = descriptors(1)
    words = method.codebook.assign(query, 5)
    codebook, index = Codebook(CENTROIDS), Index.create(tmp_path / "expected", fingerprint="", layout=Layout(ASMK, D))
    index.add([str(i) for i in range(5)], [aggregated(entries) for entries in IMAGES])
    _, images, ranks, scores = method.query_ivf(query, np.zeros(20, int))
    expected = index.scores(AsmkQuery(*runtime.asmk.kernel.aggregate(query, words, codebook.centroids), TABLE))
    assert images.tolist() == [0]
    np.testing.assert_array_equal(scores[0], expected[ranks[0]])
    assert ranks[0].tolist() == sorted(range(5), key=lambda i: (-expected[i], i))


def test_images_added_to_a_pickle_are_saved_and_the_pickle_is_kept(tmp_path: Path, codebook_pickle: Path) -> None:
    path = saved(tmp_path / "ivf.pkl", ivf_of(IMAGES, offset=1))
    before = path.read_bytes()
    builder = trained(codebook_pickle).create_ivf_builder(cache_path=path)
    assert builder.loaded_from_cache
    # Image 1 has no entries in the pickle, as if it had never been added.
    builder.add(np.concatenate([descriptors(6), descriptors(7)]), np.repeat([1, 6], 20))
    assert path.read_bytes() == before
    grown = trained(codebook_pickle).add_ivf_builder(builder)
    assert (tmp_path / "ivf.pkl.asmk").read_bytes() == before
    loaded = trained(codebook_pickle).build_ivf(cache_path=path)
    assert loaded.metadata["build_ivf"]["ivf_stats"] == grown.metadata["build_ivf"]["ivf_stats"]
    assert loaded.inverted_file.stats["images"] == 7 + 1
    for method in (grown, loaded):
        ranks = method.query_ivf(descriptors(6), np.zeros(20, int))[2]
        assert ranks[0, 0] == 1
        assert sorted(ranks[0]) == list(range(8))
    np.testing.assert_array_equal(grown.query_ivf(descriptors(8), np.zeros(20, int))[3], scores_of(loaded, 8))


def scores_of(method: ASMKMethod, seed: int) -> NDArray[np.float64]:
    return method.query_ivf(descriptors(seed), np.zeros(20, int))[3]


def test_a_pickle_is_not_replaced_over_an_older_one(tmp_path: Path, codebook_pickle: Path) -> None:
    path = saved(tmp_path / "ivf.pkl", ivf_of(IMAGES))
    (tmp_path / "ivf.pkl.asmk").write_text("older")
    builder = trained(codebook_pickle).create_ivf_builder(cache_path=path)
    builder.add(descriptors(6), np.full(20, 9))
    before = path.read_bytes()
    assert one_line(builder.save).startswith(f"{tmp_path / 'ivf.pkl.asmk'}: is in the way")
    assert path.read_bytes() == before
    (tmp_path / "ivf.pkl.asmk").unlink()
    builder.save()
    assert Index(path).ids() == ["0", "1", "3", "4", "9"]  # image 2 is empty: it still can be added


def test_an_imported_index_is_a_cache_too(tmp_path: Path, codebook_pickle: Path) -> None:
    ivf = saved(tmp_path / "ivf.pkl", ivf_of(IMAGES, offset=2))
    import_asmk(codebook_pickle, ivf, tmp_path / "landmarks.index")
    from_pickle = trained(codebook_pickle).build_ivf(cache_path=ivf)
    from_index = trained(tmp_path / "landmarks.codebook.npy").build_ivf(cache_path=tmp_path / "landmarks.index")
    assert from_index.inverted_file.stats == from_pickle.inverted_file.stats
    np.testing.assert_array_equal(scores_of(from_index, 1), scores_of(from_pickle, 1))


@pytest.mark.parametrize("offset", [0, 2])
def test_all_images_of_a_pickle_become_distractors(tmp_path: Path, codebook_pickle: Path, offset: int) -> None:
    path = saved(tmp_path / "distractors.pkl", ivf_of(IMAGES, offset=offset))
    method = trained(codebook_pickle).build_ivf(descriptors(6), np.full(20, 3), distractors_path=path)
    _, _, ranks, scores = method.query_ivf(descriptors(6), np.zeros(20, int))
    assert ranks[0, 0] == 3
    assert sorted(ranks[0]) == list(range(4 + 5))
    alone = trained(codebook_pickle).build_ivf(cache_path=path).query_ivf(descriptors(6), np.zeros(20, int))
    by_number = dict(zip(ranks[0].tolist(), scores[0].tolist(), strict=True))
    assert [by_number[4 + i] for i in alone[2][0]] == alone[3][0].tolist()


def test_a_pickle_of_another_codebook_is_no_cache(tmp_path: Path, codebook_pickle: Path) -> None:
    content = ivf_of([])
    content["state"] |= {"counts": np.zeros(7, np.int32), "ivf_vecs": [None] * 7, "ivf_image_ids": [None] * 7}
    path = saved(tmp_path / "ivf.pkl", content)
    line = one_line(lambda: trained(codebook_pickle).build_ivf(cache_path=path))
    assert line.startswith(f"{path} has lists of 7 visual words")
