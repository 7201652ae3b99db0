"""What is learned before the first step: which features are pairs, and what whitening does with them."""

from dataclasses import replace
from itertools import permutations, product
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from runtime.errors import UsageError
from train import calibration
from train.calibration import differences_between_views, in_photo, learn_whitening, sample_of_pairs
from train.config import options_for
from train.data.folder import folder_photos
from train.data.labelled import LabelledPhotos
from train.data.synthetic import render_view
from train.descriptors import batch_for
from train.distributed import ProcessGroup
from train.models.gem import GemConfig, GemNetwork
from train.models.how import HowConfig, HowNetwork
from train.models.whitening import Moments, pair_whitening

ALONE = ProcessGroup(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def network() -> HowNetwork:
    torch.manual_seed(0)
    return HowNetwork(HowConfig(backbone="efficientnet_lite0", dimensions=16)).eval()


def town(folder: Path, scenes: int, width: int, height: int) -> LabelledPhotos:
    """A photo of each of so many synthetic places."""
    for scene in range(scenes):
        cv2.imwrite(str(folder / f"{scene}.png"), render_view(2, scene, 0, width=width, height=height))
    return folder_photos(folder, {"": sorted(folder.iterdir())}, max(width, height))


@torch.no_grad()
def test_a_view_that_changes_nothing_pairs_every_feature_with_itself(
    network: HowNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = render_view(1, 0, 0, width=130, height=95)  # neither side is a multiple of the stride
    samples = network.whitening_samples(batch_for(network, [image]), 20)
    assert len(samples.features) == 20
    monkeypatch.setattr(calibration, "second_view", lambda image, random: (image, np.eye(3)))
    differences = differences_between_views(network, image, samples, 20, (0, 0))
    assert differences.shape == (20, network.backbone.channels)
    assert not differences.any()


def test_positions_are_those_of_the_photo_before_it_was_resized() -> None:
    """The corners of the pixels stay the corners: −½ and side − ½."""
    positions, batch = torch.tensor([[-0.5, -0.5], [127.5, 95.5]]), torch.zeros(1, 3, 96, 128)
    np.testing.assert_allclose(
        in_photo(positions, batch, np.zeros((100, 120, 3), np.uint8)), [[-0.5] * 2, [119.5, 99.5]]
    )


@pytest.mark.slow
def test_whitening_from_views_takes_features_of_a_point_closer_together(network: HowNetwork, tmp_path: Path) -> None:
    """Of photos that it was not learned from, and in the unit of how far random features lie apart."""
    photos = town(tmp_path, 12, width=192, height=144)
    apart = {}
    for kind in ("pca", "views"):
        learn_whitening(network, photos, ALONE, kind=kind, count=12, features=60, seed=0)
        projection = network.whitening.projection.weight.detach()[:, :, 0, 0].numpy()
        within, between = [], []
        for scene in range(4):
            image = render_view(3, scene, 0, width=192, height=144)
            with torch.no_grad():
                samples = network.whitening_samples(batch_for(network, [image]), 60)
                pairs = differences_between_views(network, image, samples, 60, (1, scene))
            features = samples.features.numpy()
            within.append(((pairs @ projection.T) ** 2).sum(axis=1))
            between.append((((features - features[::-1]) @ projection.T) ** 2).sum(axis=1))
        apart[kind] = np.concatenate(within).mean() / np.concatenate(between).mean()
    assert apart["views"] < 0.9 * apart["pca"]


def test_of_too_few_pairs_pca_takes_the_place(network: HowNetwork, tmp_path: Path) -> None:
    photos = town(tmp_path, 2, width=96, height=96)
    learned = {}
    for kind in ("pca", "views"):
        data = learn_whitening(network, photos, ALONE, kind=kind, count=2, features=60, seed=0)
        assert (data.by_pairs, data.longest_side) == (False, 96)
        learned[kind] = network.whitening.projection.weight.detach().clone()
    assert torch.equal(learned["pca"], learned["views"])


def test_whitening_from_pairs_of_photos_is_that_of_their_descriptors(tmp_path: Path) -> None:
    """Against the pairs written out (Mikolajczyk & Matas, ICCV 2007): each scene's photos, both ways."""
    torch.manual_seed(0)
    network = GemNetwork(GemConfig(backbone="efficientnet_lite0", dimensions=8)).eval()
    scenes = {str(scene): [] for scene in range(16)}
    for scene, view in product(range(16), range(5)):
        path = tmp_path / f"{scene}-{view}.png"
        cv2.imwrite(str(path), render_view(2, scene, view, width=96, height=80))
        scenes[str(scene)].append(path)
    photos = folder_photos(tmp_path, scenes, 96)
    data = learn_whitening(network, photos, ALONE, kind="pairs", count=len(photos), features=1, seed=0)
    assert data.by_pairs
    chosen = sample_of_pairs(photos, len(photos), 0)
    with torch.no_grad():
        vectors = {i: network.pooled(batch_for(network, [photos.read(i)])).flatten().numpy() for i in chosen.tolist()}
    moments, differences = Moments(network.backbone.channels), Moments(network.backbone.channels)
    moments.add(np.array(list(vectors.values())))
    for i, j in permutations(vectors, 2):
        if photos.scenes[i] == photos.scenes[j]:
            differences.add((vectors[i] - vectors[j])[None])
    _, projection = pair_whitening(moments, differences, 8)
    learned = network.whitening.projection.weight.detach()[:, :, 0, 0].double().numpy()
    np.testing.assert_allclose(
        learned.T @ learned, projection.T @ projection, rtol=1e-3, atol=1e-3 * learned.max() ** 2
    )


def test_pairs_are_drawn_two_by_two_and_no_more_than_asked(tmp_path: Path) -> None:
    photos = LabelledPhotos(list("abcdefgh"), [0, 0, 0, 1, 1, 2, 3, 3], lambda number: np.zeros((1, 1, 3), np.uint8))
    for seed in range(5):
        drawn = sample_of_pairs(photos, 4, seed)
        assert 2 <= len(drawn) <= 4
        assert all(set(photos.positives(number).tolist()) & set(drawn.tolist()) for number in drawn.tolist())
    assert sample_of_pairs(photos, 100, 0).tolist() == [0, 1, 2, 3, 4, 6, 7]


def test_a_global_descriptor_has_no_pairs_of_points() -> None:
    options = options_for("gem", "photos")
    assert options.training.whitening == "pca"
    with pytest.raises(UsageError, match="--whitening views: gem learns its whitening by pca or pairs"):
        replace(options, training=replace(options.training, whitening="views"))
