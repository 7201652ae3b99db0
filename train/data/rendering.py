"""Photo-like views of invented buildings: places to train and to test retrieval on, without any data on disk.

A *place* is a short street, y up, x along it, z out of it towards the viewer, in metres. Its buildings are made of
flat textured panels (fronts, side walls, roofs, balconies), all drawn from one small vocabulary of walls, colours
and windows, so that places resemble each other in parts; the layout and the painted landmarks tell them apart.

A *view* of a place is what one photographer got: where they stood (Camera), the light and the film (Weather), and
who walked by. Panels are painted back to front through their homographies, on a canvas twice too large.

Every random number comes from a generator seeded by (seed, scene) for the place and (seed, scene, view) for the
view: the same in any process and in any order of calls.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

Colour = tuple[int, int, int]
Texture = NDArray[np.uint8]  # [h, w, 3], or [h, w, 4] where the last channel cuts a shape out of the panel
Points = NDArray[np.float64]

SMALLEST_SIDE = 32
SUPERSAMPLING = 2
DENSITY = 40.0  # texture pixels per metre: a close-up shows about as many
GROUND_DENSITY = 10.0
NEAR = 0.2  # metres in front of the eye where the world begins
SUBPIXEL_BITS = 4  # of the fixed-point coordinates OpenCV draws with
FOCAL = 1.1  # of a view at zoom 1, in image widths
SHADOW = 0.5  # of the light is left in a cast shadow
CUTOUT_FACING = 0.5  # how squarely trees and people face the sun, whatever they are drawn on
LAMPLIGHT = (120.0, 86.0, 30.0, 0.0)

RIGHT, UP, OUT = np.eye(3)

# The shared vocabulary. Colours repeat among places, so colour alone does not name one.
WALLS: tuple[Colour, ...] = (
    (168, 92, 70),
    (186, 150, 112),
    (216, 204, 180),
    (172, 168, 160),
    (204, 160, 112),
)
TRIMS: tuple[Colour, ...] = ((232, 226, 212), (190, 178, 158), (116, 104, 94))
PAINTS: tuple[Colour, ...] = ((44, 76, 58), (40, 58, 92), (118, 38, 38), (74, 54, 42), (204, 200, 190))
ROOFS: tuple[Colour, ...] = ((146, 78, 58), (82, 84, 92), (104, 90, 80))
VIVID: tuple[Colour, ...] = (
    (206, 60, 50),
    (40, 110, 170),
    (236, 186, 60),
    (60, 140, 90),
    (240, 236, 226),
    (30, 30, 36),
)
LEAVES: tuple[Colour, ...] = ((52, 84, 40), (74, 106, 50), (96, 122, 62), (40, 66, 36))
MATERIALS = ("brick", "stone", "plaster", "boards")
# width and height of a unit, joint, in metres, and how far units differ in tone
MASONRY = {
    "brick": (0.3, 0.1, 0.02, 0.1),
    "stone": (0.9, 0.42, 0.03, 0.07),
    "plaster": (1.0, 0.0, 0.0, 0.0),
    "boards": (60.0, 0.2, 0.03, 0.04),
    "tiles": (0.28, 0.24, 0.035, 0.11),
    "slabs": (1.2, 0.8, 0.1, 0.06),
}
GABLES = ("flat", "eaves", "triangle", "steps")


def render_view(seed: int, scene: int, view: int, *, width: int = 320, height: int = 240) -> Texture:
    """Renders photo number `view` of place number `scene` in the world `seed`.

    The three numbers (each ≥ 0) determine the picture; `width` and `height` only set how finely it is sampled
    and how far it reaches.

    Returns:
        uint8 [height, width, 3], RGB.

    Raises:
        ValueError: `width` or `height` is below 32, or one of the three numbers is negative.
    """
    if min(width, height) < SMALLEST_SIDE:
        raise ValueError(f"a view of {width}×{height} pixels is too small: both sides need {SMALLEST_SIDE}")
    place = _place(seed, scene)
    # The leading 1 keeps views apart from places (0): seeds that differ only by trailing zeros are equal to NumPy.
    for_camera, for_weather, for_passers, for_film = np.random.default_rng([1, seed, scene, view]).spawn(4)
    camera = _photographer(for_camera, place, width * SUPERSAMPLING, height * SUPERSAMPLING)
    weather = _weather(for_weather, place)
    canvas = _sky(for_weather, weather, camera)
    for panel in _back_to_front(place, _passers(for_passers, place, camera), camera):
        _paint(canvas, panel, camera, weather)
    return _develop(cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA), weather, for_film)


# ---------------------------------------------------------------------------------------------- what is where


@dataclass(frozen=True, eq=False)
class Panel:
    """A flat textured piece of the world. Points on it are (s, t): metres right and down from its origin."""

    pyramid: tuple[Texture, ...]  # the texture, then halved and halved again
    size: tuple[float, float]
    origin: Points
    right: Points  # unit vectors
    down: Points
    outline: Points  # [n, 2], the part of the texture that is there
    windows: tuple[Points, ...] = ()  # outlines of the panes that may be lit at night

    @property
    def is_cutout(self) -> bool:
        return self.pyramid[0].shape[2] == 4

    @property
    def normal(self) -> Points:
        return np.cross(self.down, self.right)

    def at(self, points: Points) -> Points:
        """Points on the panel [n, 2] in the world [n, 3]."""
        return self.origin + points[:, :1] * self.right + points[:, 1:] * self.down


@dataclass(frozen=True, eq=False)
class Building:
    middle: float  # x
    panels: tuple[Panel, ...]  # each hides those before it, from wherever it can be seen


@dataclass(frozen=True, eq=False)
class Place:
    """What is built: the main front spans 0 ≤ x ≤ width, 0 ≤ y ≤ height at z = 0."""

    width: float
    height: float
    ground: Panel
    buildings: tuple[Building, ...]
    street: tuple[Panel, ...]  # trees and lamps


@dataclass(frozen=True, eq=False)
class Camera:
    """Where the photographer stands: a pinhole whose image has its principal point in the middle."""

    eye: Points
    axes: Points  # rows: right, down and forward of the image in the world
    focal: float  # pixels
    width: int
    height: int

    @property
    def intrinsics(self) -> Points:
        return np.array([[self.focal, 0, (self.width - 1) / 2], [0, self.focal, (self.height - 1) / 2], [0, 0, 1]])

    def homography(self, panel: Panel) -> Points:
        """Takes (s, t, 1) of a panel to homogeneous pixels whose third coordinate is the depth in metres."""
        frame = np.stack([panel.right, panel.down, panel.origin - self.eye], axis=1)
        return self.intrinsics @ self.axes @ frame

    def visible(self, points: Points) -> Points:
        """Clips a polygon of the world [n, 3] to the field of view: [m, 3], homogeneous pixels."""
        seen = (points - self.eye) @ self.axes.T @ self.intrinsics.T
        for inside, offset in (
            ((0, 0, 1), -NEAR),
            ((1, 0, 0), 0.0),
            ((-1, 0, self.width - 1), 0.0),
            ((0, 1, 0), 0.0),
            ((0, -1, self.height - 1), 0.0),
        ):
            seen = _clip(seen, np.asarray(inside, dtype=np.float64), offset)
        return seen


@dataclass(frozen=True)
class Hour:
    """A kind of daylight."""

    zenith: Colour
    horizon: Colour
    clouds: Colour
    ambient: float
    sunlight: float
    lit: float  # share of windows with a lamp on
    warmth: float


HOURS = (
    Hour((92, 140, 200), (196, 214, 230), (244, 244, 246), ambient=0.62, sunlight=0.55, lit=0.0, warmth=0.05),
    Hour((170, 178, 190), (206, 210, 214), (226, 228, 230), ambient=0.85, sunlight=0.08, lit=0.04, warmth=-0.04),
    Hour((88, 96, 150), (238, 176, 130), (214, 150, 140), ambient=0.5, sunlight=0.4, lit=0.3, warmth=0.16),
    Hour((14, 18, 36), (44, 44, 66), (34, 36, 52), ambient=0.28, sunlight=0.04, lit=0.5, warmth=-0.1),
)
HOUR_ODDS = (0.45, 0.33, 0.13, 0.09)


@dataclass(frozen=True, eq=False)
class Weather:
    """The light on the place and what the film makes of it."""

    hour: Hour
    sun: Points  # unit vector towards it
    cloudiness: float
    shadows: tuple[Points, ...]  # cast on fronts, (s, t) outlines
    lamps: Points  # one number in [0, 1) per window: lit where below the hour's share
    brightness: float
    contrast: float
    gamma: float
    warmth: float
    blur: float  # pixels
    noise: float  # grey levels
    quality: int  # of the JPEG


# ------------------------------------------------------------------------------------------------ the picture


def _back_to_front(place: Place, passers: Sequence[Panel], camera: Camera) -> Iterable[Panel]:
    yield place.ground
    for building in sorted(place.buildings, key=lambda b: -abs(b.middle - camera.eye[0])):
        yield from building.panels
    yield from sorted((*place.street, *passers), key=lambda panel: panel.origin[2])


def _paint(canvas: Texture, panel: Panel, camera: Camera, weather: Weather) -> None:
    """Paints one panel over the canvas, lit by the weather."""
    if not panel.is_cutout and panel.normal @ (camera.eye - panel.origin) <= 0:
        return
    seen = camera.visible(panel.at(panel.outline))
    if len(seen) < 3:
        return
    pixels = seen[:, :2] / seen[:, 2:]
    corner = np.floor(pixels.min(axis=0)).astype(int).clip(0)  # rounding may leave −1e-13
    end = np.ceil(pixels.max(axis=0)).astype(int) + 1
    region = canvas[corner[1] : end[1], corner[0] : end[0]]

    warped = _warp(panel, camera.homography(panel), seen[:, 2].mean(), corner, region)
    paint = cv2.convertScaleAbs(warped[..., :3], alpha=_light(panel, weather))
    if panel.is_cutout:
        cover = warped[..., 3].astype(np.float32) / 255
        region[...] = cv2.blendLinear(paint, np.ascontiguousarray(region), cover, 1 - cover)
        return

    def stencil(outlines: Iterable[Points]) -> Texture:
        mask = np.zeros(region.shape[:2], np.uint8)
        for outline in outlines:
            shape = camera.visible(panel.at(outline))
            if len(shape):
                cv2.fillPoly(mask, [_fixed_point(shape[:, :2] / shape[:, 2:] - corner)], 255, shift=SUBPIXEL_BITS)
        return mask

    if panel.normal @ OUT == 1 and weather.shadows:
        cv2.copyTo(cv2.convertScaleAbs(paint, alpha=SHADOW), stencil(weather.shadows), paint)
    lit = [window for window, lamp in zip(panel.windows, weather.lamps, strict=False) if lamp < weather.hour.lit]
    if lit:
        cv2.copyTo(cv2.add(warped, LAMPLIGHT), stencil(lit), paint)
    cv2.copyTo(paint, stencil([panel.outline]), region)


def _warp(panel: Panel, homography: Points, depth: float, corner: ArrayLike, region: Texture) -> Texture:
    """The panel's texture as `region` of the canvas sees it, from the level of the pyramid that does not alias."""
    pixels_per_metre = np.sqrt(abs(np.linalg.det(homography)) / depth**3)
    texels_per_pixel = panel.pyramid[0].shape[1] / panel.size[0] / pixels_per_metre
    level = int(np.clip(np.round(np.log2(texels_per_pixel)), 0, len(panel.pyramid) - 1))
    texture = panel.pyramid[level]
    rows, columns = texture.shape[:2]
    x_scale, y_scale = panel.size[0] / columns, panel.size[1] / rows
    metres_of_texels = np.array([[x_scale, 0, x_scale / 2], [0, y_scale, y_scale / 2], [0, 0, 1]])
    to_region = np.array([[1, 0, -corner[0]], [0, 1, -corner[1]], [0, 0, 1.0]])
    return cv2.warpPerspective(
        texture,
        to_region @ homography @ metres_of_texels,
        region.shape[1::-1],
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )


def _light(panel: Panel, weather: Weather) -> float:
    facing = CUTOUT_FACING if panel.is_cutout else max(0.0, float(panel.normal @ weather.sun))
    return weather.hour.ambient + weather.hour.sunlight * facing


def _clip(polygon: Points, inside: Points, offset: float) -> Points:
    """The part of a polygon [n, 3] where inside · p + offset ≥ 0 (Sutherland and Hodgman)."""
    if not len(polygon):
        return polygon
    heights = polygon @ inside + offset
    kept = []
    for i in range(len(polygon)):
        a, b = heights[i - 1], heights[i]
        if (a >= 0) != (b >= 0):
            kept.append(polygon[i - 1] + a / (a - b) * (polygon[i] - polygon[i - 1]))
        if b >= 0:
            kept.append(polygon[i])
    return np.array(kept).reshape(-1, 3)


def _sky(rng: Generator, weather: Weather, camera: Camera) -> Texture:
    """The canvas before anything stands on it: a gradient and some clouds."""
    rows, columns = 60, 80
    down = np.linspace(0, 1, rows)[:, None, None] ** 1.5
    sky = (1 - down) * weather.hour.zenith + down * weather.hour.horizon
    billows = sum(_mottle(rng, (rows, columns), cells) / cells**0.5 for cells in (3, 7, 15))
    cover = np.clip(billows * 0.8 + weather.cloudiness, 0, 1)[..., None]
    sky = (1 - cover) * sky + cover * weather.hour.clouds
    return cv2.resize(sky.clip(0, 255).astype(np.uint8), (camera.width, camera.height), interpolation=cv2.INTER_LINEAR)


