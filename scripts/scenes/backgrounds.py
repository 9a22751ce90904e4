"""Backgrounds: the plain ones of product catalogues, and photograph-like ones with depth, light and clutter.

All are (H, W, 3) float32 in [0, 1]. `catalog_background` and `contact_shadow` also put real cut-outs on paper.

    python -c "from scenes.backgrounds import catalog_background; import numpy;
               print(catalog_background((256, 256), numpy.random.default_rng(0)).mean())"
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from scenes.families.drawing import blank, draw_polygons, ellipse, reduce, rotate
from scenes.families.textures import fractal, grid, natural_colour, ramp, smoothstep


def catalog_background(size_hw: tuple[int, int], rng) -> np.ndarray:
    """White, light grey (235..250 of 255), or a vertical gradient from 245..255 above to 235..250 below."""
    height, width = size_hw
    kind = rng.integers(3)
    if kind == 0:
        top = bottom = 255.0
    elif kind == 1:
        top = bottom = rng.uniform(235, 250)
    else:
        top = rng.uniform(245, 255)
        bottom = min(top, rng.uniform(235, 250))
    column = np.linspace(top, bottom, height, dtype=np.float32)[:, None, None] / 255
    return np.broadcast_to(column, (height, width, 3)).copy()


def contact_shadow(background: np.ndarray, alpha: np.ndarray, rng) -> np.ndarray:
    """The background with the object's soft shadow: its alpha, flattened at its foot and blurred."""
    height, width = alpha.shape
    small = cv2.resize(alpha, (128, 128), interpolation=cv2.INTER_AREA)
    rows = np.flatnonzero(small.max(1) > 0.3)
    if not len(rows):
        return background
    foot, lean, squash = rows[-1] - 1.0, rng.uniform(-0.5, 0.5), rng.uniform(0.06, 0.14)
    flatten = np.array([[1, lean * squash, -lean * squash * foot], [0, squash, foot * (1 - squash)]])
    flat = cv2.warpAffine(small, flatten, (128, 128), flags=cv2.INTER_AREA)
    # The core where the object touches the ground is dark and narrow, the penumbra pale and wide.
    shadow = 0.5 * cv2.GaussianBlur(flat, (0, 0), 2) + 0.5 * cv2.GaussianBlur(flat, (0, 0), 7)
    shadow = cv2.resize(shadow, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    return background * (1 - rng.uniform(0.2, 0.55) * shadow[..., None]).astype(np.float32)


def photographic_background(size: int, rng, files: Sequence[Path] = ()) -> np.ndarray:
    """A textured wall, bokeh, landscape or cluttered room; with `files`, a crop of one of them."""
    if files:
        return crop_of(files[rng.integers(len(files))], size, rng)
    picture = rng.choice([wall, bokeh, landscape, clutter, clutter])(size, rng)
    exposure = rng.uniform(0.7, 1.15) * (1 + rng.uniform(-0.06, 0.06, 3))
    return np.clip(picture * exposure, 0, 1).astype(np.float32)


def crop_of(path: Path, size: int, rng) -> np.ndarray:
    """A random square of an image file, at least half its shorter side, resized."""
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None:
        raise ValueError(f"{path}: not a readable image; remove it from the backgrounds")
    height, width = bgr.shape[:2]
    side = max(1, int(min(height, width) * rng.uniform(0.5, 1)))
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    shape = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
    square = cv2.resize(bgr[top : top + side, left : left + side], (size, size), interpolation=shape)
    return cv2.cvtColor(square, cv2.COLOR_BGR2RGB).astype(np.float32) / 255


def soften(picture: np.ndarray, rng, most: float) -> np.ndarray:
    """Out of focus by a random amount up to `most` (Gaussian sigma in image widths)."""
    size = len(picture)
    sigma = max(0.3, rng.uniform(0, most) * size)
    step = max(1, int(sigma / 3))  # wide blurs are done at a smaller size
    small = cv2.resize(picture, (max(8, size // step),) * 2, interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), sigma * len(small) / size)
    return cv2.resize(small, (size, size), interpolation=cv2.INTER_LINEAR)


def wall(size: int, rng) -> np.ndarray:
    """Plaster, stone, cloth or wood under a slanting light."""
    x, y = grid(size)
    grain = fractal((size, size), rng, cells=rng.choice([3, 8, 20]), octaves=7, gain=rng.uniform(0.45, 0.7))
    kind = rng.integers(3)
    if kind == 0:
        rings = y * rng.uniform(6, 16) + 0.5 * fractal((size, size), rng, cells=2, octaves=3) + 0.06 * grain
        grain = 1.5 * np.sin(rings * np.pi) + 0.3 * grain
    elif kind == 1:
        threads = rng.uniform(60, 160)
        grain = 0.6 * grain + 0.35 * np.sin(x * threads) * np.sin(y * threads)
    base = natural_colour(rng)
    picture = ramp([base * 0.6, base, base * 0.6 + natural_colour(rng) * 0.4], smoothstep(-2.2, 2.2, grain))
    light = 0.95 - rng.uniform(0, 0.35) * x * rng.choice([-1, 1]) - rng.uniform(0, 0.3) * y
    return soften(picture * light[..., None], rng, 0.006)


def bokeh(size: int, rng) -> np.ndarray:
    """Smooth colours far out of focus, with discs of light."""
    first, second, third = natural_colour(rng), natural_colour(rng), natural_colour(rng)
    x, y = grid(size)
    base = fractal((size, size), rng, cells=2, octaves=2) * 0.5
    picture = ramp([first * 0.5, second * 0.7, third * 0.9], smoothstep(-1.4, 1.4, base + rng.uniform(-1, 1) * x - y))
    glow = natural_colour(rng) * 0.5 + np.array([0.5, 0.45, 0.35])
    for _ in range(rng.integers(8, 60)):
        canvas_x, canvas_y, radius = *rng.uniform(-1, 1, 2), rng.uniform(0.03, 0.16)
        top, left = (int(np.clip((c - 1.2 * radius + 1) / 2 * size, 0, size)) for c in (canvas_y, canvas_x))
        bottom, right = (int(np.clip((c + 1.2 * radius + 1) / 2 * size, 0, size)) for c in (canvas_y, canvas_x))
        window = np.s_[top:bottom, left:right]
        distance = np.hypot(x[window] - canvas_x, y[window] - canvas_y) / radius
        disc = smoothstep(1.04, 0.94, distance) * (0.75 + 0.25 * smoothstep(0.6, 0.95, distance))
        tint = glow * rng.uniform(0.5, 1, 3)
        picture[window] += (disc * rng.uniform(0.08, 0.45))[..., None] * tint * (1 - picture[window]).clip(0, 1)
    return picture


def landscape(size: int, rng) -> np.ndarray:
    """Sky with clouds over hills and ground, in or out of focus."""
    _, y = grid(size)
    horizon = rng.uniform(-0.2, 0.5)
    blue = np.array([0.45, 0.62, 0.82]) * rng.uniform(0.8, 1.1) * (1 - rng.uniform(0, 0.2, 3))
    clouds = smoothstep(0.1, 1.6, fractal((size, size), rng, cells=2.5, octaves=6))
    picture = ramp([blue * 0.85, blue, blue * 0.5 + 0.5], smoothstep(-1, horizon, y))
    picture = picture + (0.95 - picture) * (clouds * rng.uniform(0, 0.8))[..., None]
    for depth in range(int(rng.integers(1, 5))):
        ridge = fractal((1, size), rng, cells=3, octaves=5)[0] * 0.08 + horizon + 0.12 * depth
        land = smoothstep(-0.01, 0.01, y - ridge[None])[..., None]
        soil = rng.choice([(0.28, 0.36, 0.2), (0.42, 0.38, 0.26), (0.3, 0.3, 0.3)]) * rng.uniform(0.6, 1.3)
        hazy = soil + (blue * 0.8 + 0.15 - soil) * 0.55 * (1 - depth / 4)
        ground = hazy * (1 + 0.22 * fractal((size, size), rng, cells=10, octaves=6, gain=0.65))[..., None]
        picture = picture + (ground - picture) * land
    return soften(picture.astype(np.float32), rng, 0.015)


def clutter(size: int, rng) -> np.ndarray:
    """Shelves with things, tiles, stripes or overlapping shapes, each with its own shade, in or out of focus."""
    canvas = blank(size)
    kind, base, palette = rng.integers(4), natural_colour(rng), [natural_colour(rng) for _ in range(6)]

    def rectangle(left, top, right, bottom):
        return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])

    shapes, colours = [rectangle(-1.1, -1.1, 1.1, 1.1)], [base * 0.7]
    if kind == 0:  # shelves
        edges = np.linspace(-1, 1, int(rng.integers(3, 7)))
        for top, bottom in pairwise(edges):
            left = -1.0
            while left < 1:
                width, gap = rng.uniform(0.03, 0.2), rng.choice([0, 0, 0.02, 0.12])
                crest = bottom - (bottom - top) * rng.uniform(0.45, 0.88)
                colour = palette[rng.integers(6)] * rng.uniform(0.5, 1)
                shapes += [rectangle(left, crest, left + share * width, bottom) for share in (1, 0.25)]
                colours += [colour, colour * 1.2]
                left += width + gap
            shapes += [rectangle(-1.1, bottom + y, 1.1, bottom + y + 0.05) for y in (-0.03, 0.02)]
            colours += [base, base * 0.4]
    elif kind == 1:  # tiles or bricks
        rows, ratio, shift = int(rng.integers(4, 16)), rng.choice([1, 2, 3]), rng.choice([0, 0.5])
        step, joint = 2 / rows, rng.uniform(0.02, 0.1) * 2 / rows
        for row in range(rows):
            for column in range(-1, rows // ratio + 2):
                left, top = -1 + (column + shift * (row % 2)) * step * ratio, -1 + row * step
                shapes.append(rectangle(left + joint, top + joint, left + step * ratio - joint, top + step - joint))
                colours.append(palette[0] * rng.uniform(0.8, 1.1))
    elif kind == 2:  # stripes
        edges, angle = np.sort(rng.uniform(-1.6, 1.6, int(rng.integers(6, 30)))), rng.uniform(0, np.pi)
        for low, high in pairwise(edges):
            shapes.append(rotate(rectangle(-1.6, low, 1.6, high), angle))
            colours.append(palette[rng.integers(3)] * rng.uniform(0.85, 1.1))
    else:
        for _ in range(rng.integers(15, 60)):
            centre, extent, angle = rng.uniform(-1.1, 1.1, 2), rng.uniform(0.06, 0.45, 2), rng.uniform(0, np.pi)
            block = rotate(rectangle(-extent[0], -extent[1], *extent), angle) + centre
            shape = ellipse(centre, extent, angle) if rng.random() < 0.4 else block
            colour = palette[rng.integers(6)] * rng.uniform(0.5, 1.1)
            shapes += [shape + 0.025, shape]
            colours += [colour * 0.35, colour]
    draw_polygons(canvas, shapes, colours)
    x, y = grid(size)
    light = 0.9 + rng.uniform(-0.25, 0.25) * x - rng.uniform(0, 0.25) * y
    light += 0.05 * fractal((size, size), rng, cells=6, octaves=6)
    return soften(reduce(canvas, size)[..., :3] * light[..., None].astype(np.float32), rng, 0.02)
