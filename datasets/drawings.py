"""Made-up pictures for the sample data: coloured objects with a class, and land cover with its mask.

Every function takes its own random generator, so a picture depends on its seed alone and on no other picture.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from datasets.palette import NUM_CLASSES, UNKNOWN

_TURN = 2 * np.pi


def _outline(radii: list[float], start: float = 0.0) -> np.ndarray:
    """The polygon with these radii at equal angles from `start`: (n, 2) in -1..1."""
    angles = start - _TURN / 4 + _TURN * np.arange(len(radii)) / len(radii)
    return np.asarray(radii)[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _heart() -> np.ndarray:
    t = _TURN * np.arange(60) / 60
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([np.sin(t) ** 3, -y / 16], axis=1)


_DISC = _outline([1.0] * 60)
_CROSS = [(-1, -3), (1, -3), (1, -1), (3, -1), (3, 1), (1, 1)]
_CROSS += [(-x, -y) for x, y in _CROSS]
_ARROW = [(0, -1), (0.9, 0.05), (0.4, 0.05), (0.4, 1), (-0.4, 1), (-0.4, 0.05), (-0.9, 0.05)]

# Name: its outline, and what is cut out of it.
_SHAPES = {
    "disc": (_DISC, None),
    "square": (_outline([1.1] * 4, start=_TURN / 8), None),
    "star": (_outline([1.1, 0.45] * 5), None),
    "ring": (_DISC, 0.55 * _DISC),
    "triangle": (_outline([1.1] * 3), None),
    "cross": (np.array(_CROSS) / 3.0, None),
    "moon": (_DISC, 0.85 * _DISC + np.array([0.5, 0.0])),
    "hexagon": (_outline([1.0] * 6), None),
    "heart": (_heart(), None),
    "arrow": (np.array(_ARROW), None),
}
_PAINTS = {
    "red": (200, 45, 40),
    "green": (50, 150, 60),
    "blue": (45, 85, 195),
    "yellow": (225, 190, 40),
    "purple": (140, 60, 165),
    "white": (228, 226, 220),
}
_PATTERNS = ("plain", "striped", "dotted", "chequered")
OBJECT_CLASSES = len(_SHAPES) * len(_PAINTS) * len(_PATTERNS)


def _object_of_class(label: int) -> tuple[str, str, str]:
    """(pattern, paint, shape) of a class; neighbours differ in all three, and no two classes in none."""
    group, shape = divmod(label, len(_SHAPES))
    paint = (shape + group) % len(_PAINTS)
    pattern = (label + label // (len(_SHAPES) * len(_PAINTS))) % len(_PATTERNS)
    return _PATTERNS[pattern], list(_PAINTS)[paint], list(_SHAPES)[shape]


def object_name(label: int) -> str:
    """The class in words, as `classes.txt` has it: "striped_green_square"."""
    return "_".join(_object_of_class(label))


def _noise(rng: np.random.Generator, size: tuple[int, int], cells: float) -> np.ndarray:
    """Smooth noise in 0..1 of (height, width) with about `cells` hills along the longer side."""
    height, width = size
    longer = max(size)
    grid = rng.random((max(2, round(cells * height / longer)) + 1, max(2, round(cells * width / longer)) + 1))
    image = Image.fromarray(grid.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(image), 0.0, 1.0)


def _pattern(name: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """How much of the paint each point keeps, 0.4 to 1, at the object's own coordinates."""
    stripes, dots = np.sin(9 * u) > 0, np.sin(11 * u) * np.sin(11 * v) > 0.35
    squares = stripes ^ (np.sin(9 * v) > 0)
    dark = {"plain": u > 9, "striped": stripes, "dotted": dots, "chequered": squares}
    return np.where(dark[name], 0.4, 1.0)


def draw_object(rng: np.random.Generator, label: int, size: tuple[int, int]) -> Image.Image:
    """A picture (height, width) of an object of the class; place, size, turn, light and ground are random."""
    height, width = size
    pattern, paint, shape = _object_of_class(label)
    radius = min(size) * rng.uniform(0.28, 0.42)
    centre = np.array([width, height]) / 2 + rng.uniform(-0.1, 0.1, 2) * [width, height]
    turn = rng.uniform(-0.35, 0.35)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])

    stencil = Image.new("L", (2 * width, 2 * height))  # twice the size, for smooth edges
    pen = ImageDraw.Draw(stencil)
    for points, fill in zip(_SHAPES[shape], (255, 0)):
        if points is not None:
            pen.polygon([tuple(p) for p in 2 * (centre + radius * points @ rotation)], fill=fill)
    inside = np.asarray(stencil.resize((width, height), Image.Resampling.BOX))[..., None] / 255.0

    y, x = np.mgrid[:height, :width]
    u, v = np.moveaxis((np.stack([x, y], axis=-1) - centre) / radius @ rotation.T, -1, 0)
    colour = np.clip(np.array(_PAINTS[paint]) + rng.uniform(-22, 22, 3), 0, 255)
    coloured = colour * (_pattern(pattern, u, v) * (1 - 0.2 * np.clip(u + v, -1, 1)))[..., None]
    near, far = rng.uniform(40, 190, 3), rng.uniform(40, 190, 3)
    mix = _noise(rng, size, rng.uniform(2, 10))[..., None]
    picture = (near * mix + far * (1 - mix)) * (1 - inside) + coloured * inside
    picture = picture * rng.uniform(0.8, 1.15) + rng.normal(0, 5, (height, width, 1))
    return Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))


