"""Which output of a third party's network is what, told by names that are given, or by shapes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.foreign.options import GLOBAL, LOCAL, ForeignOptions
from runtime.errors import IncompatibleError, UsageError
from runtime.first_stage import MAX_DIMENSIONS

MIN_ROWS = 4  # of a photo, from which the shapes of local features can be told


@dataclass(frozen=True)
class Outputs:
    """The outputs that become features.

    Attributes:
        descriptors: name of the output; the global descriptor, or the local ones.
        dimensions: D or G.
        positions: name of x and y in pixels; None of a global network.
        scores: name of the local descriptors' scores; None if there are none, or of a global network.
        transposed: whether local descriptors are columns, [D, K].
    """

    descriptors: str
    dimensions: int
    positions: str | None = None
    scores: str | None = None
    transposed: bool = False


def tell_outputs(path: Path, given: Mapping[str, NDArray], options: ForeignOptions) -> Outputs:
    """Tells the outputs by what the network gives for one image.

    Args:
        path: of the network.
        given: its outputs, by name.
        options: name outputs.

    Raises:
        UsageError: a name is of no output.
        IncompatibleError: an output cannot be told, or is no descriptor.
    """
    for option in ("descriptors", "positions", "scores"):
        name = getattr(options, option)
        if name is not None and name not in given:
            raise UsageError(f"--{option} {name}: {path} has no such output; it has {_shapes(given)}")
    usable = {name: value for name, value in given.items() if value.dtype.kind in "fiu"}
    return (_tell_global if options.global_ else _tell_local)(path, usable, options)


def _tell_global(path: Path, given: Mapping[str, NDArray], options: ForeignOptions) -> Outputs:
    vectors = [name for name, value in given.items() if value.size > 1 and value.size == max(value.shape)]
    if options.descriptors is not None:
        if options.descriptors not in vectors:
            raise IncompatibleError(f"{path}: '{options.descriptors}' is no global descriptor: {_shapes(given)}")
        vectors = [options.descriptors]
    if not vectors:
        raise IncompatibleError(f"{path}: gives no global descriptor, [1, G], but {_shapes(given)}; is it {LOCAL}?")
    if len(vectors) > 1:
        raise IncompatibleError(f"{path}: gives {_shapes(given)}: name the global descriptor, --descriptors NAME")
    return Outputs(vectors[0], _checked(path, given[vectors[0]].size))


def _tell_local(path: Path, given: Mapping[str, NDArray], options: ForeignOptions) -> Outputs:
    shapes = {name: _without_batch(value.shape) for name, value in given.items()}
    named = {options.descriptors, options.positions, options.scores}

    def tell(option: str, name: str | None, what: str, fits: Callable[[tuple[int, ...]], bool]) -> str | None:
        """The output that fits; None if there is none, and none is named."""
        if name is not None:
            if not fits(shapes.get(name, ())):
                raise IncompatibleError(f"{path}: '{name}' holds no {what}: {_shapes(given)}")
            return name
        found = [name for name, shape in shapes.items() if fits(shape) and name not in named]
        if len(found) > 1:
            raise IncompatibleError(
                f"{path}: {' or '.join(found)} may hold {what}, of {_shapes(given)}: name it, --{option} NAME"
            )
        named.update(found)
        return found[0] if found else None

    def needed(name: str | None, what: str) -> str:
        if name is None:
            raise IncompatibleError(f"{path}: gives no {what}, but {_shapes(given)}; is it {GLOBAL}?")
        return name

    what = "positions, [K, 2]"
    positions = needed(tell("positions", options.positions, what, lambda s: len(s) == 2 and s[1] == 2), what)
    rows = shapes[positions][0]
    if rows < MIN_ROWS:
        raise IncompatibleError(f"{path}: finds {rows} points in a photo, too few to tell; name others, --photos DIR")
    if np.abs(given[positions].astype(np.float64)).max() <= 1:
        raise IncompatibleError(f"{path}: '{positions}' lie within −1…1, and pixels are needed; export it with pixels")
    scores = tell("scores", options.scores, f"scores, [{rows}]", lambda s: s in ((rows,), (rows, 1)))
    what = f"descriptors, [{rows}, D]"
    found = needed(tell("descriptors", options.descriptors, what, lambda s: len(s) == 2 and rows in s), what)
    transposed = shapes[found][0] != rows
    return Outputs(found, _checked(path, shapes[found][0 if transposed else 1]), positions, scores, transposed)


def _checked(path: Path, dimensions: int) -> int:
    if not 1 < dimensions <= MAX_DIMENSIONS:
        raise IncompatibleError(
            f"{path}: a descriptor has {dimensions} dimensions; howl searches 2 to {MAX_DIMENSIONS}"
        )
    return dimensions


def _without_batch(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[1:] if len(shape) > 1 and shape[0] == 1 else shape


def _shapes(given: Mapping[str, NDArray]) -> str:
    return ", ".join(f"{name} {list(value.shape)}" for name, value in given.items()) or "nothing"
