"""FIRe's LIT, its loss and its start, against the paper's equations, written template by template."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from runtime.errors import UsageError
from train.data import LabelledPhotos
from train.descriptors import compared_images
from train.losses import TupleLoss
from train.models.base import ExtractionConfig
from train.models.fire import (
    FeatureSet,
    FireConfig,
    FireNetwork,
    LocalFeatureIntegration,
    map_correlation,
    matching_templates,
    super_feature_loss,
)

CHANNELS, TEMPLATES = 6, 4


@pytest.fixture
def network(tiny_backbone: str) -> FireNetwork:
    torch.manual_seed(0)
    made = FireNetwork(FireConfig(backbone=tiny_backbone, dimensions=8, templates=12, iterations=3)).eval()
    with torch.no_grad():
        for parameter in made.lit.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made


def images(height: int = 45, width: int = 60, count: int = 1) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(1)) * 255


def trained_lit(iterations: int = 3) -> LocalFeatureIntegration:
    torch.manual_seed(0)
    lit = LocalFeatureIntegration(CHANNELS, TEMPLATES, iterations)
    for parameter in lit.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return lit


def by_template(lit: LocalFeatureIntegration, positions: list[Tensor]) -> tuple[list[Tensor], list[list[float]]]:
    """Super-features and what each was gathered from, from a list of feature vectors."""
    x = [lit.norm_inputs(position) for position in positions]
    t = list(lit.templates)
    maps: list[list[float]] = []
    for _ in range(lit.iterations):
        queries = [lit.query(lit.norm_templates(each)) for each in t]
        shares = []
        for each in x:
            scores = torch.stack([(lit.key(each) @ q) / CHANNELS**0.5 for q in queries]).exp()
            shares.append((scores / scores.sum() + 1e-8).tolist())  # of the templates, at this position
        maps = [[share[n] / sum(other[n] for other in shares) for share in shares] for n in range(TEMPLATES)]
        for n in range(TEMPLATES):
            seen = t[n] + sum(part * lit.value(each) for part, each in zip(maps[n], x, strict=True))
            t[n] = seen + lit.mlp(lit.norm_mlp(seen))
    return t, maps


@torch.no_grad()
def test_super_features_are_what_templates_gather() -> None:
    lit = trained_lit()
    features = torch.rand(2, CHANNELS, 3, 4, generator=torch.Generator().manual_seed(0)) * 2
    got, maps = lit(features, torch.ones(3, 4, dtype=torch.bool))
    for image in range(2):
        wanted, shares = by_template(lit, list(features[image].flatten(1).T))
        torch.testing.assert_close(got[image], torch.stack(wanted))
        torch.testing.assert_close(maps[image].flatten(1), torch.tensor(shares))


@torch.no_grad()
def test_positions_that_may_not_be_seen_take_no_part() -> None:
    lit = trained_lit()
    features = torch.rand(1, CHANNELS, 3, 4, generator=torch.Generator().manual_seed(0)) * 2
    may_be_seen = torch.tensor([[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 0, 0]], dtype=torch.bool)
    got, maps = lit(features, may_be_seen)
    wanted, _ = by_template(lit, list(features[0, :, may_be_seen].T))
    torch.testing.assert_close(got[0], torch.stack(wanted))
    assert not maps[0, :, ~may_be_seen].any()


def test_the_border_is_not_looked_at_unless_it_is_asked_for(network: FireNetwork) -> None:
    assert not network.super_features(images()).maps[0, :, 0].any()
    bordered = FireNetwork(FireConfig(**{**vars(network.config), "border": True})).eval()
    bordered.load_state_dict(network.state_dict())
    assert bordered.super_features(images()).maps[0, :, 0].any()


@torch.no_grad()
def test_the_extractor_gives_the_strongest_of_all_levels_where_their_maps_lie(network: FireNetwork) -> None:
    extraction = ExtractionConfig(image_size=64, scales=(1.0, 0.5), features=15)
    image = images()[0].permute(1, 2, 0).byte()
    descriptors, strengths, positions, count = network.extractor(extraction)(image)
    found = []
    for scale, height, width in ((1.0, 45, 60), (0.5, 22, 30)):
        resized = F.interpolate(image.permute(2, 0, 1)[None].float(), size=(height, width), mode="bilinear")
        features, maps = network.super_features(resized)
        for t, shares in zip(features[0], maps[0], strict=True):
            x = sum(float(shares[:, j].sum()) * ((4 * j + 0.5) * 60 / width - 0.5) for j in range(shares.shape[1]))
            y = sum(float(shares[i].sum()) * ((4 * i + 0.5) * 45 / height - 0.5) for i in range(shares.shape[0]))
            found.append((float(t.norm()), [x, y, scale], network.whitening(t[None, :, None, None]).flatten()))
    strongest = sorted(found, key=lambda each: each[0], reverse=True)[:15]
    assert int(count) == 15
    torch.testing.assert_close(strengths, torch.tensor([each[0] / strongest[0][0] for each in strongest]))
    torch.testing.assert_close(positions, torch.tensor([each[1] for each in strongest]), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(descriptors, torch.stack([each[2] for each in strongest]))


@torch.no_grad()
def test_a_photo_has_no_more_features_than_templates_at_all_levels(network: FireNetwork) -> None:
    extractor = network.extractor(ExtractionConfig(image_size=64, scales=(1.0, 0.5), features=50))
    descriptors, *_, count = extractor(images()[0].permute(1, 2, 0).byte())
    assert int(count) == 24
    assert not descriptors[24:].any()
    with pytest.raises(UsageError, match="fire needs a number of local features"):
        network.extractor(ExtractionConfig(features=None))


def unit(*rows: list[float]) -> Tensor:
    return F.normalize(torch.tensor(rows, dtype=torch.float32), dim=1)


def test_only_reciprocal_neighbours_of_one_template_that_pass_the_ratio_test_match() -> None:
    query = unit([1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0])
    same = matching_templates(query, query)
    assert same.tolist() == [0, 1, 2, 3]
    swapped = query[[1, 0, 2, 3]]  # the nearest of 0 and 1 are other templates
    assert matching_templates(query, swapped).tolist() == [2, 3]
    one_sided = unit([1, 0.1, 0], [1, 0.2, 0], [0, 0, 1], [-1, 1, 0])  # 0 is nearest to 1's query, too
    found = matching_templates(unit([1, 0, 0], [1, 0.12, 0], [0, 0, 1], [-1, 1, 0.5]), one_sided)
    assert 1 not in found.tolist()


@pytest.mark.parametrize(("near", "matches"), [(0.5, True), (0.95, False)])
def test_the_ratio_is_one_of_distances(near: float, matches: bool) -> None:
    """Template 0's match lies at an angle of ``near`` times that of the second nearest."""
    angle = torch.tensor([0.0, near * 0.1, -0.1])  # of the query, its match and the other
    on_circle = torch.stack((angle.cos(), angle.sin()), dim=1)
    query = torch.stack((on_circle[0], torch.tensor([0.0, -1.0])))
    positive = torch.stack((on_circle[1], on_circle[2]))
    assert (0 in matching_templates(query, positive).tolist()) == matches


