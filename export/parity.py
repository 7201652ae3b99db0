"""Proof that an exported graph computes what the network does that it was made from: PyTorch's, or a third party's."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.engine import Engine
from runtime.errors import ParityError
from runtime.features import Features, LocalFeatures
from runtime.io.image import Image


@dataclass(frozen=True)
class Tolerance:
    """How far an exported graph may be off.

    Near-ties may swap places in a top-K, and a node or neighbour that swapped changes what depends on it: local rows
    are matched by position, and a small share of them may differ.

    Attributes:
        position: pixels; positions that are computed, as those of super-features are, are off by rounding as well.
        descriptor: relative error ‖a − b‖ / ‖b‖ of a local or global descriptor that counts as equal.
        matched: share of the network's positions that the graph must give too.
        equal: share of the matched descriptors that must be equal.
    """

    descriptor: float
    matched: float
    equal: float
    position: float = 0.01


TOLERANCES = {
    "fp32": Tolerance(descriptor=1e-3, matched=0.99, equal=0.98, position=0.1),
    "fp16": Tolerance(descriptor=5e-2, matched=0.95, equal=0.95, position=2),
    "int8": Tolerance(descriptor=0.5, matched=0.8, equal=0.9, position=8),
}


@dataclass(frozen=True)
class LocalDifference:
    """The local features of the graph against the network's on one image.

    Attributes:
        height, width: of the image, in pixels.
        count: valid rows that the network gives; ``engine_count``: that the graph gives.
        matched: share of the network's positions that the graph gives too.
        equal: share of matched descriptors within the tolerance.
        median, largest: relative errors of matched descriptors.
    """

    height: int
    width: int
    count: int
    engine_count: int
    matched: float
    equal: float
    median: float
    largest: float

    def __str__(self) -> str:
        return (
            f"{self.width:>5}×{self.height:<5} {self.count:>5} descriptors  matched {self.matched:7.2%}  equal "
            f"{self.equal:7.2%}  relative error: median {self.median:.1e}, largest {self.largest:.1e}"
        )

    def exceeds(self, tolerance: Tolerance) -> bool:
        """Whether the graph is further off than it may be."""
        return self.count != self.engine_count or self.matched < tolerance.matched or self.equal < tolerance.equal


@dataclass(frozen=True)
class GlobalDifference:
    """The global descriptor of the graph, or its activations, against the network's on one image.

    Attributes:
        what: is compared.
        height, width: of the image, in pixels.
        error: relative error ‖a − b‖ / ‖b‖; infinite if one has another shape or is not finite.
        cosine: of the two.
    """

    what: str
    height: int
    width: int
    error: float
    cosine: float

    def __str__(self) -> str:
        return (
            f"{self.width:>5}×{self.height:<5} {self.what}  cosine {self.cosine:.6f}  relative error: {self.error:.1e}"
        )

    def exceeds(self, tolerance: Tolerance) -> bool:
        """Whether the graph is further off than it may be."""
        return self.error > tolerance.descriptor


Difference = LocalDifference | GlobalDifference


def check_parity(
    engine: Engine, network: Callable[[Image], Features], images: Sequence[Image], tolerance: Tolerance
) -> list[Difference]:
    """Runs both on every image, RGB uint8 [H, W, 3], and compares all that they give.

    Raises:
        IncompatibleError: the engine does not give what the network gives.
    """
    differences: list[Difference] = []
    for image in images:
        wanted, got = network(image), engine.extract(image)
        if wanted.local is not None:
            differences.append(local_difference(got.need_local(), wanted.local, image, tolerance))
        if wanted.global_descriptor is not None:
            pair = got.need_global(), wanted.global_descriptor
            differences.append(global_difference("global descriptor", *pair, image))
        if wanted.activations is not None:
            differences.append(global_difference("activations", got.need_activations(), wanted.activations, image))
    return differences


def local_difference(got: LocalFeatures, wanted: LocalFeatures, image: Image, tolerance: Tolerance) -> LocalDifference:
    """Compares the descriptors at the positions that both give."""
    pairs = match_rows(got, wanted, tolerance.position)
    a, b = got.descriptors[pairs[:, 0]], wanted.descriptors[pairs[:, 1]]
    errors = np.linalg.norm(a - b, axis=1) / np.maximum(np.linalg.norm(b, axis=1), 1e-6)
    errors = errors if len(errors) else np.array([np.inf])
    return LocalDifference(
        height=image.shape[0],
        width=image.shape[1],
        count=len(wanted),
        engine_count=len(got),
        matched=len(pairs) / max(1, len(wanted)),
        equal=float((errors <= tolerance.descriptor).mean()),
        median=float(np.median(errors)),
        largest=float(errors.max()),
    )


def global_difference(
    what: str, got: NDArray[np.float32], wanted: NDArray[np.float32], image: Image
) -> GlobalDifference:
    """Compares two global descriptors, float32 [G], or two maps, [C, h, w]."""
    height, width = image.shape[:2]
    if got.shape != wanted.shape or not np.isfinite(got).all():
        return GlobalDifference(what, height, width, error=float("inf"), cosine=float("nan"))
    lengths = [max(float(np.linalg.norm(each)), 1e-6) for each in (got, wanted)]
    error = float(np.linalg.norm(got - wanted)) / lengths[1]
    return GlobalDifference(what, height, width, error, cosine=float(np.vdot(got, wanted)) / (lengths[0] * lengths[1]))


def match_rows(a: LocalFeatures, b: LocalFeatures, pixels: float) -> NDArray[np.intp]:
    """Pairs of rows of [n] and [m] features that are one feature, at most one for every row of ``b``.

    They have the same scale and lie within ``pixels`` of each other, in x and in y. Several features may lie on one
    spot, as super-features do on a photo without parts: of those the one with the nearest descriptor is taken.
    """
    cells: dict[tuple[float, ...], list[int]] = {}
    for row, (x, y, scale) in enumerate(a.positions.tolist()):
        cells.setdefault((x // pixels, y // pixels, round(scale, 2)), []).append(row)
    pairs = []
    for row, (x, y, scale) in enumerate(b.positions.tolist()):
        around = [(x // pixels + i, y // pixels + j, round(scale, 2)) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        near = np.array([other for cell in around for other in cells.get(cell, ())], np.intp)
        near = near[(np.abs(a.positions[near, :2] - (x, y)) <= pixels).all(axis=1)]
        if len(near):
            pairs.append((near[np.linalg.norm(a.descriptors[near] - b.descriptors[row], axis=1).argmin()], row))
    return np.array(pairs, np.intp).reshape(-1, 2)


def sizes_to_check(photo: Image, features: int | None) -> list[Image]:
    """A photo as it is, turned, at an odd size, and so small that its pyramid has fewer positions than ``features``."""
    height, width = photo.shape[:2]
    odd = cv2.resize(photo, (max(33, width * 3 // 4 | 1), max(33, height * 2 // 3 | 1)), interpolation=cv2.INTER_AREA)
    side = max(33, min(80, int((features or 0) ** 0.5)))
    small = cv2.resize(photo, (side, side), interpolation=cv2.INTER_AREA)
    return [photo, np.ascontiguousarray(np.rot90(photo)), odd.astype(np.uint8), small.astype(np.uint8)]


def raise_if_unequal(differences: Sequence[Difference], tolerance: Tolerance, name: str, network: str) -> None:
    """Raises ParityError, naming the engine and its network, if any image is off by more than the tolerance."""
    wrong = [d for d in differences if d.exceeds(tolerance)]
    if wrong:
        raise ParityError(
            f"{name}: differs from {network} beyond the tolerance on {len(wrong)} of {len(differences)} "
            f"images (first: {wrong[0].width}×{wrong[0].height}); nothing was written"
        )
