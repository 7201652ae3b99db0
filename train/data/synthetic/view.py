"""A view: a place, who passes by, a camera and the weather become pixels."""

from collections.abc import Iterable, Sequence

import numpy as np

from train.data.synthetic.camera import Camera, photographer
from train.data.synthetic.film import develop
from train.data.synthetic.painting import paint
from train.data.synthetic.panel import Panel
from train.data.synthetic.place import Place, place_of
from train.data.synthetic.place.street import passers_by
from train.data.synthetic.sheet import Texture, shrunk
from train.data.synthetic.weather import sky, weather_over

MIN_SIDE = 32
SUPERSAMPLING = 2


def render_view(seed: int, scene: int, view: int, *, width: int = 320, height: int = 240) -> Texture:
    """Renders photo number ``view`` of place number ``scene`` in the world ``seed``.

    The three numbers determine the picture; ``width`` and ``height`` only set how finely it is sampled and how far
    it reaches. The first view of a place takes several times longer than the next: its textures are drawn, and kept
    for a while.

    Args:
        seed: of the world, ≥ 0.
        scene: number of the place, ≥ 0.
        view: number of the photo, ≥ 0.
        width: of the picture in pixels, ≥ 32.
        height: of the picture in pixels, ≥ 32.

    Returns:
        uint8 [height, width, 3], RGB.

    Raises:
        ValueError: ``width`` or ``height`` is below 32, or one of the three numbers is negative.
    """
    if min(width, height) < MIN_SIDE:
        raise ValueError(f"a view of {width}×{height} pixels is too small: both sides need {MIN_SIDE}")
    place = place_of(seed, scene)
    # The leading 1 keeps views apart from places (0): seeds that differ only by trailing zeros are equal to NumPy.
    rng = np.random.default_rng([1, seed, scene, view])
    camera = photographer(rng, place.width, place.height, width * SUPERSAMPLING, height * SUPERSAMPLING)
    weather = weather_over(rng, place.width, place.height)
    canvas = sky(rng, weather.hour, camera.width, camera.height)
    for panel in _back_to_front(place, passers_by(rng, place.width, camera.eye), camera):
        paint(canvas, panel, camera, weather)
    return develop(rng, shrunk(canvas, width, height), weather.hour.warmth)


def _back_to_front(place: Place, passers: Sequence[Panel], camera: Camera) -> Iterable[Panel]:
    yield place.ground
    for building in sorted(place.buildings, key=lambda b: -abs(b.middle - camera.eye[0])):
        yield from building.panels
    yield from sorted((*place.furniture, *passers), key=lambda panel: panel.origin[2])