def a_set(seed: int, height: int = 2, width: int = 3) -> FeatureSet:
    random = torch.Generator().manual_seed(seed)
    return FeatureSet(
        torch.randn(TEMPLATES, CHANNELS, generator=random), torch.rand(TEMPLATES, height, width, generator=random)
    )


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a.flatten() @ b.flatten() / a.norm() / b.norm())


def test_the_correlation_is_the_mean_cosine_of_two_maps() -> None:
    maps = a_set(0).maps
    pairs = [cosine(maps[i], maps[j]) for i in range(TEMPLATES) for j in range(TEMPLATES) if i != j]
    assert float(map_correlation(maps)) == pytest.approx(sum(pairs) / len(pairs))
    assert float(map_correlation(maps[:1])) == 0


def test_the_loss_is_the_formula() -> None:
    query, negatives = a_set(0), [a_set(2, 3, 3), a_set(3)]
    positive = FeatureSet(query.features + 0.3 * a_set(1).features, a_set(1).maps)
    q, p, *n = (F.normalize(each.features, dim=1) for each in (query, positive, *negatives))
    kept = matching_templates(q, p).tolist()
    assert len(kept) >= 2
    wanted = 0.0
    for i in kept:
        wanted += 0.02 * 0.5 * float((q[i] - p[i]).norm()) ** 2
        wanted += 0.02 * sum(0.5 * max(0.0, 1.1 - float((q[i] - other[i]).norm())) ** 2 for other in n)
    wanted += 0.1 * sum(float(map_correlation(each.maps)) for each in (query, positive, *negatives))
    assert float(super_feature_loss([query, positive, *negatives], 1.1)) == pytest.approx(wanted, rel=1e-4)