def _develop(image: Texture, weather: Weather, rng: Generator) -> Texture:
    """What lens, film and JPEG make of the light."""
    if weather.blur > 0.3:
        image = cv2.GaussianBlur(image, (0, 0), weather.blur)
    tone = np.linspace(0, 1, 256)[:, None] ** weather.gamma
    warmth = weather.warmth + weather.hour.warmth
    tone = (0.5 + weather.contrast * (tone - 0.5)) * weather.brightness * (1 + warmth * np.array([1, 0.1, -1]))
    image = cv2.LUT(image, (tone * 255).clip(0, 255).astype(np.uint8)[:, None])
    grain = rng.standard_normal(image.shape[:2], dtype=np.float32) * weather.noise
    image = (image + grain[..., None]).clip(0, 255).astype(np.uint8)
    _, file = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, weather.quality])
    return cv2.cvtColor(cv2.imdecode(file, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


# --------------------------------------------------------------------------------------------- what a view draws


def _photographer(rng: Generator, place: Place, width: int, height: int) -> Camera:
    """Someone around the main front, who zooms on the whole of it or on a part, and does not hold quite level."""
    yaw = np.radians(rng.uniform(-40, 40))
    zoom = float(np.clip(np.exp(rng.normal(0.1, 0.42)), 0.6, 2.5))
    enough = FOCAL * max(place.width, place.height * width / height)  # metres to frame the front at zoom 1
    distance = enough * rng.uniform(0.75, 1.25)
    spread = max(0.2, 1 - 1 / zoom)  # the closer the view, the more there is to choose from
    target_x, target_y = (0.5 + spread * rng.uniform(-0.5, 0.5, 2)) * (place.width, place.height)
    target = np.array([target_x, target_y, 0.0])
    eye = np.array([target_x + distance * np.sin(yaw), rng.uniform(1.5, 5), distance * np.cos(yaw)])

    forward = (target - eye) / np.linalg.norm(target - eye)
    level = np.cross(forward, UP) / np.linalg.norm(np.cross(forward, UP))
    plumb = np.cross(forward, level)
    roll = np.radians(rng.normal(0, 3))
    axes = np.stack([np.cos(roll) * level + np.sin(roll) * plumb, np.cos(roll) * plumb - np.sin(roll) * level, forward])
    return Camera(eye, axes, FOCAL * width * zoom * distance / enough, width, height)


def _weather(rng: Generator, place: Place) -> Weather:
    hour = HOURS[rng.choice(len(HOURS), p=HOUR_ODDS)]
    azimuth, elevation = np.radians(rng.uniform(-75, 75)), np.radians(rng.uniform(15, 60))
    sun = np.array([np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation)])
    casts = hour.sunlight > 0.3 and rng.random() < 0.6
    return Weather(
        hour=hour,
        sun=sun,
        cloudiness=rng.uniform(-0.3, 0.6),
        shadows=_cast_shadows(rng, place) if casts else (),
        lamps=rng.random(200),
        brightness=rng.uniform(0.75, 1.2),
        contrast=rng.uniform(0.75, 1.25),
        gamma=rng.uniform(0.75, 1.4),
        warmth=rng.normal(0, 0.06),
        blur=max(0.0, rng.normal(0.2, 0.4)),
        noise=rng.uniform(1, 8),
        quality=int(rng.integers(30, 96)),
    )


def _cast_shadows(rng: Generator, place: Place) -> tuple[Points, ...]:
    """Of the roofs across the street, or of something slender: slanted bands."""
    w, h = place.width, place.height
    if rng.random() < 0.5:
        steps = np.repeat(rng.uniform(0.2, 1.0, 4) * h, 2)
        xs = np.repeat(np.linspace(-0.2, 1.2, 5) * w, 2)[1:-1]
        roofs = np.column_stack([xs, steps])
        return (np.vstack([roofs, [(1.2 * w, 2 * h), (-0.2 * w, 2 * h)]]),)
    slant = rng.uniform(-0.6, 0.6) * h
    lefts, breadths = rng.uniform(-0.1, 1, 3) * w, rng.uniform(0.2, 1.6, 3)
    return tuple(
        np.array([(x, -2.0), (x + b, -2.0), (x + b + slant, h + 5), (x + slant, h + 5)])
        for x, b in zip(lefts, breadths, strict=True)
    )


def _passers(rng: Generator, place: Place, camera: Camera) -> list[Panel]:
    """Who and what stands between the photographer and the front just now."""
    crowd = [_person] * int(rng.integers(0, 6)) + [_car] * int(rng.integers(0, 3))
    crowd += [_tree] * int(rng.random() < 0.3) + [_pole] * int(rng.random() < 0.35)
    passers = []
    for draw in crowd:
        nearness = rng.uniform(0.15, 0.6)
        spot = nearness * camera.eye + (1 - nearness) * np.array([rng.uniform(0, place.width), 0, 0])
        passers.append(_standee(draw(rng), spot[0], max(spot[2], 2.0)))
    return passers


# ---------------------------------------------------------------------------------------------- drawing textures


class Sheet:
    """A texture to draw on in metres: x to the right, y down from the top left corner."""

    def __init__(self, texture: Texture, density: float = DENSITY) -> None:
        self.texture = texture
        self.density = density

    @classmethod
    def clear(cls, width: float, height: float, tint: Colour) -> "Sheet":
        """Nothing but a transparent colour, which tinges the edges of what is drawn."""
        shape = (round(height * DENSITY), round(width * DENSITY), 1)
        return cls(np.tile(np.array([*tint, 0], np.uint8), shape))

    @classmethod
    def blank(cls, width: float, height: float, colour: Colour) -> "Sheet":
        return cls(np.full((round(height * DENSITY), round(width * DENSITY), 3), colour, np.uint8))

    @property
    def size(self) -> tuple[float, float]:
        return self.texture.shape[1] / self.density, self.texture.shape[0] / self.density

    def polygon(self, points: ArrayLike, colour: Colour) -> None:
        cv2.fillPoly(self.texture, [self._pixels(points)], (*colour, 255), cv2.LINE_AA, SUBPIXEL_BITS)

    def box(self, x: float, y: float, w: float, h: float, colour: Colour) -> None:
        self.polygon(_rectangle(x, y, w, h), colour)

    def stroke(self, points: ArrayLike, colour: Colour, breadth: float, closed: bool = False) -> None:
        thickness = max(1, round(breadth * self.density))
        pixels = [self._pixels(points)]
        cv2.polylines(self.texture, pixels, closed, (*colour, 255), thickness, cv2.LINE_AA, SUBPIXEL_BITS)

    def disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        self.polygon(_ellipse(x, y, radius, radius), colour)

    def _pixels(self, points: ArrayLike) -> NDArray[np.int32]:
        return _fixed_point(np.asarray(points, np.float64) * self.density - 0.5)


def _fixed_point(pixels: Points) -> NDArray[np.int32]:
    return np.round(pixels * 2**SUBPIXEL_BITS).astype(np.int32)


def _rectangle(x: float, y: float, w: float, h: float) -> Points:
    return np.array([(x, y), (x + w, y), (x + w, y + h), (x, y + h)])


def _ellipse(x: float, y: float, a: float, b: float, start: float = 0.0, end: float = 2 * np.pi) -> Points:
    angles = np.linspace(start, end, 17)
    return np.column_stack([x + a * np.cos(angles), y + b * np.sin(angles)])


def _toned(colour: Colour, factor: float) -> Colour:
    r, g, b = (int(np.clip(channel * factor, 0, 255)) for channel in colour)
    return r, g, b


def _pick(rng: Generator, choices: Sequence[Colour]) -> Colour:
    return choices[rng.integers(len(choices))]


def _mottle(rng: Generator, shape: tuple[int, int], cells: int) -> NDArray[np.float32]:
    """Smooth noise of unit variance, about `cells` bumps across."""
    down = max(2, round(cells * shape[0] / shape[1]))
    return cv2.resize(rng.standard_normal((down, cells), dtype=np.float32), shape[::-1], interpolation=cv2.INTER_CUBIC)


def _surface(
    rng: Generator, material: str, colour: Colour, width: float, height: float, density: float = DENSITY
) -> Sheet:
    """A sheet of bare wall, roof or ground."""
    shape = (round(height * density), round(width * density))
    unit_width, unit_height, joint, variation = MASONRY[material]
    tone = 1 + 0.035 * _mottle(rng, shape, 5) + 0.03 * rng.standard_normal(shape, dtype=np.float32)
    if unit_height:
        ys, xs = np.arange(shape[0]) / density / unit_height, np.arange(shape[1]) / density / unit_width
        courses = ys.astype(int)
        shifted = xs[None] + 0.5 * (courses % 2)[:, None]
        units = rng.standard_normal((courses[-1] + 1, int(xs[-1]) + 2), dtype=np.float32)
        tone += variation * units[courses[:, None], shifted.astype(int)]
        in_joint = (ys % 1 * unit_height < joint)[:, None] | (shifted % 1 * unit_width < joint)
        tone *= np.where(in_joint, np.float32(0.78), np.float32(1))
    texture = tone[..., None] * np.array(colour, np.float32)
    return Sheet(texture.clip(0, 255).astype(np.uint8), density)


def _panel(
    sheet: Sheet,
    origin: ArrayLike,
    right: Points = RIGHT,
    down: Points = -UP,
    outline: Points | None = None,
    windows: Sequence[Points] = (),
) -> Panel:
    pyramid = [sheet.texture]
    while min(pyramid[-1].shape[:2]) >= 16 and len(pyramid) < 5:
        rows, columns = pyramid[-1].shape[:2]
        pyramid.append(cv2.resize(pyramid[-1], (columns // 2, rows // 2), interpolation=cv2.INTER_AREA))
    outline = _rectangle(0, 0, *sheet.size) if outline is None else outline
    return Panel(tuple(pyramid), sheet.size, np.asarray(origin, np.float64), right, down, outline, tuple(windows))


def _standee(sheet: Sheet, x: float, z: float) -> Panel:
    """A cutout that stands on the ground."""
    width, height = sheet.size
    return _panel(sheet, (x - width / 2, height, z))


# -------------------------------------------------------------------------------------------- people and the street


def _person(rng: Generator) -> Sheet:
    coat, trousers = _toned(_pick(rng, VIVID + PAINTS), 0.75), _toned(_pick(rng, PAINTS), 0.8)
    skin, hair = (
        _pick(rng, ((226, 184, 150), (150, 104, 76), (92, 64, 50))),
        _pick(rng, ((40, 30, 26), (120, 84, 50))),
    )
    sheet = Sheet.clear(0.8, 1.8, coat)
    stride = rng.uniform(0.02, 0.16)
    for side in (-1, 1):
        sheet.stroke([(0.4, 0.9), (0.4 + side * stride, 1.75)], _toned(trousers, 1 + 0.15 * side), 0.15)
        sheet.stroke([(0.4 + side * 0.2, 0.4), (0.4 + side * (0.2 + stride / 2), 0.95)], _toned(coat, 0.85), 0.11)
    sheet.polygon([(0.2, 0.34), (0.6, 0.34), (0.58, 1.0), (0.22, 1.0)], coat)
    sheet.disc(0.4, 0.18, 0.13, skin)
    sheet.polygon(_ellipse(0.4, 0.16, 0.14, 0.13, np.pi, 2 * np.pi), hair)
    return sheet


def _car(rng: Generator) -> Sheet:
    body = _pick(rng, VIVID + PAINTS)
    tall = rng.uniform(0, 0.9)  # from a saloon to a van
    sheet = Sheet.clear(4.4, 1.5 + tall, body)
    floor = 1.5 + tall
    cabin = [(0.7, floor - 0.8), (1.3 - tall / 3, 0.03), (3.2 + tall / 3, 0.03), (3.8, floor - 0.8)]
    sheet.polygon(cabin, body)
    sheet.polygon(_rectangle(0.08, floor - 0.85, 4.24, 0.62), body)
    sheet.box(0.08, floor - 0.4, 4.24, 0.2, _toned(body, 0.7))
    for left, right in ((1.1, 2.2), (2.3, 3.4)):
        sheet.polygon([(left, floor - 0.85), (left + 0.3, 0.14), (right, 0.14), (right, floor - 0.85)], (54, 64, 74))
    for x in (0.95, 3.45):
        sheet.disc(x, floor - 0.33, 0.33, (26, 26, 28))
        sheet.disc(x, floor - 0.33, 0.17, (150, 150, 154))
    return sheet


def _tree(rng: Generator) -> Sheet:
    width, height = rng.uniform(2.5, 4.5), rng.uniform(4.5, 7.5)
    sheet = Sheet.clear(width, height, LEAVES[0])
    sheet.stroke([(width / 2, height), (width / 2 + rng.normal(0, 0.1), height * 0.4)], (84, 66, 50), 0.25)
    for _ in range(90):
        x, y = rng.normal((0.5, 0.33), (0.16, 0.12)).clip(0.1, 0.9) * (width, height)
        sheet.disc(x, y, rng.uniform(0.12, 0.4), _toned(_pick(rng, LEAVES), rng.uniform(0.8, 1.25)))
    return sheet


def _pole(rng: Generator) -> Sheet:
    colour = _pick(rng, PAINTS)
    sheet = Sheet.clear(1.2, 5.0, colour)
    sheet.box(0.54, 0.3, 0.12, 4.7, colour)
    if rng.random() < 0.5:
        sheet.disc(0.6, 0.5, 0.42, _pick(rng, VIVID))
        sheet.disc(0.6, 0.5, 0.3, VIVID[4])
    else:
        sheet.polygon([(0.4, 0.1), (0.8, 0.1), (0.72, 0.7), (0.48, 0.7)], (250, 226, 160))
    return sheet


def _ground(rng: Generator, width: float) -> Panel:
    """A paved strip along the fronts, a kerb and the road."""
    sheet = _surface(rng, "plaster", (104, 102, 102), width + 60, 70, GROUND_DENSITY)
    paving = _surface(rng, "slabs", _pick(rng, WALLS[2:]), width + 60, 34, GROUND_DENSITY)
    sheet.texture[: len(paving.texture)] = paving.texture
    sheet.box(0, 34, width + 60, 0.25, (190, 188, 182))
    for x in np.arange(0, width + 60, 6):
        sheet.box(x, 39, 3, 0.2, (220, 218, 210))
    return _panel(sheet, (-30, 0, -30), RIGHT, OUT)


# ---------------------------------------------------------------------------------------------------- the place


@dataclass(frozen=True)
class WindowStyle:
    """One entry of the shared vocabulary of windows."""

    head: str  # flat, arch, point
    panes: tuple[int, int]  # across, down
    breadth: float  # of the bay's width
    hood: str = "none"  # none, lintel, pediment
    shutters: bool = False


WINDOWS = (
    WindowStyle("flat", (2, 3), 0.42, "lintel"),
    WindowStyle("flat", (2, 2), 0.36, shutters=True),
    WindowStyle("arch", (2, 3), 0.44),
    WindowStyle("flat", (1, 2), 0.4, "pediment"),
    WindowStyle("flat", (3, 4), 0.5),
    WindowStyle("point", (2, 4), 0.34),
    WindowStyle("arch", (3, 4), 0.4, "lintel", shutters=True),
    WindowStyle("flat", (3, 1), 0.66),
)


@dataclass(frozen=True)
class Plan:
    """What the architect of one building decided."""

    material: str
    wall: Colour
    trim: Colour
    paint: Colour
    roof: Colour
    gable: str
    bays: int
    bay: float  # metres
    storeys: int
    storey: float
    ground_floor: float
    depth: float
    upper_window: WindowStyle
    ground_window: WindowStyle

    @property
    def width(self) -> float:
        return self.bays * self.bay

    @property
    def height(self) -> float:
        """Of the eaves."""
        return self.ground_floor + (self.storeys - 1) * self.storey

    @property
    def rise(self) -> float:
        """Of the gable or the roof above the eaves."""
        return {"flat": 0.9, "eaves": 3.0, "triangle": 0.34 * self.width, "steps": 0.4 * self.width}[self.gable]

    @property
    def front_rise(self) -> float:
        """The part of the rise that the front wall fills."""
        return 0.0 if self.gable == "eaves" else self.rise

    def floor(self, storey: int) -> float:
        """The height of a storey's floor above the ground; of storey 0 it is 0."""
        return 0.0 if storey == 0 else self.ground_floor + (storey - 1) * self.storey


def _plan(rng: Generator) -> Plan:
    return Plan(
        material=MATERIALS[rng.integers(len(MATERIALS))],
        wall=_pick(rng, WALLS),
        trim=_pick(rng, TRIMS),
        paint=_pick(rng, PAINTS),
        roof=_pick(rng, ROOFS),
        gable=GABLES[rng.integers(len(GABLES))],
        bays=int(rng.integers(3, 7)),
        bay=rng.uniform(2.0, 2.9),
        storeys=int(rng.integers(2, 5)),
        storey=rng.uniform(2.8, 3.5),
        ground_floor=rng.uniform(3.2, 4.2),
        depth=rng.uniform(7, 10),
        upper_window=WINDOWS[rng.integers(len(WINDOWS))],
        ground_window=WINDOWS[rng.integers(len(WINDOWS))],
    )


@lru_cache(maxsize=8)
def _place(seed: int, scene: int) -> Place:
    rng = np.random.default_rng([0, seed, scene])
    plan = _plan(rng)
    buildings = [_building(rng, plan, 0.0, 0.0)]
    for side in (-1, 1):
        if rng.random() < 0.8:
            beside = _plan(rng)
            gap, recess = rng.choice([0.0, 0.0, 2.5]), rng.choice([0.0, -1.5, 0.8])
            left = plan.width + gap if side == 1 else -gap - beside.width
            buildings.append(_building(rng, beside, left, recess))
    street = [
        _standee(draw(rng), rng.uniform(-4, plan.width + 4), rng.uniform(2.2, 3.5))
        for draw in [_tree] * int(rng.choice([0, 0, 1, 2])) + [_pole] * int(rng.integers(0, 3))
    ]
    return Place(plan.width, plan.height + plan.front_rise, _ground(rng, plan.width), tuple(buildings), tuple(street))


def _building(rng: Generator, plan: Plan, left: float, z: float) -> Building:
    panels = [*_roof(rng, plan, left, z), *_sides(rng, plan, left, z), *_front(rng, plan, left, z)]
    return Building(left + plan.width / 2, tuple(panels))


def _roof(rng: Generator, plan: Plan, left: float, z: float) -> list[Panel]:
    w, h, rise, depth = plan.width, plan.height, plan.rise, plan.depth
    if plan.gable == "flat":
        return []
    if plan.gable == "eaves":  # one slope faces the street
        slope = np.hypot(rise, depth / 2)
        sheet = _surface(rng, "tiles", plan.roof, w + 0.4, slope)
        for x in np.arange(1, plan.bays, 2) * plan.bay if rng.random() < 0.5 else ():
            _window(sheet, rng, plan, plan.upper_window, x, slope * 0.45, slope * 0.4)
        chimney = _surface(rng, "brick", WALLS[0], 0.7, 1.6)
        stack = _panel(chimney, (left + rng.uniform(0.1, 0.8) * w, h + rise + 0.7, z - depth / 2))
        down = np.array([0, -rise, depth / 2 + 0.3]) / np.hypot(rise, depth / 2 + 0.3)
        return [stack, _panel(sheet, (left - 0.2, h + rise, z - depth / 2), RIGHT, down)]
    slope = np.hypot(w / 2, rise * 0.95)
    sheet = _surface(rng, "tiles", plan.roof, depth, slope)
    ridge, fall = (left + w / 2, h + rise * 0.95), np.array([w / 2, -rise * 0.95, 0]) / slope
    return [
        _panel(sheet, (ridge[0], ridge[1], z - depth), OUT, fall * (-1, 1, 1)),
        _panel(sheet, (ridge[0], ridge[1], z), -OUT, fall),
    ]


def _sides(rng: Generator, plan: Plan, left: float, z: float) -> list[Panel]:
    """The two side walls, one drawing for both: mostly blank, as party walls are."""
    rise = plan.rise if plan.gable == "eaves" else 0.0
    depth, top = plan.depth, plan.height + rise
    sheet = _surface(rng, plan.material, _toned(plan.wall, 0.92), depth, top)
    for storey in range(plan.storeys):
        for x in (depth * 0.3, depth * 0.7):
            if rng.random() < 0.4:
                _window(sheet, rng, plan, plan.upper_window, x, top - plan.floor(storey) - 0.8, 1.6)
    if rng.random() < 0.5:
        _mural(sheet, rng, depth / 2, top - plan.height * 0.5, 0.3 * depth)
    outline = np.array([(0, rise), (depth / 2, 0), (depth, rise), (depth, top), (0, top)])
    return [
        _panel(sheet, (left, top, z - depth), OUT, -UP, outline),
        _panel(sheet, (left + plan.width, top, z), -OUT, -UP, outline),
    ]


def _front(rng: Generator, plan: Plan, left: float, z: float) -> list[Panel]:
    """The street front, then what stands out from it."""
    width, rise, top = plan.width, plan.front_rise, plan.front_rise + plan.height
    sheet = _surface(rng, plan.material, plan.wall, width, top)
    _dress(sheet, rng, plan)
    windows, relief = [], []
    blind, balconied = rng.random((2, plan.storeys, plan.bays)) < np.array([0.1, 0.22])[:, None, None]
    for storey in range(1, plan.storeys):
        base = top - plan.floor(storey)
        for bay in range(plan.bays):
            if blind[storey, bay]:
                continue
            x = (bay + 0.5) * plan.bay
            windows.append(_window(sheet, rng, plan, plan.upper_window, x, base - 0.75, plan.storey * 0.58))
            if balconied[storey, bay]:
                relief += _balcony(plan, left + x, plan.floor(storey) + 0.1, z)
    if plan.gable in ("triangle", "steps"):
        _ornament(sheet, rng, plan, width / 2, rise * 0.62)
    windows += _ground_floor(sheet, rng, plan)
    for landmark in rng.permutation(np.array([_graffiti, _ivy, _banner, _drainpipe]))[: rng.integers(1, 4)]:
        landmark(sheet, rng, plan)
    if plan.gable == "flat":
        relief += _ledge(_surface(rng, "plaster", plan.trim, width + 0.6, 0.5), left - 0.3, top, z, 0.5)
    return [_panel(sheet, (left, top, z), outline=_silhouette(plan), windows=windows), *relief]


def _silhouette(plan: Plan) -> Points:
    w, rise, top = plan.width, plan.front_rise, plan.front_rise + plan.height
    if plan.gable == "triangle":
        return np.array([(0, rise), (w / 2, 0), (w, rise), (w, top), (0, top)])
    if plan.gable == "steps":
        xs, ys = np.linspace(0, 0.38 * w, 4), np.linspace(rise, 0, 4)
        climb = np.column_stack([np.repeat(xs, 2)[1:], np.repeat(ys, 2)[:-1]])[:-1]
        climb = np.vstack([(0, rise), *climb[1:], (xs[-1], 0)])
        return np.vstack([climb, (climb * (-1, 1) + (w, 0))[::-1], (w, top), (0, top)])
    return _rectangle(0, 0, w, top)


def _dress(sheet: Sheet, rng: Generator, plan: Plan) -> None:
    """Plinth, ground-floor facing, string courses and pilasters."""
    width, top = plan.width, plan.front_rise + plan.height
    if rng.random() < 0.4:
        facing = _surface(rng, "stone", plan.trim, width, plan.ground_floor)
        sheet.texture[-len(facing.texture) :] = facing.texture
    courses = [s for s in range(1, plan.storeys + 1) if rng.random() < 0.5]
    for storey in courses:
        y = top - plan.floor(storey) - 0.1
        sheet.box(0, y, width, 0.2, plan.trim)
        sheet.box(0, y + 0.2, width, 0.07, _toned(plan.wall, 0.55))
    spacing = rng.integers(0, 3)  # in bays; 0 is none
    for x in np.arange(0, plan.bays + 1, spacing) * plan.bay if spacing else ():
        sheet.box(x - 0.2, plan.front_rise, 0.4, top, plan.trim)
        sheet.box(x + 0.2, plan.front_rise, 0.06, top, _toned(plan.wall, 0.6))
        sheet.box(x - 0.28, plan.front_rise, 0.56, 0.35, _toned(plan.trim, 0.92))
    sheet.box(0, top - 0.5, width, 0.5, _toned(plan.trim, 0.8))


def _opening(head: str, x: float, y: float, w: float, h: float) -> Points:
    """The outline of a hole in the wall, centred on x, from its top y down."""
    if head == "arch":
        return np.vstack(
            [_ellipse(x, y + w / 2, w / 2, w / 2, np.pi, 2 * np.pi), (x + w / 2, y + h), (x - w / 2, y + h)]
        )
    if head == "point":
        return np.array(
            [(x, y), (x + 0.35 * w, y + 0.35 * w), (x + w / 2, y + w), (x + w / 2, y + h), (x - w / 2, y + h)]
            + [(x - w / 2, y + w), (x - 0.35 * w, y + 0.35 * w)]
        )
    return _rectangle(x - w / 2, y, w, h)


def _window(sheet: Sheet, rng: Generator, plan: Plan, style: WindowStyle, x: float, sill: float, h: float) -> Points:
    """Draws a window that stands on the height `sill` of the sheet; its glass is returned."""
    w = style.breadth * plan.bay
    y = sill - h
    dark = _toned(plan.wall, 0.55)
    sheet.polygon(_opening(style.head, x, y - 0.14, w + 0.28, h + 0.14), plan.trim)
    sheet.polygon(_opening(style.head, x, y - 0.03, w + 0.06, h + 0.03), dark)
    glass = _opening(style.head, x, y, w, h)
    sheet.polygon(glass, _toned((74, 84, 94), rng.uniform(0.6, 1.3)))
    if rng.random() < 0.4:  # curtains
        for side in (-1, 1):
            sheet.polygon(
                _rectangle(x + side * 0.32 * w - 0.13 * w, y + 0.3 * w, 0.26 * w, h - 0.3 * w),
                (196, 188, 172),
            )
    bars = plan.paint if rng.random() < 0.03 else VIVID[4]
    across, down = style.panes
    for i in range(1, across):
        bar = x - w / 2 + i * w / across
        sheet.stroke([(bar, y + 0.06), (bar, sill)], bars, 0.06)
    for i in range(1, down):
        sheet.stroke([(x - w / 2, y + i * h / down), (x + w / 2, y + i * h / down)], bars, 0.06)
    sheet.stroke(glass, bars, 0.08, closed=True)
    sheet.box(x - w / 2 - 0.2, sill, w + 0.4, 0.13, plan.trim)
    sheet.box(x - w / 2 - 0.2, sill + 0.13, w + 0.4, 0.08, dark)
    if style.shutters:
        for side in (-1, 1):
            _shutter(sheet, plan.paint, x + side * (0.78 * w + 0.06) - w * 0.25, y, w * 0.5, h)
    if style.hood != "none":
        peak = 0.4 if style.hood == "pediment" else 0.0
        reach = w / 2 + 0.25
        ys = y - 0.2
        sheet.polygon(
            [
                (x - reach, ys),
                (x + reach, ys),
                (x + reach, ys - 0.18),
                (x, ys - 0.18 - peak),
                (x - reach, ys - 0.18),
            ],
            plan.trim,
        )
        sheet.box(x - reach, ys, 2 * reach, 0.06, dark)
    return glass


def _shutter(sheet: Sheet, colour: Colour, x: float, y: float, w: float, h: float) -> None:
    sheet.box(x, y, w, h, colour)
    for slat in np.arange(y + 0.1, y + h - 0.1, 0.12):
        sheet.stroke([(x + 0.06, slat), (x + w - 0.06, slat)], _toned(colour, 0.65), 0.04)
    sheet.stroke(_rectangle(x, y, w, h), _toned(colour, 0.75), 0.04, closed=True)


def _ground_floor(sheet: Sheet, rng: Generator, plan: Plan) -> list[Points]:
    """A door in one bay, a shop in some others, windows in the rest."""
    top = sheet.size[1]
    door = int(rng.integers(plan.bays))
    shop = range(0)
    if rng.random() < 0.6:
        shop = range(door + 1, plan.bays) if door < plan.bays / 2 else range(0, door)
    glass = []
    for bay in range(plan.bays):
        x = (bay + 0.5) * plan.bay
        if bay == door:
            _door(sheet, rng, plan, x)
        elif bay not in shop:
            glass.append(_window(sheet, rng, plan, plan.ground_window, x, top - 0.95, plan.ground_floor * 0.5))
    if len(shop):
        glass.append(_shopfront(sheet, rng, plan, shop.start * plan.bay + 0.15, len(shop) * plan.bay - 0.3))
    return glass


def _door(sheet: Sheet, rng: Generator, plan: Plan, x: float) -> None:
    base, h = sheet.size[1], plan.ground_floor * 0.72
    w = rng.uniform(0.4, 0.55) * plan.bay
    sheet.polygon(_opening(plan.ground_window.head, x, base - h - 0.25, w + 0.5, h + 0.25), plan.trim)
    sheet.polygon(_opening(plan.ground_window.head, x, base - h, w, h), _toned(plan.paint, 0.7))
    for side in (-1, 1):
        for y, tall in ((0.3, 0.35), (0.7, 0.22)):
            sheet.box(x + side * w / 4 - 0.16 * w, base - h + y * h, 0.32 * w, tall * h * 0.9, plan.paint)
    sheet.box(x - w / 2 - 0.3, base - 0.16, w + 0.6, 0.16, (168, 164, 158))


def _shopfront(sheet: Sheet, rng: Generator, plan: Plan, x: float, w: float) -> Points:
    base, h = sheet.size[1], plan.ground_floor * 0.9
    board, ink = (VIVID[i] for i in rng.permutation(len(VIVID))[:2])
    sheet.box(x, base - h, w, h, plan.paint)
    sheet.box(x + 0.1, base - h + 0.08, w - 0.2, 0.62, board)
    _writing(sheet, rng, x + 0.3, base - h + 0.17, w - 0.6, 0.44, ink)
    glass = _rectangle(x + 0.15, base - h + 0.85, w - 0.3, h - 1.4)
    sheet.polygon(glass, (64, 74, 84))
    for _ in range(int(w * 3)):  # goods
        good = rng.uniform((x + 0.3, base - 1.2), (x + w - 0.6, base - 0.7))
        sheet.box(good[0], good[1], 0.3, base - 0.55 - good[1], _toned(_pick(rng, VIVID), 0.8))
    for bar in np.arange(x + 0.15, x + w, (w - 0.3) / max(1, round(w / 1.8))):
        sheet.stroke([(bar, base - h + 0.85), (bar, base - 0.55)], plan.trim, 0.08)
    return glass


def _balcony(plan: Plan, x: float, y: float, z: float) -> list[Panel]:
    w, h, depth = plan.bay * 0.86, 1.05, 0.8
    rail = Sheet.clear(w, h, plan.paint)
    for bar in np.arange(0.06, w, 0.16):
        rail.stroke([(bar, 0.05), (bar, h)], plan.paint, 0.04)
    rail.box(0, 0, w, 0.09, plan.paint)
    rail.box(0, h - 0.16, w, 0.16, plan.trim)
    cheek = Sheet(np.ascontiguousarray(rail.texture[:, : round(depth * DENSITY)]))
    left = x - w / 2
    return [
        _panel(Sheet.blank(w, depth, _toned(plan.trim, 0.6)), (left, y, z + depth), RIGHT, -OUT),
        _panel(cheek, (left, y + h - 0.1, z), OUT),
        _panel(cheek, (left + w, y + h - 0.1, z), OUT),
        _panel(rail, (left, y + h - 0.1, z + depth)),
    ]


def _ledge(face: Sheet, left: float, top: float, z: float, depth: float) -> list[Panel]:
    """A moulding that runs along the front, with its underside and its ends."""
    w, h = face.size
    under = Sheet.blank(w, depth, (92, 86, 80))
    end = Sheet(np.ascontiguousarray(face.texture[:, : round(depth * DENSITY)]))
    return [
        _panel(under, (left, top - h, z + depth), RIGHT, -OUT),
        _panel(end, (left, top, z), OUT),
        _panel(end, (left + w, top, z + depth), -OUT),
        _panel(face, (left, top, z + depth)),
    ]


# ------------------------------------------------------------------------------- what makes a front unmistakable


def _glyph(rng: Generator, x: float, y: float, size: float) -> Points:
    """A letter of no alphabet: a few strokes between the points of a grid."""
    spots = rng.permutation(12)[: rng.integers(4, 7)]
    return np.column_stack([x + spots % 3 * 0.33 * size, y + spots // 3 * 0.33 * size])


def _writing(sheet: Sheet, rng: Generator, x: float, y: float, w: float, size: float, ink: Colour) -> None:
    letters = int(np.clip(w / size, 1, 9))
    start = x + (w - letters * size) / 2
    for i in range(letters):
        sheet.stroke(_glyph(rng, start + (i + 0.1) * size, y, size), ink, size * 0.14)


def _graffiti(sheet: Sheet, rng: Generator, plan: Plan) -> None:
    size = rng.uniform(0.7, 1.3)
    x, y = rng.uniform(0.2, plan.width * 0.6), sheet.size[1] - size - rng.uniform(0.3, 0.8)
    fill, edge = (VIVID[i] for i in rng.permutation(len(VIVID))[:2])
    for i in range(rng.integers(2, 5)):
        strokes = _glyph(rng, x + i * size * 0.85, y, size)
        sheet.stroke(strokes, edge, 0.26)
        sheet.stroke(strokes, fill, 0.15)


def _mural(sheet: Sheet, rng: Generator, x: float, y: float, radius: float) -> None:
    colours = [VIVID[i] for i in rng.permutation(len(VIVID))]
    sheet.box(x - radius, y - radius, 2 * radius, 2 * radius, colours[0])
    for colour in colours[1:4]:
        corners = rng.uniform(-0.95, 0.95, (int(rng.integers(3, 6)), 2)) * radius + (x, y)
        sheet.polygon(corners, colour)
    sheet.disc(x + rng.uniform(-0.5, 0.5) * radius, y + rng.uniform(-0.5, 0.5) * radius, 0.3 * radius, colours[4])
    sheet.stroke(_glyph(rng, x - radius / 2, y - radius / 2, radius), colours[5], 0.12 * radius)


def _ivy(sheet: Sheet, rng: Generator, plan: Plan) -> None:
    x, top = rng.uniform(0, plan.width), sheet.size[1]
    reach = rng.uniform(2, plan.height * 0.8)
    for climb in np.sort(rng.random(160)):
        spread = 0.25 + 0.9 * climb * (1 - climb) * 2
        leaf = (x + rng.normal(0, spread), top - climb * reach)
        sheet.disc(*leaf, rng.uniform(0.08, 0.2), _toned(_pick(rng, LEAVES), rng.uniform(0.8, 1.3)))


def _banner(sheet: Sheet, rng: Generator, plan: Plan) -> None:
    bay = rng.integers(1, plan.bays)
    w, h = 0.62, rng.uniform(1.8, 3.2)
    x, y = bay * plan.bay - w / 2, sheet.size[1] - plan.ground_floor - h - 0.2
    cloth, ink = (VIVID[i] for i in rng.permutation(len(VIVID))[:2])
    sheet.box(x + 0.06, y + 0.06, w, h, _toned(plan.wall, 0.6))
    sheet.box(x, y, w, h, cloth)
    for i in range(int(h / 0.55)):
        sheet.stroke(_glyph(rng, x + 0.13, y + 0.12 + i * 0.55, 0.46), ink, 0.07)


def _drainpipe(sheet: Sheet, rng: Generator, plan: Plan) -> None:
    x = rng.integers(0, plan.bays + 1) * plan.bay * 0.98 + 0.1
    sheet.box(x + 0.12, plan.front_rise, 0.07, plan.height, _toned(plan.wall, 0.6))
    sheet.box(x, plan.front_rise, 0.13, plan.height, _toned(plan.paint, 1.1))


def _ornament(sheet: Sheet, rng: Generator, plan: Plan, x: float, y: float) -> None:
    """In the gable: a round window with spokes, which may be a clock, or a painted sign."""
    if rng.random() < 0.3:
        return _mural(sheet, rng, x, y, 0.7)
    radius = rng.uniform(0.45, 0.8)
    sheet.disc(x, y, radius + 0.18, plan.trim)
    sheet.disc(x, y, radius, VIVID[4] if rng.random() < 0.5 else (66, 74, 84))
    for angle in np.arange(rng.integers(2, 9)) * 2 * np.pi / 8:
        sheet.stroke([(x, y), (x + radius * np.sin(angle), y - radius * np.cos(angle))], plan.paint, 0.08)
