"""Regional aggregation: the grid against that of networks, and the sums against their definition."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from runtime import IncompatibleError, Retriever, UsageError
from runtime.asmk.codebook import Codebook
from runtime.asmk.codes import pack_signs
from runtime.asmk.kernel import AsmkKernel, AsmkParameters
from runtime.asmk.regions import aggregate_regions, region_boxes
from runtime.features import Features, LocalFeatures
from train.models.regions import region_maxima

D, WORDS, N = 8, 12, 60


def features(width: int, height: int) -> Features:
    random = np.random.default_rng(0)
    positions = np.column_stack(
        [random.uniform(-0.4, width - 0.6, N), random.uniform(-0.4, height - 0.6, N), np.ones(N)]
    )
    descriptors = random.normal(size=(N, D)).astype(np.float32)
    local = LocalFeatures(descriptors, np.linspace(1, 0.1, N, dtype=np.float32), positions.astype(np.float32))
    return Features(local, size=(width, height))


@pytest.fixture
def kernel() -> AsmkKernel:
    centroids = np.random.default_rng(1).normal(size=(WORDS, D)).astype(np.float32)
    return AsmkKernel(Codebook(centroids), AsmkParameters())


@pytest.mark.parametrize(("width", "height"), [(8, 8), (12, 9), (9, 12), (16, 5), (5, 16), (17, 4), (3, 2), (1, 3)])
def test_the_grid_is_that_of_networks(width: int, height: int) -> None:
    """A channel for each position, which is 1 there alone: the maximum of a region says whether it holds it."""
    planes = torch.eye(height * width).reshape(1, -1, height, width)
    maxima, exists = region_maxima(planes, 3)
    expected = maxima[0, :, exists > 0].T.reshape(-1, height, width).numpy()
    boxes = region_boxes(width, height, 3)
    found = np.zeros((len(boxes), height, width))
    for region, (left, top, right, bottom) in zip(found, boxes.tolist(), strict=True):
        region[top:bottom, left:right] = 1
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("levels", [1, 3])
@pytest.mark.parametrize(("width", "height"), [(400, 300), (300, 800)])
def test_regions_are_normalised_and_then_summed(kernel: AsmkKernel, width: int, height: int, levels: int) -> None:
    """V[w] = Σ_r V_r[w] / ‖V_r‖, word by word and region by region."""
    given = features(width, height)
    local, centroids = given.need_local(), kernel.codebook.centroids
    words = kernel.codebook.assign(local.descriptors, 1)[:, 0]
    total = np.zeros((WORDS, D))
    for left, top, right, bottom in region_boxes(width, height, levels).tolist():
        of_region = np.zeros((WORDS, D))
        for descriptor, word, (x, y, _) in zip(local.descriptors, words, local.positions, strict=True):
            if left - 0.5 <= x < right - 0.5 and top - 0.5 <= y < bottom - 0.5:
                of_region[word] += descriptor - centroids[word]
        if of_region.any():
            total += of_region / np.sqrt(np.square(of_region).sum())
    found = kernel.for_regions(levels).encode_database(given)
    plain = kernel.encode_database(given)
    np.testing.assert_array_equal(found.words, np.unique(words))
    np.testing.assert_array_equal(found.codes, pack_signs(total[found.words].astype(np.float32)))
    np.testing.assert_array_equal(found.words, plain.words)
    np.testing.assert_array_equal(found.geometry, plain.geometry)
    assert (found.codes != plain.codes).any(), "regions change bits"


def test_the_whole_image_alone_is_asmk(kernel: AsmkKernel) -> None:
    given = features(400, 300)
    local, centroids = given.need_local(), kernel.codebook.centroids
    words = kernel.codebook.assign(local.descriptors, 1)[:, 0]
    found = aggregate_regions(local.descriptors, words, centroids, local.positions, np.array([[0, 0, 400, 300]]))
    np.testing.assert_array_equal(found.codes, kernel.encode_database(given).codes)


def test_queries_have_no_regions_and_an_empty_photo_no_words(kernel: AsmkKernel) -> None:
    given, regional = features(400, 300), kernel.for_regions(3)
    np.testing.assert_array_equal(regional.encode_query(given).codes, kernel.encode_query(given).codes)
    nothing = replace(given, local=LocalFeatures(*(np.empty((0, n), np.float32) for n in (D, 1, 3))))
    encoded = regional.encode_database(nothing)
    assert len(encoded.words) == len(encoded.codes) == 0
    with pytest.raises(IncompatibleError, match="size of the image was not kept"):
        regional.encode_database(replace(given, size=None))
    with pytest.raises(UsageError, match="regions 99: a grid has 1 to 8 levels"):
        kernel.for_regions(99)


def test_an_index_keeps_to_its_regions(engine: Path, photos: list[str], tmp_path: Path) -> None:
    """Whoever adds to it later, and without being told again."""
    at_once, in_turn = tmp_path / "at_once", tmp_path / "in_turn"
    with Retriever(engine, at_once, regions=2, device="cpu") as retriever:
        retriever.add(photos)
    with Retriever(engine, in_turn, regions=2, device="cpu") as retriever:
        retriever.add(photos[:3])
    with Retriever(engine, in_turn, device="cpu") as retriever:
        retriever.add(photos[3:])
        found = retriever.search(photos[0])
        assert retriever.index is not None
        assert retriever.index.layout.regions == 2
    with Retriever(engine, at_once, device="cpu") as retriever:
        assert retriever.search(photos[0]) == found
    with Retriever(engine, tmp_path / "plain", device="cpu") as retriever:
        retriever.add(photos)
        assert [hit.score for hit in retriever.search(photos[0])] != [hit.score for hit in found]
    for asked in (0, 3):
        with pytest.raises(
            IncompatibleError, match=f"{in_turn}: aggregates its photos by 2 levels of regions, not {asked}"
        ):
            Retriever(engine, in_turn, regions=asked, device="cpu")


def test_who_loses_the_race_for_making_the_index_mixes_nothing_into_it(
    engine: Path, photos: list[str], tmp_path: Path
) -> None:
    with (
        Retriever(engine, tmp_path / "x", regions=2, device="cpu") as loser,
        Retriever(engine, tmp_path / "x", device="cpu") as winner,
    ):
        encode = loser.encoder.first_stage.encode_database

        def while_another_makes_it(features: Features) -> object:
            winner.add(photos[:1], existing="skip")
            return encode(features)

        loser.encoder.first_stage.encode_database = while_another_makes_it  # type: ignore[method-assign]
        with pytest.raises(IncompatibleError, match="aggregates its photos by 0 levels of regions, not 2"):
            loser.add(photos[1:3])
        assert winner.ids() == photos[:1]


def test_global_descriptors_have_no_regions(global_engine: Path) -> None:
    with pytest.raises(UsageError, match="regions 3: local descriptors are aggregated by regions"):
        Retriever(global_engine, regions=3, device="cpu")
