"""Families with more holes than material: web (spider webs, twigs, spoked wheels, cables) and lace."""

import numpy as np

from scenes.families.drawing import (
    blank,
    closed,
    draw_polygons,
    draw_strands,
    ellipse,
    fit,
    over,
    polar,
    reduce,
    relight,
    rotate,
)
from scenes.families.strands import TONES, to_index, tubes
from scenes.families.textures import draw_light, fractal, natural_colour, tones

# White twice, because it is the most common; ecru, black, crimson, slate.
YARNS = ((0.96, 0.95, 0.92),) * 2 + ((0.9, 0.84, 0.72), (0.06, 0.06, 0.07), (0.5, 0.1, 0.14), (0.32, 0.4, 0.5))


def web(side: int, rng) -> np.ndarray:
    """Thin structures with large holes: a spider web, bare twigs, a spoked wheel or a tangle of cable."""
    return rng.choice([spider_web, spider_web, twigs, twigs, wheel, cables])(side, rng)


def spider_web(side: int, rng) -> np.ndarray:
    """Spokes, a sagging spiral with gaps, and often dew."""
    spokes, turns = int(rng.integers(16, 30)), int(rng.integers(18, 34))
    angle = np.linspace(0, 2 * np.pi, spokes, endpoint=False) + rng.normal(0, 0.07, spokes)
    reach = rng.uniform(0.7, 0.95, spokes)
    hub = rng.uniform(-0.12, 0.12, 2)
    direction = polar(angle)
    radial = hub + direction[:, None] * reach[:, None, None] * np.linspace(0, 1, 12)[None, :, None]
    radius = np.linspace(0.09, 0.86, turns)[:, None] * reach[None] + np.arange(spokes) / spokes * 0.77 / turns
    radius += rng.normal(0, 0.004, radius.shape)
    start = hub + radius[..., None] * direction
    end = np.roll(start, -1, axis=1)
    end[:-1, -1] = start[1:, 0]  # one spiral, not rings
    t = np.linspace(0, 1, 9)[:, None]
    sag = 1 - rng.uniform(0.25, 0.45) * t * (1 - t)
    thread = hub + ((start[:-1, :, None] * (1 - t) + end[:-1, :, None] * t) - hub) * sag
    thread = thread.reshape(-1, 9, 2)[rng.random((turns - 1) * spokes) > 0.04]
    silk = tones(np.array([0.86, 0.87, 0.9]), TONES)
    canvas = blank(side)
    for paths, width in ((radial, 0.0036), (thread, 0.0022)):
        tone = rng.uniform(0.35, 1, (len(paths), paths.shape[1] - 1))
        draw_strands(canvas, fit(paths), to_index(tone), np.full(tone.shape, width), silk)
    layer = reduce(canvas, side) * np.float32(rng.uniform(0.6, 1))
    if rng.random() < 0.6:
        layer = over(dew(side, rng, fit(thread).reshape(-1, 2)), layer)
    return layer


def dew(side: int, rng, places: np.ndarray) -> np.ndarray:
    """Small water drops: grey lens, dark upper rim, bright foot and a glint."""
    canvas = blank(side)
    centres = places[rng.integers(len(places), size=int(rng.integers(300, 900)))]
    radii = 0.003 + 0.008 * rng.random(len(centres)) ** 3
    disc = polar(np.linspace(0, 2 * np.pi, 14, endpoint=False))
    for scale, shift, colour in ((1, 0, (0.3, 0.33, 0.35)), (0.8, 0.2, (0.62, 0.66, 0.68)), (0.36, -0.4, (1, 1, 1))):
        discs = centres[:, None] + radii[:, None, None] * (scale * disc + (0, shift))
        draw_polygons(canvas, discs, [colour] * len(discs))
    return reduce(canvas, side)


def branch(start, heading: float, length: float, width: float, rng, depth: int) -> list[tuple]:
    """A crooked twig and its side twigs, recursively, as (path (10, 2), width at each of 9 segments)."""
    bends = heading + np.cumsum(rng.normal(0, 0.13, 9))
    steps = polar(bends) * length / 9
    path = np.concatenate([[start], start + np.cumsum(steps, 0)])
    found = [(path, width * np.linspace(1, 0.55, 9))]
    if depth:
        for at in range(2, 10, 1 if depth > 1 else 2):
            if rng.random() < 0.75:
                turn = bends[min(at, 8)] + rng.choice([-1, 1]) * rng.uniform(0.35, 0.95)
                found += branch(path[at], turn, length * rng.uniform(0.35, 0.65), width * 0.5, rng, depth - 1)
    return found


