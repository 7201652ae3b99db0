"""A view: a place, who passes by, a camera and the weather become pixels, panel by panel."""

from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from train.data.synthetic.camera import Camera, Weather, develop, photographer, sky, weather_over
from train.data.synthetic.drawing import OUT, SUBPIXEL_BITS, Panel, Points, Texture, as_texture, fixed_point, shrunk
from train.data.synthetic.place import Place, passers_by, place_of

MIN_SIDE = 32
SUPERSAMPLING = 2
SHADOW = 0.5  # of the light is left in a cast shadow
CUTOUT_FACING = 0.5  # how squarely trees and people face the sun, whatever they are drawn on
LAMPLIGHT = (120, 86, 30)


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


def paint(canvas: Texture, panel: Panel, camera: Camera, weather: Weather) -> None:
    """Paints what is seen of the panel over the canvas, uint8 [camera.height, camera.width, 3]."""
    if not panel.is_cutout and panel.normal @ (camera.eye - panel.origin) <= 0:
        return  # its back
    seen = camera.visible(panel.at(panel.outline))
    if len(seen) < 3:
        return
    pixels = seen[:, :2] / seen[:, 2:]
    corner = np.floor(pixels.min(axis=0)).astype(int).clip(0)  # rounding may leave −1e-13
    end = np.ceil(pixels.max(axis=0)).astype(int) + 1
    region = canvas[corner[1] : end[1], corner[0] : end[0]]
    warped = _warp(panel, camera.homography(panel), seen[:, 2].mean(), corner, region)
    if panel.is_cutout:
        _blend(region, warped, weather.light(CUTOUT_FACING))
        return

    def stencil(outlines: Iterable[Points]) -> Texture:
        mask = np.zeros(region.shape[:2], np.uint8)
        for outline in outlines:
            shape = camera.visible(panel.at(outline))
            if len(shape):
                cv2.fillPoly(mask, [fixed_point(shape[:, :2] / shape[:, 2:] - corner)], 255, shift=SUBPIXEL_BITS)
        return mask

    shaded = _scaled(warped, weather.light(float(panel.normal @ weather.sun)))
    if weather.shadows and panel.normal @ OUT == 1:
        cv2.copyTo(_scaled(shaded, SHADOW), stencil(weather.shadows), shaded)
    lit = [window for window, lamp in zip(panel.windows, weather.lamps, strict=False) if lamp < weather.hour.lit]
    if lit:
        cv2.copyTo(cv2.add(warped, np.full_like(warped, LAMPLIGHT)), stencil(lit), shaded)
    cv2.copyTo(shaded, stencil([panel.outline]), region)


def _warp(
    panel: Panel, homography: Points, depth: float, corner: NDArray[np.signedinteger], region: Texture
) -> Texture:
    """The panel's texture as ``region`` of the canvas sees it, from the level of the pyramid that does not alias."""
    pixels_per_metre = np.sqrt(abs(np.linalg.det(homography)) / depth**3)
    texels_per_pixel = panel.pyramid[0].shape[1] / panel.size[0] / pixels_per_metre
    level = int(np.clip(np.round(np.log2(texels_per_pixel)), 0, len(panel.pyramid) - 1))
    texture = panel.pyramid[level]
    x_scale, y_scale = panel.size[0] / texture.shape[1], panel.size[1] / texture.shape[0]
    metres_of_texels = np.array([[x_scale, 0, x_scale / 2], [0, y_scale, y_scale / 2], [0, 0, 1]])
    to_region = np.array([[1, 0, -corner[0]], [0, 1, -corner[1]], [0, 0, 1.0]])
    matrix = to_region @ homography @ metres_of_texels
    return as_texture(cv2.warpPerspective(texture, matrix, region.shape[1::-1], borderMode=cv2.BORDER_REPLICATE))


def _blend(region: Texture, warped: Texture, light: float) -> None:
    """Paints a texture [h, w, 4] where its last channel says."""
    cover = warped[..., 3].astype(np.float32) / 255
    shaded = _scaled(warped[..., :3], light)
    region[...] = cv2.blendLinear(shaded, np.ascontiguousarray(region), cover, 1 - cover)


def _scaled(texture: Texture, factor: float) -> Texture:
    return as_texture(cv2.convertScaleAbs(texture, alpha=factor))