def test_without_a_match_the_loss_has_a_gradient_all_the_same() -> None:
    query = a_set(0)
    maps = query.maps.requires_grad_()
    opposite = FeatureSet(-query.features[[1, 0, 3, 2]], a_set(1).maps)
    super_feature_loss([FeatureSet(query.features, maps), opposite, a_set(2)], 1.1).backward()
    assert maps.grad is not None
    assert maps.grad.isfinite().all()


def test_a_new_lit_gathers_means_of_what_the_photo_shows() -> None:
    """A step adds the mean of the positions, weighted by their likeness to the template, which itself counts little."""
    torch.manual_seed(0)
    lit = LocalFeatureIntegration(CHANNELS, TEMPLATES, iterations=1)
    features = torch.rand(1, CHANNELS, 3, 4) * 2
    gathered, maps = lit(features, torch.ones(3, 4, dtype=torch.bool))
    x = F.layer_norm(features[0].flatten(1).T, (CHANNELS,))
    wanted = torch.stack([(shares.flatten()[:, None] * x).sum(dim=0) for shares in maps[0]])
    torch.testing.assert_close(gathered[0] - lit.templates, wanted)
    assert (wanted.norm(dim=1) > 5 * lit.templates.norm(dim=1)).all()


def test_what_the_loss_compares_is_that_of_each_photo_in_order(
    network: FireNetwork, synthetic_photos: Callable[..., LabelledPhotos]
) -> None:
    photos = synthetic_photos(2, 3)
    of_all = compared_images(network, [photos.load(i) for i in range(6)])
    for i, of_one in enumerate(of_all):
        (alone,) = compared_images(network, [photos.load(i)])
        torch.testing.assert_close(of_one, alone)


def test_steps_lower_the_loss(tiny_backbone: str, photo_of: Callable) -> None:
    torch.manual_seed(0)
    network = FireNetwork(FireConfig(backbone=tiny_backbone, dimensions=8, templates=6)).eval()
    tuple_ = [photo_of(0, 0), photo_of(0, 1), photo_of(1, 0), photo_of(2, 0)]
    loss = TupleLoss(network, "super-feature", network.margin)
    optimiser = torch.optim.Adam(network.lit.parameters(), lr=3e-3)
    before = float(loss(tuple_).detach())
    for _ in range(10):
        optimiser.zero_grad()
        loss(tuple_).backward()
        optimiser.step()
    assert float(loss(tuple_).detach()) < 0.9 * before


def test_lit_learns_faster_than_the_backbone(network: FireNetwork) -> None:
    groups = network.parameter_groups(10.0)
    assert [group["factor"] for group in groups] == [1.0, 10.0]
    learned = {id(p) for p in network.parameters() if p.requires_grad}
    assert learned == {id(p) for group in groups for p in group["params"]}
