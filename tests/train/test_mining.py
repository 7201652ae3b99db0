"""Mining against a plain search, on photos whose only pixel is their descriptor."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from runtime.errors import HowlError, ImageError
from runtime.io.image import Image
from train.config import TrainingConfig
from train.data import LabelledPhotos
from train.descriptors import describe_images, describe_photos
from train.distributed import ProcessGroup
from train.mining import TrainingTuple, mine_tuples
from train.models.how import HowConfig, HowNetwork
from train.models.local_model import global_descriptor

SCENES = np.repeat(np.arange(9), [3, 1, 4, 2, 2, 1, 5, 3, 2])


def one_pixel_photos(scenes: np.ndarray = SCENES, unreadable: frozenset[int] = frozenset()) -> LabelledPhotos:
    pixels = np.random.default_rng(0).integers(0, 256, (len(scenes), 1, 1, 3), np.uint8)

    def read(index: int) -> Image:
        if index in unreadable:
            raise ImageError(f"photo {index}: empty file")
        return pixels[index]

    return LabelledPhotos([f"photo {i}" for i in range(len(scenes))], scenes, read)


def colour(images: list[Image]) -> Tensor:
    """The descriptor of a photo of one pixel."""
    vectors = torch.tensor(np.stack([image[0, 0] for image in images])).float() - 127.5
    return torch.nn.functional.normalize(vectors, dim=1)


def descriptors_of(photos: LabelledPhotos) -> list[np.ndarray]:
    return [colour([photos.read(i)])[0].numpy() for i in range(len(photos))]


def config(**changed: int) -> TrainingConfig:
    return replace(TrainingConfig("scenes", 1e-3, 1, 100, 64, 0.0, "contrastive", 0.8, negatives=5), **changed)


@pytest.fixture
def mine(alone: ProcessGroup) -> Callable[..., list[TrainingTuple]]:
    """``mine(photos, epoch=0, **config)``: the epoch's tuples."""

    def run(photos: LabelledPhotos, epoch: int = 0, **changed: int) -> list[TrainingTuple]:
        return mine_tuples(colour, photos, config(**changed), epoch, alone)  # type: ignore[arg-type]

    return run


@pytest.mark.parametrize("negatives", [1, 5, 20])
def test_negatives_are_the_hardest_of_other_scenes_one_a_scene(mine: Callable, negatives: int) -> None:
    photos = one_pixel_photos()
    vectors = descriptors_of(photos)
    tuples = mine(photos, negatives=negatives)
    assert len(tuples) == len(photos) - 2  # two scenes have a single photo
    for query, _, chosen in tuples:
        expected: list[int] = []
        scenes = [SCENES[query]]
        for i in sorted(range(len(photos)), key=lambda i: -float(vectors[query] @ vectors[i])):
            if SCENES[i] not in scenes and len(expected) < negatives:
                expected.append(i)
                scenes.append(SCENES[i])
        assert list(chosen) == expected
        assert len(chosen) == min(negatives, 8)


@pytest.mark.parametrize("nearest", [1, 2, 10])
def test_positives_are_drawn_from_the_nearest_of_the_scene(mine: Callable, nearest: int) -> None:
    photos = one_pixel_photos()
    vectors = descriptors_of(photos)
    drawn = set()
    for epoch in range(30):
        for query, positive, _ in mine(photos, epoch=epoch, nearest_positives=nearest):
            scene = [i for i in np.flatnonzero(SCENES[query] == SCENES) if i != query]
            scene.sort(key=lambda i: -float(vectors[query] @ vectors[i]))
            assert positive in scene[:nearest]
            drawn.add((query, positive))
    sizes = np.bincount(SCENES)[SCENES]
    assert len(drawn) == np.minimum(sizes - 1, nearest).sum()


def test_a_scene_with_one_photo_is_no_query_but_a_negative(mine: Callable) -> None:
    photos = one_pixel_photos()
    lonely = {i for i in range(len(photos)) if (SCENES[i] == SCENES).sum() == 1}
    tuples = mine(photos)
    assert not lonely & {t.query for t in tuples}
    assert lonely & {i for t in tuples for i in t.negatives}


def test_tuples_depend_on_seed_and_epoch_alone(mine: Callable) -> None:
    first = mine(one_pixel_photos(), tuples=8)
    assert mine(one_pixel_photos(), tuples=8) == first
    assert mine(one_pixel_photos(), tuples=8, epoch=1) != first
    assert mine(one_pixel_photos(), tuples=8, seed=1) != first


def test_as_many_queries_as_asked_for_each_once(mine: Callable) -> None:
    queries = [t.query for t in mine(one_pixel_photos(), tuples=8)]
    assert len(queries) == len(set(queries)) == 8


def test_negatives_come_from_the_pool(mine: Callable) -> None:
    tuples = mine(one_pixel_photos(), pool=4)
    assert 1 < len({i for t in tuples for i in t.negatives}) <= 4


def test_unreadable_photos_are_in_no_tuple(mine: Callable) -> None:
    unreadable = frozenset({0, 1, 9, 12})
    photos = one_pixel_photos(unreadable=unreadable)
    tuples = mine(photos)
    assert tuples
    assert not unreadable & {i for t in tuples for i in (t.query, t.positive, *t.negatives)}
    assert set(photos.unreadable) == {f"photo {i}" for i in unreadable}
    assert {t.query for t in mine(photos)} == set(photos.queries())


@pytest.mark.parametrize("scenes", [[0, 0, 0], [0, 1, 2]], ids=["one scene", "no pair"])
def test_photos_that_make_no_tuple_are_one_clear_error(mine: Callable, scenes: list[int]) -> None:
    with pytest.raises(HowlError, match="two scenes"):
        mine(one_pixel_photos(np.array(scenes)))


def test_descriptors_do_not_depend_on_what_else_is_described(
    tiny_config: HowConfig, synthetic_photos: Callable[..., LabelledPhotos], alone: ProcessGroup
) -> None:
    network = HowNetwork(tiny_config).eval()
    photos = synthetic_photos(7, 3)  # more than a batch, of two sizes
    described = describe_photos(partial(describe_images, network), photos, np.arange(21), alone, "test")
    assert sorted(described) == list(range(21))
    with torch.no_grad():
        for i, vector in described.items():
            image = torch.from_numpy(photos.read(i)).permute(2, 0, 1)[None].float()
            np.testing.assert_allclose(vector, global_descriptor(network(image))[0].numpy(), atol=1e-5)
