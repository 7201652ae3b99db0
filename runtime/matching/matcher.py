"""A detector of keypoints and a matcher of them, each an ONNX graph that ``howl matcher`` writes.

matcher.onnx             LightGlue (Lindenberger et al., ICCV 2023): the keypoints of two photos → which are the same
matcher.keypoints.onnx   its detector: a photo → its keypoints
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.engine.onnxruntime import OnnxSession
from runtime.errors import IncompatibleError, MissingError
from runtime.io.decoding import MAX_PIXELS
from runtime.io.image import Image, PhotoInput, decode, resize, stored_orientation, to_original_pixels
from runtime.matching.keypoints import Keypoints

DEFAULT = "matcher.onnx"  # beside the engine, or in the current folder
NAME, FINGERPRINT, MULTIPLE, IMAGE_SIZE = "howl.matcher", "howl.fingerprint", "howl.multiple", "howl.image_size"
IMAGE = "image"
KEYPOINTS = ("positions", "scores", "descriptors")
SIDE_INPUTS = ("positions", "descriptors", "size")  # of each of two photos, numbered 0 and 1
PAIR_INPUTS = tuple(f"{name}{side}" for side in (0, 1) for name in SIDE_INPUTS)
PAIR_OUTPUTS = ("matches", "confidences")
MIN_SIDE = 64  # pixels: no fewer than the keypoints that a detector gives
EXPORT_AGAIN = "make it again with howl matcher"


@dataclass(frozen=True)
class MatcherFiles:
    """The two files of a matcher. They share a folder and a name.

    Attributes:
        matcher: of LightGlue.
    """

    matcher: Path

    @property
    def keypoints(self) -> Path:
        """Of the detector."""
        return self.matcher.with_name(f"{self.matcher.stem}.keypoints.onnx")


class Matcher:
    """Finds the keypoints of photos, and which of them two photos share. Any thread may use it.

    Attributes:
        path: of matcher.onnx.
        name: of the networks, for people.
        fingerprint: of the detector: keypoints of one fingerprint can be matched with each other.
        image_size: longest side, in pixels, at which keypoints are looked for.
    """

    def __init__(
        self, path: Path, *, device: str | None = None, threads: int | None = None, max_pixels: int = MAX_PIXELS
    ) -> None:
        """Loads both graphs.

        Args:
            path: of matcher.onnx; the detector lies beside it.
            device: ``cpu``, ``cuda``, or None for CUDA if both ONNX Runtime and the machine have it.
            threads: CPU threads that share the work of a photo or a pair; None for one per core.
            max_pixels: of a photo; one with more is refused before it is decoded.

        Raises:
            HowlError: a file is missing or damaged, or they are not a matcher and its detector.
        """
        files = MatcherFiles(path)
        if not path.exists():
            raise MissingError(f"{path}: no matcher here; make one with howl matcher --out {path}")
        if not path.is_file() or not files.keypoints.is_file():
            what = "a folder" if path.is_dir() else f"no matcher: there is no {files.keypoints.name} beside it"
            raise IncompatibleError(f"{path}: {what}; name the {DEFAULT} that howl matcher wrote")
        self.path = path
        self._detector = OnnxSession(files.keypoints, device, threads)
        self._pairs = OnnxSession(files.matcher, device, threads)
        _check(self._detector, (IMAGE,), KEYPOINTS)
        _check(self._pairs, PAIR_INPUTS, PAIR_OUTPUTS)
        about = self._detector.metadata
        self.name, self.fingerprint = about[NAME], about[FINGERPRINT]
        if self._pairs.metadata[FINGERPRINT] != self.fingerprint:
            raise IncompatibleError(
                f"{files.matcher}: belongs to another detector than {files.keypoints}; {EXPORT_AGAIN}"
            )
        self.image_size, self._multiple = int(about[IMAGE_SIZE]), int(about[MULTIPLE])
        self._max_pixels = max_pixels

    def detect(self, photo: PhotoInput) -> Keypoints:
        """The keypoints of a photo. Raises ImageError if it cannot be read."""
        bgr = decode(photo, max_pixels=self._max_pixels)
        height, width = bgr.shape[:2]
        image = self._resized(bgr)
        found = self._detector.run(KEYPOINTS, {IMAGE: np.ascontiguousarray(image[:, :, ::-1])})
        is_found = found["scores"] > 0  # the rest fills up to the number that the graph gives
        x = to_original_pixels(found["positions"][is_found, 0], width, image.shape[1])
        y = to_original_pixels(found["positions"][is_found, 1], height, image.shape[0])
        positions, orientation = np.stack([x, y], axis=1), stored_orientation(photo)
        return Keypoints(positions, found["descriptors"][is_found], (width, height), orientation)

    def match(self, first: Keypoints, second: Keypoints) -> NDArray[np.int64]:
        """Which keypoints are the same points: int64 [m, 2], rows of the first and of the second, each once at most."""
        if not len(first) or not len(second):
            return np.empty((0, 2), np.int64)
        sides = [(side.positions, side.descriptors, np.array(side.size, np.float32)) for side in (first, second)]
        inputs = dict(zip(PAIR_INPUTS, [value for side in sides for value in side], strict=True))
        matches = self._pairs.run(PAIR_OUTPUTS, inputs)["matches"].astype(np.int64)
        rows = np.flatnonzero(matches >= 0)
        return np.stack([rows, matches[rows]], axis=1)

    def _resized(self, bgr: Image) -> Image:
        """The image with sides that the detector takes, at most ``image_size``, if a photo is not far too narrow."""
        height, width = bgr.shape[:2]
        factor = min(1, self.image_size / max(height, width))
        step = self._multiple
        sides = (max(-(-MIN_SIDE // step) * step, round(side * factor / step) * step) for side in (width, height))
        return resize(bgr, (next(sides), next(sides)))


def _check(session: OnnxSession, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
    """Raises IncompatibleError if a graph is not one that ``howl matcher`` writes."""
    named = all(key in session.metadata for key in (NAME, FINGERPRINT, MULTIPLE, IMAGE_SIZE))
    if not named or set(session.inputs) != set(inputs) or set(session.outputs) != set(outputs):
        raise IncompatibleError(f"{session.path}: not a graph of a matcher; {EXPORT_AGAIN}")