# -- land cover ----------------------------------------------------------------------------------------------


def _mix(noise: np.ndarray, low: tuple[int, int, int], high: tuple[int, int, int]) -> np.ndarray:
    """Colours between `low` (noise 0) and `high` (noise 1): (H, W) → (H, W, 3)."""
    return np.array(low) + noise[..., None] * (np.array(high) - np.array(low))


def _patches(rng: np.random.Generator, side: int, long: float, short: float, colours: list) -> tuple:
    """A turned grid of patches of one colour each: (H, W, 3) colours and (H, W) places across a patch."""
    turn = rng.uniform(0, _TURN)
    y, x = np.mgrid[:side, :side]
    u = (x * np.cos(turn) + y * np.sin(turn)) / long + 1000
    v = (y * np.cos(turn) - x * np.sin(turn)) / short + 1000
    choice = rng.integers(len(colours), size=(64, 64))[u.astype(int) % 64, v.astype(int) % 64]
    return np.array(colours, dtype=float)[choice], u % 1, v % 1


def _urban(rng: np.random.Generator, side: int) -> np.ndarray:
    roofs = [(205, 205, 200), (165, 160, 155), (150, 95, 80), (120, 120, 125), (225, 220, 210), (85, 95, 75)]
    block = side * rng.uniform(0.024, 0.034)
    colours, u, v = _patches(rng, side, block * 1.3, block, roofs)
    return np.where(((u < 0.2) | (v < 0.25))[..., None], np.array([78.0, 76, 74]), colours)


def _agriculture(rng: np.random.Generator, side: int) -> np.ndarray:
    crops = [(150, 122, 84), (128, 104, 74), (168, 142, 98), (104, 118, 66), (88, 112, 58), (140, 128, 80)]
    field = side * rng.uniform(0.09, 0.16)
    colours, u, v = _patches(rng, side, field * 1.6, field, crops)
    edge = np.where((u < 0.03) | (v < 0.05), 0.7, 1.0)
    return colours * ((1 + 0.07 * np.sin(_TURN * 8 * v)) * edge)[..., None]


def _rangeland(rng: np.random.Generator, side: int) -> np.ndarray:
    grass = _mix(_noise(rng, (side, side), 7), (112, 116, 72), (146, 138, 92))
    bushes = _noise(rng, (side, side), 60) > 0.86
    return np.where(bushes[..., None], np.array([66.0, 78, 48]), grass)


def _forest(rng: np.random.Generator, side: int) -> np.ndarray:
    crowns = 0.75 * _noise(rng, (side, side), 85) + 0.25 * _noise(rng, (side, side), 8)
    return _mix(crowns, (10, 34, 16), (68, 104, 50))


def _water(rng: np.random.Generator, side: int) -> np.ndarray:
    return _mix(_noise(rng, (side, side), 4), (24, 52, 74), (48, 88, 98))


def _barren(rng: np.random.Generator, side: int) -> np.ndarray:
    sand = 0.6 * _noise(rng, (side, side), 5) + 0.4 * _noise(rng, (side, side), 28)
    return _mix(sand, (172, 146, 116), (226, 206, 178))


def _cloud(rng: np.random.Generator, side: int) -> np.ndarray:
    return _mix(_noise(rng, (side, side), 6), (222, 226, 232), (255, 255, 255))


_TEXTURES = (_urban, _agriculture, _rangeland, _forest, _water, _barren, _cloud)  # the last is "unknown"
_SHARES = (0.15, 0.37, 0.13, 0.15, 0.09, 0.11, 0.0)  # unknown comes by request only
_GRID = 3  # a tile is made of this many regions a side


def draw_tile(rng: np.random.Generator, side: int, wanted: list[int]) -> tuple[Image.Image, np.ndarray]:
    """A satellite tile and its (side, side) uint8 classes, the `wanted` ones (9 at most) among them."""
    regions = rng.choice(NUM_CLASSES, size=_GRID**2, p=_SHARES)
    regions[rng.permutation(_GRID**2)[: len(wanted)]] = wanted
    corners = np.stack(np.mgrid[:_GRID, :_GRID], axis=-1).reshape(-1, 2)
    centres = (corners + rng.uniform(0.2, 0.8, corners.shape)) * side / _GRID
    bend = [side * 0.12 * (_noise(rng, (side, side), 9) - 0.5) for _ in range(2)]  # crooked borders
    y, x = np.mgrid[:side, :side] + np.array(bend)
    nearest = np.argmin([(y - cy) ** 2 + (x - cx) ** 2 for cy, cx in centres], axis=0)
    classes = regions[nearest].astype(np.uint8)

    ground = np.zeros((side, side, 3))
    for label in np.unique(classes):
        ground = np.where((classes == label)[..., None], _TEXTURES[label](rng, side), ground)
    light = rng.uniform(0.82, 1.12) * rng.uniform(0.94, 1.06, 3)
    light = np.where((classes == UNKNOWN)[..., None], 1.0, light)  # clouds stay white
    ground = ground * light + rng.normal(0, 4, (side, side, 1))
    tile = Image.fromarray(np.clip(ground, 0, 255).astype(np.uint8))
    return tile.filter(ImageFilter.GaussianBlur(0.6)), classes