def twigs(side: int, rng) -> np.ndarray:
    """A bare branching bough or shrub."""
    stems, found = int(rng.integers(1, 4)), []
    for _ in range(stems):
        found += branch(np.array([rng.normal(0, 0.08), 0.95]), -np.pi / 2 + rng.normal(0, 0.25), 1.05, 0.05, rng, 3)
    paths, width = np.stack([p for p, _ in found]), np.stack([w for _, w in found])
    paths, width = paths[::-1], width[::-1]
    bottom, top = paths[..., 1].max(), paths[..., 1].min()
    paths = paths - (paths[..., 0].mean(), (bottom + top) / 2)
    bark = tones(np.array([0.46, 0.37, 0.3]) * rng.uniform(0.5, 1.3), TONES)
    canvas = blank(side)
    tubes(canvas, fit(paths * rng.uniform(1, 1.5), 0.92), width, bark, draw_light(rng))
    return relight(reduce(canvas, side), 1 + 0.16 * fractal((side, side), rng, cells=60, octaves=3))


def wheel(side: int, rng) -> np.ndarray:
    """A bicycle wheel seen at an angle: tyre, rim, crossed spokes, hub."""
    light, metal, rubber = draw_light(rng), tones((0.72, 0.73, 0.75), TONES), tones((0.16, 0.16, 0.16), TONES)
    squash, turn, radius = rng.uniform(0.45, 1), rng.uniform(0, np.pi), rng.uniform(0.8, 0.9)
    angle = np.linspace(0, 2 * np.pi, int(rng.choice([24, 28, 32, 36])), endpoint=False)
    offset = np.where(np.arange(len(angle)) % 4 < 2, 1, -1) * rng.uniform(0.3, 1.2)

    def circle(at, r):
        return rotate(np.stack([r * np.cos(at) * squash, r * np.sin(at)], -1), turn)

    spokes = np.stack([circle(angle + offset, 0.07), circle(angle, radius)], 1)
    lap = np.linspace(0, 2 * np.pi, 160)
    canvas = blank(side)
    tubes(canvas, spokes, np.full((len(spokes), 1), rng.uniform(0.005, 0.009)), metal, light)
    tyre = (radius + 0.03, rng.uniform(0.05, 0.1), rubber)
    for ring, width, palette in ((radius - 0.02, 0.045, metal), tyre, (0.06, 0.05, metal)):
        tubes(canvas, circle(lap, ring)[None], np.full((1, 159), width), palette, light)
    return reduce(canvas, side)


def cables(side: int, rng) -> np.ndarray:
    """Loose loops of cable, rope or thread."""
    canvas, light = blank(side), draw_light(rng)
    for _ in range(rng.integers(1, 4)):
        t = np.linspace(0, 2 * np.pi, 400)
        k = np.arange(1, 8)[:, None, None]
        weight = rng.normal(0, 1, (2, 7, 1, 2)) / k**0.6
        path = (weight[0] * np.cos(k * t[:, None]) + weight[1] * np.sin(k * t[:, None])).sum(0)
        path = path / np.abs(path).max() * rng.uniform(0.7, 0.94)
        width = np.full((1, 399), rng.uniform(0.008, 0.04))
        tubes(canvas, path[None], width, tones(natural_colour(rng), TONES), light)
    return reduce(canvas, side)


