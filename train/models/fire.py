"""FIRe (Weinzaepfel, Lucas, Larlus, Kalantidis, ICLR 2022): super-features for image retrieval.

backbone → LIT: N super-features → strength (norm) → whitening → ASMK. A super-feature is no position of a map but a
soft part of the photo, which a learned template looks for. Template n looks for the same kind of part in all photos,
so that the loss can compare the n-th super-features of two photos, without labels of parts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from train.losses import contrastive_loss
from train.models.base import ExtractionConfig, FeatureMap, WhiteningSamples, at_least, at_most
from train.models.extractor import Level, LocalExtractor, cell_pixels, resize
from train.models.local_model import LocalConfig, LocalModel, attention, global_descriptor
from train.models.whitening import Whitening

MAX_TEMPLATES, MAX_ITERATIONS = 1024, 32  # far beyond the paper's 256 and 6
MIN_SHARE = 1e-8  # of a position in a template's map: no map is empty
RATIO = 0.9  # of the distances to the nearest and the second nearest, at most
SUPER_FEATURE_WEIGHT, DECORRELATION_WEIGHT = 0.02, 0.1

START_LENGTH = 0.01  # of a new template's numbers: what a super-feature is made of comes from the photo


class FeatureSet(NamedTuple):
    """Local features that lie on no grid: [B, N, C], and the map of what each was made of: [B, N, h, w], ≥ 0.

    A single photo's come without B.
    """

    features: Tensor
    maps: Tensor


@dataclass(frozen=True)
class FireConfig(LocalConfig):
    """FIRe's network.

    Attributes:
        templates: N, super-features of a photo at one scale.
        iterations: T, in which a template gathers its super-feature.

    Raises:
        UsageError: a value is out of range.
    """

    templates: int = 256
    iterations: int = 6

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, templates=self.templates, iterations=self.iterations)
        at_most(MAX_TEMPLATES, templates=self.templates)
        at_most(MAX_ITERATIONS, iterations=self.iterations)


class LocalFeatureIntegration(nn.Module):
    """LIT, the local feature integration transformer (§3.1): N templates share the positions of a map among them.

        x = LN(features)    k = W_k·x    v = W_v·x    t⁰ = the templates
        T times, with the same weights:
            a = softmax over the templates of kᵀ·W_q·LN(t) / √C, then each template's a scaled to a sum of 1
            t = t + Σ a·v over the positions,   t = t + MLP(LN(t))

    N and T are constants, so that it can be traced.

    The authors start from a LIT that has learned to classify ImageNet. A new one here starts with W = I, an MLP that
    adds nothing, and short templates of random directions: each gathers the positions that are more like it than like
    other templates, and a super-feature is their mean. That finds photos before any training (docs/systems.md).

    Attributes:
        templates: t⁰, [N, C].
    """

    def __init__(self, channels: int, templates: int, iterations: int) -> None:
        super().__init__()
        self.iterations = iterations
        self.templates = nn.Parameter(START_LENGTH * torch.randn(templates, channels))
        self.query, self.key, self.value = (nn.Linear(channels, channels, bias=False) for _ in range(3))
        self.norm_inputs, self.norm_templates, self.norm_mlp = (nn.LayerNorm(channels) for _ in range(3))
        hidden = max(1, channels // 2)
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))
        for projection in (self.query, self.key, self.value):
            nn.init.eye_(projection.weight)
        for parameter in self.mlp[2].parameters():  # it adds nothing yet
            nn.init.zeros_(parameter)

    def forward(self, features: Tensor, may_be_seen: Tensor) -> tuple[Tensor, Tensor]:
        """A map → its super-features.

        Args:
            features: [B, C, h, w].
            may_be_seen: bool [h, w], the positions that count.

        Returns:
            super-features [B, N, C], and what each was gathered from in the last iteration: [B, N, h, w], each map with
            a sum of 1.
        """
        x = self.norm_inputs(features.flatten(2).transpose(1, 2))  # [B, h·w, C]
        keys, values = self.key(x), self.value(x)
        seen = may_be_seen.flatten().unsqueeze(1)
        t = self.templates.expand(features.shape[0], -1, -1)
        for _ in range(self.iterations):
            queries = self.query(self.norm_templates(t)) * t.shape[2] ** -0.5
            shares = ((keys @ queries.transpose(1, 2)).softmax(dim=2) + MIN_SHARE) * seen  # [B, h·w, N]
            maps = (shares / shares.sum(dim=1, keepdim=True)).transpose(1, 2)
            t = t + maps @ values
            t = t + self.mlp(self.norm_mlp(t))
        return t, maps.unflatten(2, features.shape[2:])


def super_feature_loss(photos: Sequence[tuple[Tensor, ...]], margin: float) -> Tensor:
    """0.02·Σ contrastive loss of the super-features that match + 0.1·Σ correlation of each photo's maps (§3.2).

    Args:
        photos: ``FeatureSet`` of a query, of a photo of the same place, and of others of other places.
        margin: of the contrastive loss, on L2-normalised super-features.

    Returns:
        a scalar.
    """
    sets = [FeatureSet(*photo) for photo in photos]
    q, p, *n = (F.normalize(each.features, dim=1) for each in sets)
    kept = matching_templates(q, p)
    contrastive = contrastive_loss(q[kept], p[kept], torch.stack(n)[:, kept], margin)
    correlation = torch.stack([map_correlation(each.maps) for each in sets])
    return SUPER_FEATURE_WEIGHT * contrastive + DECORRELATION_WEIGHT * correlation.sum()


@torch.no_grad()
def matching_templates(query: Tensor, positive: Tensor) -> Tensor:
    """The templates whose super-features match in two photos of a place (§3.2): their numbers, int64 [k].

    The two are each other's nearest, and the second nearest to the query's is further away by the ratio test. The
    authors' code divides by the number of the second nearest instead of by its distance (docs/systems.md).

    Args:
        query: L2-normalised [N, C].
        positive: likewise, in the same order of templates.
    """
    distances = torch.cdist(query, positive)
    itself = torch.arange(len(query), device=query.device)
    reciprocal = (distances.argmin(dim=1) == itself) & (distances.argmin(dim=0) == itself)
    others = distances.clone().fill_diagonal_(torch.inf).amin(dim=1)
    return (reciprocal & (distances.diagonal() <= RATIO * others)).nonzero().flatten()


def map_correlation(maps: Tensor) -> Tensor:
    """The mean cosine of two different maps of a photo, a scalar; maps ≥ 0, [N, h, w].

    Σ_ij cos(m_i, m_j) is the squared norm of the sum of the maps' unit vectors.
    """
    units = F.normalize(maps.flatten(1), dim=1)
    n = len(maps)
    return (units.sum(dim=0).square().sum() - units.square().sum()) / max(1, n * (n - 1))


class FireNetwork(LocalModel):
    """One image at one scale → its super-features."""

    system = "fire"
    summary = "super-features for ASMK"
    Config = FireConfig
    losses = ("super-feature",)
    own_losses: ClassVar = {"super-feature": super_feature_loss}
    whitenings = ("pca",)  # of a photo and its second view, no two super-features are of the very same point
    margin = 1.1
    parts: ClassVar = {
        "backbone": ("backbone",),
        "lit": ("templates",),
        "whitening": ("dimensions", "templates"),  # it knows these templates' super-features only
    }
    config: FireConfig

    def __init__(self, config: FireConfig) -> None:
        super().__init__(config)
        channels = self.backbone.channels
        self.lit = LocalFeatureIntegration(channels, config.templates, config.iterations)
        self.whitening = Whitening(channels, config.dimensions)

    def super_features(self, images: Tensor) -> FeatureSet:
        """RGB images [B, 3, H, W], float in 0…255 → super-features [B, N, C] and their maps [B, N, h, w]."""
        features = self.backbone(images)
        return FeatureSet(*self.lit(features, self.eligible(features[:, 0], images)))

    def forward(self, images: Tensor) -> tuple[FeatureMap, Tensor]:
        """RGB images [B, 3, H, W], float in 0…255 → descriptors [B, D, N, 1] and strengths [B, N, 1], and the maps.

        The strength is the norm of a super-feature before it is whitened (§3.3).
        """
        features, maps = self.super_features(images)
        on_line = features.transpose(1, 2).unsqueeze(3)
        return FeatureMap(self.whitening(on_line), attention(on_line)), maps

    def describe(self, images: Tensor) -> Tensor:
        return global_descriptor(self(images)[0])

    def compared(self, images: Tensor) -> FeatureSet:
        return self.super_features(images)

    def whitening_samples(self, image: Tensor, most: int) -> WhiteningSamples:
        """The strongest super-features."""
        features = self.super_features(image).features[0]
        strongest = features.norm(dim=1).topk(min(most, len(features))).indices
        return WhiteningSamples(features[strongest], None)

    def parameter_groups(self, new_module_factor: float) -> list[dict[str, Any]]:
        return [
            {"params": list(self.backbone.parameters()), "factor": 1.0},
            {"params": list(self.lit.parameters()), "factor": new_module_factor},
        ]

    def extractor(self, extraction: ExtractionConfig) -> "SuperFeatureExtractor":
        return SuperFeatureExtractor(self, extraction.scales, self.number_of_features(extraction))


class SuperFeatureExtractor(LocalExtractor):
    """RGB image → the K strongest of the N super-features of every level."""

    network: FireNetwork

    def level(self, pixels: Tensor, scale: Fraction) -> Level:
        """The position of a super-feature is the centre of mass of its map: it has no other, and may have two parts."""
        resized = resize(pixels, scale, self.network.backbone.alignment)
        local, maps = self.network(resized)
        y, x = cell_pixels(maps, resized, pixels, self.network.backbone)
        centre = torch.stack((maps[0].sum(dim=1) @ x, maps[0].sum(dim=2) @ y), dim=1)
        return Level(
            local.descriptors[0, :, :, 0].T,
            local.strengths[0, :, 0],
            F.pad(centre, (0, 1), value=float(scale)),
        )