def lace_cell(kind: str, rng) -> np.ndarray:
    """Curves (K, 17, 2) of one repeat of a lace row, x in [-0.5, 0.5], y in [0, 1] across the row."""
    t = np.linspace(0, 1, 17)[:, None]

    def lines(ends):
        return np.stack([np.array(a) * (1 - t) + np.array(b) * t for a, b in ends])

    def crossings(heights):
        return [((-0.5, y), (0.5, y)) for y in heights]

    def uprights(places):
        return [((x, 0), (x, 1)) for x in places]

    def loops(centres, radii, angles):
        return np.stack([closed(ellipse(*shape, 16)) for shape in zip(centres, radii, angles, strict=True)])

    if kind == "mesh":
        n = 3
        steps = [(i / n - 0.5, j / n) for i in range(n) for j in range(n)]
        return lines([((x, y), (x + d, y + 1 / n)) for x, y in steps for d in (1 / n, 0)][::2]
                     + [((x + 1 / n, y), (x, y + 1 / n)) for x, y in steps])
    if kind == "ladder":
        return lines([*uprights(np.linspace(-0.45, 0.45, 5)), *crossings((0, 0.12, 0.88, 1))])
    if kind == "scallop":
        turn = np.pi * t[:, 0]
        return np.array([0.5, 0.42, 0.34, 0.2, 0.1])[:, None, None] * polar(turn) * (-1, 1.8)
    if kind == "cloth":
        return lines([*crossings(np.linspace(0, 1, 13)), *uprights(np.linspace(-0.5, 0.45, 10))])
    petals = int(rng.integers(5, 9))
    angles = np.arange(petals) * 2 * np.pi / petals
    middle = np.array([0, 0.5]) + 0.27 * polar(angles)
    # Concentric loops fill a petal as satin stitches do.
    rings = [loops(middle, [(0.2 * k, 0.11 * k)] * petals, angles) for k in (1, 0.84, 0.68, 0.52, 0.36, 0.2)]
    hub = loops([(0, 0.5)] * 3, [(k, k) for k in (0.1, 0.07, 0.03)], [0] * 3)
    slanted = [((sign * 0.5, y), (-sign * 0.5, y + 0.33)) for y in (0, 0.33, 0.67) for sign in (-1, 1)]
    ground = lines([*slanted, *crossings((0, 0.33, 0.67))])
    return np.concatenate([ground, *rings, hub])


def lace(side: int, rng) -> np.ndarray:
    """A crocheted doily or a hanging piece of lace: nets, flowers, ladders and scallops of thread, with folds."""
    doily = rng.random() < 0.4
    rows = int(rng.integers(4, 8)) if doily else int(rng.integers(4, 10))
    columns = int(rng.integers(10, 20))
    kinds = [*rng.choice(["mesh", "mesh", "flower", "flower", "ladder", "cloth"], rows - 1), "scallop"]
    curves = []
    for row, kind in enumerate(kinds):
        cell = lace_cell(kind, rng)
        repeat = columns if not doily else max(6, round(columns * (row + 1.2) / rows))
        shift = (np.arange(repeat) + 0.5)[:, None, None]
        u = (cell[None, ..., 0] + shift) / repeat
        v = (cell[None, ..., 1] + row) / rows
        curves.append(np.stack([u, np.broadcast_to(v, u.shape)], -1).reshape(-1, 17, 2))
    uv = np.concatenate(curves)
    u, v = uv[..., 0], uv[..., 1]
    if doily:
        angle, radius = 2 * np.pi * u, 0.04 + 0.88 * v / v.max()
        points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1) * (1, rng.uniform(0.6, 1))
        slope = 0.15 * np.sin(3 * angle + 5 * v)
    else:
        folds, depth, phase = rng.uniform(1.5, 5), rng.uniform(0, 0.85), rng.uniform(0, 6)
        wave = 2 * np.pi * folds * (u + 0.06 * np.sin(5 * v)) + phase
        # Foreshortening: steep parts of a fold look narrow, with their threads closer together.
        x = 2 * u - 1 + depth * np.sin(wave) / (np.pi * folds)
        y = 2 * v - 1 + 0.04 * depth * np.cos(wave) + 0.05 * rng.normal() * (2 * u - 1) ** 2
        points, slope = np.stack([x, y], -1) * (rng.uniform(0.7, 0.93), 0.9), depth * np.sin(wave)
    points = fit(points + rng.normal(0, 0.0006, points.shape))
    yarn = tones(rng.choice(YARNS), TONES)
    tone = (0.72 + 0.22 * slope[:, 1:]) * rng.uniform(0.85, 1.1, (len(points), 16))
    thread = rng.uniform(0.0042, 0.008) * 14 / columns
    canvas = blank(side)
    for share, lift in ((1.0, 0.55), (0.5, 1.0)):  # a thread is darker at its flanks
        draw_strands(canvas, points, to_index(tone * lift), np.full(tone.shape, thread * share), yarn)
    return reduce(canvas, side)
