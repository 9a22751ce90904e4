"""Families that let the background through: glass, smoke, lace, dense (X-ray-like) and blur (motion and defocus).

Each family is a function (side, rng) -> layer, (side, side, 4) float32 premultiplied; see drawing.py.

    python -c "from media import smoke; import numpy; print(smoke(256, numpy.random.default_rng(0)).shape)"
"""

import cv2
import numpy as np

from drawing import blank, coverage, draw_strands, ellipse, fit, over, paint, reduce, rotate, spline, tube_coverage
from fibres import TONES, cables, feather, to_index, wheel
from plants import foliage
from solids import PROFILES, draw_profile, inflate, product, revolve, turned
from textures import displace, draw_light, fractal, grid, natural_colour, normals, ramp, smoothstep, tones

GLASS_PROFILES = ("goblet", "tumbler", "bottle", "flask", "vase", "jar")
PROFILES["goblet"] = ([(0, 0.3), (0.2, 0.34), (0.42, 0.3), (0.56, 0.1), (0.6, 0.035), (0.9, 0.035), (0.96, 0.12), (1, 0.32)], "open")
PROFILES["tumbler"] = ([(0, 0.42), (0.6, 0.38), (0.97, 0.35), (1, 0.33)], "open")
DRINKS = ((110, 16, 28), (214, 170, 70), (196, 96, 30), (90, 46, 24), (222, 206, 160), (150, 190, 90), (200, 220, 226), (180, 40, 60))


def glass(side: int, rng) -> np.ndarray:
    """A glass vessel with a drink, soap bubbles, or a splash of liquid."""
    return rng.choice([vessel, vessel, bubbles, splash])(side, rng)


def softboxes(normal: np.ndarray, rng) -> np.ndarray:
    """Alpha of the mirrored windows on a clear curved surface: one or two vertical strips with a cross bar."""
    reflected_x, reflected_y = 2 * normal[..., 2] * normal[..., 0], 2 * normal[..., 2] * normal[..., 1]
    strength = np.zeros_like(reflected_x)
    for _ in range(rng.integers(1, 3)):
        place, width = rng.uniform(0.35, 0.85) * rng.choice([-1, 1]), rng.uniform(0.05, 0.16)
        strip = smoothstep(width, width * 0.6, np.abs(reflected_x - place)) * smoothstep(0.7, 0.6, np.abs(reflected_y))
        strength = np.maximum(strength, strip * rng.uniform(0.35, 0.95))
    return strength


def vessel(side: int, rng) -> np.ndarray:
    """A goblet, tumbler, carafe or bottle: clear walls, bright and dark rims, a thick foot, often a drink."""
    profile, _ = draw_profile(rng, GLASS_PROFILES)
    tilt, tint = rng.uniform(0.1, 0.26), 1 - rng.uniform(0, 0.35, 3) * rng.choice([0.15, 1])
    alpha, normal, at, _ = revolve(profile, tilt, side)
    x, y = grid(side)
    facing = np.clip(normal[..., 2], 0, 1)
    rim = (1 - facing) ** rng.uniform(2, 3.5)
    # Near the silhouette a glass wall mirrors bright and dark parts of the room in turn.
    room = 0.5 + 0.5 * np.sin(9 * rim + 3 * normal[..., 0] + 2.5 * at + rng.uniform(0, 6))
    body = paint((tint * (0.15 + 0.8 * room[..., None])).astype(np.float32), alpha * (rng.uniform(0.03, 0.1) + 0.75 * rim))
    foot = smoothstep(0.9, 0.97, at) * (0.5 + 0.5 * np.abs(fractal((side, side), rng, cells=6, octaves=4))).clip(0, 1)
    body = over(paint((tint * (0.35 + 0.6 * room[..., None])).astype(np.float32), alpha * foot * 0.6), body)
    layer = over(body, drink(profile, tilt, side, rng, alpha, at, normal)) if rng.random() < 0.75 else body
    top = np.concatenate([ellipse((0, profile[0, 0]), (profile[0, 1], tilt * profile[0, 1]), count=120)] * 2)[:121]
    ring = tube_coverage([top], [0.014], side) * (0.35 + 0.5 * room)
    layer = over(paint((0.4 + 0.6 * room[..., None] * tint).astype(np.float32), ring), layer)
    return over(paint(np.ones(3, np.float32), softboxes(normal, rng) * alpha), layer)


def drink(profile, tilt: float, side: int, rng, alpha, at, normal) -> np.ndarray:
    """What a vessel holds: Beer-Lambert absorption through its thickness, a lighter surface, a dark meniscus."""
    colour = np.array(DRINKS[rng.integers(len(DRINKS))]) / 255
    level, density = rng.uniform(0.15, 0.4), rng.uniform(0.5, 3.5)
    height = profile[0, 0] + level * (profile[-1, 0] - profile[0, 0])
    radius = np.interp(height, profile[:, 0], profile[:, 1]) * 0.95
    bowl_end = 0.57 if profile[:, 1].min() < 0.06 else 0.95
    x, y = grid(side)
    surface = coverage([ellipse((0, height), (radius, tilt * radius))], side)
    below = np.maximum(smoothstep(level - 0.01, level + 0.01, at), 0) * (at < bowl_end) * (1 - surface)
    thick = np.clip(normal[..., 2], 0.12, 1)
    body = alpha * below * (1 - np.exp(-density * thick))
    glow = 0.6 + 0.5 * smoothstep(-0.6, 0.8, normal[..., 0]) + 0.25 * at
    liquid = paint(np.clip(colour * glow[..., None], 0, 1).astype(np.float32), body)
    sheen = 0.75 + 0.5 * smoothstep(height - tilt * radius, height + tilt * radius, y)
    top = paint(np.clip(colour * 1.15 * sheen[..., None] + 0.06, 0, 1).astype(np.float32), surface * (1 - np.exp(-0.8 * density)))
    outline = ellipse((0, height), (radius, tilt * radius), count=100)
    meniscus = tube_coverage([np.concatenate([outline, outline[:1]])], [0.009], side) * 0.6
    return over(paint((colour * 0.5).astype(np.float32), meniscus), over(top, liquid))


def bubbles(side: int, rng) -> np.ndarray:
    """Soap bubbles: almost nothing in the middle, interference colours towards the rim, two window reflections."""
    layer = np.zeros((side, side, 4), np.float32)
    x, y = grid(side)
    film = fractal((side, side), rng, cells=3, octaves=4)
    for _ in range(rng.integers(1, 9)):
        radius = rng.uniform(0.1, 0.5) if len(layer) else 0.0
        cx, cy = rng.uniform(-0.94 + radius, 0.94 - radius, 2)
        nx, ny = (x - cx) / radius, (y - cy) / radius
        square = nx * nx + ny * ny
        inside = np.clip((1 - np.sqrt(square)) * radius * side / 2 + 0.5, 0, 1)
        nz = np.sqrt(np.clip(1 - square, 0, 1))
        phase = 5 * ny + 9 * (1 - nz) + 2.5 * film
        hue = 0.62 + 0.38 * np.sin(phase[..., None] + np.array([0, 2.1, 4.2]))
        shell = 0.05 + 0.65 * (1 - nz) ** 3 + 0.05 * np.abs(film)
        normal = np.stack([nx, ny, nz], -1)
        bubble = paint(hue.astype(np.float32), np.clip(shell, 0, 1) * inside)
        layer = over(over(paint(np.ones(3, np.float32), softboxes(normal, rng) * inside * 0.9), bubble), layer)
    return layer


def splash(side: int, rng) -> np.ndarray:
    """Thrown water, milk or paint: a wobbling sheet with drops around it."""
    x, y = grid(side)
    field = fractal((side, side), rng, cells=rng.uniform(2, 3.5), octaves=5, gain=0.4)
    along = rotate(np.stack([x, y], -1), rng.uniform(0, 3.1)).astype(np.float32)
    body = 0.85 - 1.1 * np.abs(along[..., 0]) ** 1.6 - rng.uniform(1.6, 4) * along[..., 1] ** 2 + 0.5 * field
    body *= smoothstep(0.97, 0.8, np.maximum(np.abs(x), np.abs(y)))
    slope = np.abs(cv2.Sobel(body, cv2.CV_32F, 1, 0)) + np.abs(cv2.Sobel(body, cv2.CV_32F, 0, 1))
    mask = np.clip((body - 0.32) / np.maximum(slope / 6, 1e-4) + 0.5, 0, 1)
    centres = rng.normal(0, 0.42, (int(rng.integers(15, 70)), 2)).clip(-0.9, 0.9)
    radii = 0.006 + 0.05 * rng.random(len(centres)) ** 3
    drops = [ellipse(c, (r, r * rng.uniform(0.8, 1.3)), rng.uniform(0, 3)) for c, r in zip(centres, radii, strict=True)]
    mask = np.maximum(mask, coverage(drops, side))
    ripple = 0.02 * fractal((side, side), rng, cells=9, octaves=3)
    normal = normals(inflate(mask, 160) * 0.9 + ripple * smoothstep(0, 0.5, mask))
    rim = np.clip(1 - normal[..., 2], 0, 1)
    milky = rng.random() < 0.4
    colour = natural_colour(rng) if milky else np.array([0.86, 0.93, 0.96], np.float32)
    dark = 0.5 + 0.5 * np.sin(7 * normal[..., 0] - 5 * normal[..., 1] + 2 * field)
    clear = np.clip(0.08 + 1.1 * rim ** 1.3, 0, 0.95)
    see = np.clip(0.8 + 0.4 * rim, 0, 1) if milky else clear
    tone = (0.55 + 0.45 * dark) if milky else (0.2 + 0.75 * dark)
    light = draw_light(rng)
    half = (light.direction + np.array([0, 0, 1])) / np.linalg.norm(light.direction + np.array([0, 0, 1]))
    glint = smoothstep(0.965, 0.99, normal @ half.astype(np.float32)) * 0.95
    layer = paint((colour * tone[..., None]).astype(np.float32), mask * see)
    return over(paint(np.ones(3, np.float32), mask * glint.astype(np.float32)), layer)


def curl(field: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The divergence-free flow (dx, dy) of a stream function; a swirl displaces without thinning."""
    scale = len(field) / 16
    return cv2.Sobel(field, cv2.CV_32F, 0, 1) * scale, -cv2.Sobel(field, cv2.CV_32F, 1, 0) * scale


def smoke(side: int, rng) -> np.ndarray:
    """A plume, a cloud, thin incense wisps or dust: turbulent density, Beer-Lambert alpha, light from above."""
    # Smoke has nothing sharp: half the resolution shows no difference.
    half = max(side // 2, 32)
    x, y = grid(half)
    kind = rng.integers(3)
    window = smoothstep(0.98, 0.62, np.maximum(np.abs(x), np.abs(y)))
    if kind == 0:  # plume: narrow at its foot, wider and thinner above
        rise = (1 - y) / 2
        middle = 0.25 * rng.normal() * rise + 0.1 * np.sin(4 * rise + rng.uniform(0, 6))
        width = 0.03 + rng.uniform(0.25, 0.45) * rise ** 1.2
        density = np.exp(-(((x - middle) / width) ** 2)) * (0.2 / width).clip(0, 2.2) * smoothstep(0.99, 0.9, y)
    elif kind == 1:  # cloud: round billows
        billow = 1 - np.abs(fractal((half, half), rng, cells=3, octaves=6, gain=0.55))
        ball = 1 - (x / rng.uniform(0.6, 0.9)) ** 2 - (y / rng.uniform(0.4, 0.8)) ** 2
        density = smoothstep(-0.1, 1.0, ball + 0.55 * billow - 0.3) * 2
    else:  # wisps: thin sheets seen edge-on
        density = np.zeros((half, half), np.float32)
        for _ in range(rng.integers(2, 6)):
            path = x - rng.uniform(-0.4, 0.4) - 0.3 * np.sin(rng.uniform(1.5, 4) * y + rng.uniform(0, 6)) * (1 - y) / 2
            width = rng.uniform(0.02, 0.09) * (1.2 - 0.8 * y)
            density += np.exp(-((path / width) ** 2)) * rng.uniform(0.3, 1)
    density = density.astype(np.float32)
    for cells, strength in ((2, 0.05), (4, 0.028), (8, 0.014), (16, 0.006)):
        dx, dy = curl(fractal((half, half), rng, cells=cells, octaves=2))
        density = displace(density, *(strength / cells * 1.6 * d for d in (dx, dy)))
    noise = fractal((half, half), rng, cells=5, octaves=7, gain=0.6)
    for cells in (3, 7):
        dx, dy = curl(fractal((half, half), rng, cells=cells, octaves=2))
        noise = displace(noise, 0.035 / cells * dx, 0.035 / cells * dy)
    density = density * np.exp(0.75 * noise) * window
    alpha = 1 - np.exp(-rng.uniform(0.5, 2.6) * density)
    # Light that reaches a point has crossed the smoke above it: its density, blurred and shifted down.
    above = cv2.GaussianBlur(displace(density, 0.02 * np.ones_like(x), -0.04 * np.ones_like(x)), (0, 0), half / 60)
    lit = np.exp(-0.8 * above) * 0.75 + 0.25 * smoothstep(-1.5, 1.5, noise)
    base = [(0.95, 0.95, 0.96), (0.8, 0.82, 0.85), (0.42, 0.41, 0.42), (0.12, 0.115, 0.11), tuple(natural_colour(rng))][rng.integers(5)]
    colour = ramp([np.array(base) * 0.5, np.array(base) * 0.8, np.clip(np.array(base) * 1.1 + 0.04, 0, 1)], lit)
    layer = cv2.resize(paint(colour, alpha), (side, side), interpolation=cv2.INTER_CUBIC)
    alpha = np.clip(layer[..., 3:], 0, 1)
    return np.concatenate([np.clip(layer[..., :3], 0, alpha), alpha], -1)


def lace_cell(kind: str, rng) -> np.ndarray:
    """Curves (K, 17, 2) of one repeat of a lace row, x in [-0.5, 0.5], y in [0, 1] across the row."""
    t = np.linspace(0, 1, 17)[:, None]

    def lines(ends):
        return np.stack([np.array(a) * (1 - t) + np.array(b) * t for a, b in ends])

    def loops(centres, radii, angles):
        return np.stack([ellipse(c, r, a, 16)[np.arange(17) % 16] for c, r, a in zip(centres, radii, angles, strict=True)])

    if kind == "mesh":
        n = 3
        steps = [(i / n - 0.5, j / n) for i in range(n) for j in range(n)]
        return lines([((x, y), (x + d, y + 1 / n)) for x, y in steps for d in (1 / n, 0)][::2]
                     + [((x + 1 / n, y), (x, y + 1 / n)) for x, y in steps])
    if kind == "ladder":
        return lines([((x, 0), (x, 1)) for x in np.linspace(-0.45, 0.45, 5)] + [((-0.5, y), (0.5, y)) for y in (0, 0.12, 0.88, 1)])
    if kind == "scallop":
        turn = np.pi * t[:, 0]
        return np.stack([np.stack([-r * np.cos(turn), r * 1.8 * np.sin(turn)], -1) for r in (0.5, 0.42, 0.34, 0.2, 0.1)])
    if kind == "cloth":
        return lines([((-0.5, y), (0.5, y)) for y in np.linspace(0, 1, 13)] + [((x, 0), (x, 1)) for x in np.linspace(-0.5, 0.45, 10)])
    petals = int(rng.integers(5, 9))
    angles = np.arange(petals) * 2 * np.pi / petals
    middle = np.array([0, 0.5]) + 0.27 * np.stack([np.cos(angles), np.sin(angles)], -1)
    # Concentric loops fill a petal as satin stitches do.
    rings = [loops(middle, [(0.2 * k, 0.11 * k)] * petals, angles) for k in (1, 0.84, 0.68, 0.52, 0.36, 0.2)]
    hub = loops([(0, 0.5)] * 3, [(k, k) for k in (0.1, 0.07, 0.03)], [0] * 3)
    ground = lines([((-0.5, y), (0.5, y + d)) for y in (0, 0.33, 0.67) for d in (0.33, 0)] + [((0.5, y), (-0.5, y + 0.33)) for y in (0, 0.33, 0.67)])
    return np.concatenate([ground, *rings, hub])


def lace(side: int, rng) -> np.ndarray:
    """A crocheted doily or a hanging piece of lace: nets, flowers, ladders and scallops of thread, with folds."""
    doily = rng.random() < 0.4
    rows = int(rng.integers(4, 8)) if doily else int(rng.integers(4, 10))
    columns = int(rng.integers(10, 20))
    kinds = [str(k) for k in rng.choice(["mesh", "mesh", "flower", "flower", "ladder", "cloth"], rows - 1)] + ["scallop"]
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
        # Horizontal foreshortening: steep parts of a fold are seen narrow, and their threads close up.
        x = 2 * u - 1 + depth * np.sin(wave) / (np.pi * folds)
        y = 2 * v - 1 + 0.04 * depth * np.cos(wave) + 0.05 * rng.normal() * (2 * u - 1) ** 2
        points, slope = np.stack([x, y], -1) * (rng.uniform(0.7, 0.93), 0.9), depth * np.sin(wave)
    points = fit(points + rng.normal(0, 0.0006, points.shape))
    dyes = ((0.96, 0.95, 0.92), (0.96, 0.95, 0.92), (0.9, 0.84, 0.72), (0.06, 0.06, 0.07), (0.5, 0.1, 0.14), (0.32, 0.4, 0.5))
    yarn = tones(np.array(dyes[rng.integers(len(dyes))]), TONES)
    tone = (0.72 + 0.22 * slope[:, 1:]) * rng.uniform(0.85, 1.1, (len(points), 16))
    thread = rng.uniform(0.0042, 0.008) * 14 / columns
    canvas = blank(side)
    for share, lift in ((1.0, 0.55), (0.5, 1.0)):  # a thread is darker at its flanks
        draw_strands(canvas, points, to_index(tone * lift), np.full(tone.shape, thread * share), yarn)
    return reduce(canvas, side)


def body_parts(side: int, rng) -> list[tuple[np.ndarray, float]]:
    """A trunk with spine, ribs and pelvis, or a limb with its bones, as (silhouette, absorption) parts."""
    parts, bend = [], rng.normal(0, 0.12)
    spine_y = np.linspace(-0.8, 0.55, 15)
    spine_x = bend * np.sin(2.2 * spine_y)
    trunk = spline([(-0.16, -0.93), (0.16, -0.93), (0.62, -0.7), (0.66, 0.1), (0.56, 0.9), (-0.56, 0.9), (-0.66, 0.1), (-0.62, -0.7)], 160)
    parts.append((coverage([np.clip(trunk, -0.96, 0.95)], side), 1.3))
    lungs = [ellipse((s * 0.32, -0.28), (0.2, 0.4), -s * 0.15) for s in (-1, 1)]
    parts.append((coverage(lungs, side), -0.9))
    parts.append((coverage([ellipse((x, y), (0.075, 0.042)) for x, y in zip(spine_x, spine_y, strict=True)], side), 7.0))
    turn = np.linspace(0, 1, 30)
    ribs = [np.stack([spine_x[k + 2] + s * 0.56 * np.sin(turn * 2.3) * (0.75 + 0.03 * k), spine_y[k + 2] + 0.3 * turn**1.5 - 0.06], -1)
            for k in range(8) for s in (-1, 1)]
    parts.append((tube_coverage(ribs, [0.036] * len(ribs), side), 5.0))
    hips = [spline([(0.05 * s, 0.56), (0.46 * s, 0.42), (0.42 * s, 0.66), (0.2 * s, 0.84), (0.1 * s, 0.7)], 60) for s in (-1, 1)]
    parts.append((coverage(hips, side), 3.0))
    return parts


def luggage_parts(side: int, rng) -> list[tuple[np.ndarray, float]]:
    """A case with overlapping things in it, as (silhouette, absorption) parts."""
    w, h = rng.uniform(0.6, 0.9), rng.uniform(0.5, 0.8)
    case = spline([(-w, -h), (0, -h * 1.01), (w, -h), (w * 1.01, 0), (w, h), (0, h * 1.01), (-w, h), (-w * 1.01, 0)], 200)
    parts = [(coverage([case], side), rng.uniform(0.3, 0.8)), (tube_coverage([case], [0.03], side), 3.0)]
    for _ in range(rng.integers(5, 12)):
        centre, scale = rng.uniform(-0.55, 0.55, 2) * (w, h), rng.uniform(0.15, 0.4)
        angle, kind = rng.uniform(0, 6.3), rng.integers(4)
        if kind == 0:
            shape = coverage([ellipse(centre, (scale, scale * rng.uniform(0.3, 1)), angle)], side)
        elif kind == 1:
            rect = np.array([(-1, -0.5), (1, -0.5), (1, 0.5), (-1, 0.5)]) * scale
            shape = coverage([rotate(rect, angle) + centre], side)
        elif kind == 2:
            ring = ellipse(centre, (scale, scale * 0.8), angle)
            shape = tube_coverage([np.concatenate([ring, ring[:1]])], [rng.uniform(0.02, 0.08)], side)
        else:
            coil = np.linspace(0, 10 * np.pi, 200)
            path = np.stack([coil / 16 - 1, 0.35 * np.sin(coil)], -1) * scale
            shape = tube_coverage([rotate(path, angle) + centre], [0.02], side)
        parts.append((shape * parts[0][0], rng.uniform(0.8, 5)))
    return parts


def shell_parts(side: int, rng) -> list[tuple[np.ndarray, float]]:
    """A hollow jellyfish or sheer bell: nested skins, radial veins and tentacles, as (silhouette, absorption) parts."""
    bell = spline([(-0.7, 0.1), (-0.62, -0.45), (0, -0.85), (0.62, -0.45), (0.7, 0.1), (0.35, 0.16), (0, 0.1), (-0.35, 0.16)], 160)
    parts = [(coverage([bell * k + (0, (1 - k) * -0.2)], side), a) for k, a in ((1, 0.8), (0.8, 0.6), (0.45, 1.4))]
    s = np.linspace(0, 1, 40)
    veins = [np.stack([0.66 * x * np.sin(s * 1.5), -0.8 + 0.9 * s**1.4], -1) for x in np.linspace(-1, 1, 13)]
    arms = [np.stack([x + 0.06 * np.sin(9 * s + rng.uniform(0, 6)) * s * 2, 0.08 + 0.84 * s * rng.uniform(0.5, 1)], -1)
            for x in np.linspace(-0.6, 0.6, int(rng.integers(8, 24)))]
    return [*parts, (tube_coverage(veins, [0.012] * 13, side), 3.0), (tube_coverage(arms, [0.025] * len(arms), side), 3.0)]


def dense(side: int, rng) -> np.ndarray:
    """A body that absorbs by its thickness, with structure inside: X-rays, sheer jelly, or a solid with graded density."""
    if rng.random() < 0.35:
        return graded_solid(side, rng)
    parts = rng.choice([body_parts, luggage_parts, shell_parts])(side, rng)
    absorption = sum(strength * inflate(alpha) * np.sqrt(alpha) for alpha, strength in parts)
    tissue = fractal((side, side), rng, cells=7, octaves=7, gain=0.6)
    absorption = np.maximum(absorption, 0) * np.exp(0.14 * tissue)
    outline = np.max([alpha for alpha, strength in parts if strength > 0], axis=0)
    alpha = outline * (1 - np.exp(-0.22 * outline - rng.uniform(1.4, 2.6) * absorption))
    cold = [(0.42, 0.47, 0.54), (0.7, 0.75, 0.8), (0.97, 0.98, 1.0)]
    schemes = (cold, cold[::-1], [(0.2, 0.2, 0.22), (0.1, 0.1, 0.12), (0.02, 0.02, 0.03)],
               [(0.95, 0.72, 0.4), (0.4, 0.55, 0.35), (0.1, 0.16, 0.4)], [natural_colour(rng), natural_colour(rng) * 0.6])
    return paint(ramp(schemes[rng.integers(len(schemes))], alpha), alpha.astype(np.float32))


def graded_solid(side: int, rng) -> np.ndarray:
    """A product whose inside is as dense as it is dark and detailed: the interior the X-ray-like targets have."""
    layer = rng.choice([turned, product])(side, rng)
    alpha = layer[..., 3]
    darkness = alpha - layer[..., :3] @ np.array([0.299, 0.587, 0.114], np.float32)
    detail = np.abs(darkness - cv2.GaussianBlur(darkness, (0, 0), side / 200))
    field = cv2.GaussianBlur(darkness, (0, 0), side / 90)
    density = rng.uniform(0.35, 0.55) + rng.uniform(0.25, 0.45) * field + 1.5 * cv2.GaussianBlur(detail, (0, 0), side / 900)
    return layer * np.clip(density, 0, 0.97)[..., None]


def convolve(layer: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """A layer blurred as a lens or a moving camera blurs light: premultiplied, so colour and alpha together."""
    return cv2.filter2D(layer, -1, kernel / kernel.sum(), borderType=cv2.BORDER_CONSTANT)


def defocus(layer: np.ndarray, radius: float) -> np.ndarray:
    """A disc-shaped circle of confusion, radius in half image widths."""
    reach = max(1, int(np.ceil(radius * len(layer) / 2)))
    axis = np.arange(-reach, reach + 1)
    disc = np.clip(radius * len(layer) / 2 - np.hypot(axis, axis[:, None]) + 0.5, 0, 1)
    return convolve(layer, disc.astype(np.float32))


def streak(layer: np.ndarray, length: float, angle: float, bend: float) -> np.ndarray:
    """Motion along a slightly curved path during the exposure, length in half image widths."""
    reach = max(1, int(np.ceil(length * len(layer) / 4)) + 1)
    t = np.linspace(-1, 1, 40)
    path = rotate(np.stack([t, bend * t**2], -1), angle) * length * len(layer) / 4 + reach
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.uint8)
    cv2.polylines(kernel, [np.round(path * 16).astype(np.int32)], False, 255, 1, cv2.LINE_AA, 4)
    return convolve(layer, kernel.astype(np.float32))


def spin(layer: np.ndarray, angle: float) -> np.ndarray:
    """Rotation about the centre during the exposure: a box filter along the azimuth."""
    side = len(layer)
    centre, turns = (side / 2 - 0.5, side / 2 - 0.5), 3 * side
    flags = cv2.INTER_LINEAR | cv2.WARP_FILL_OUTLIERS
    polar = cv2.warpPolar(layer, (side, turns), centre, side * 0.7072, flags)
    span = max(1, int(turns * angle / (2 * np.pi)))
    wrapped = cv2.copyMakeBorder(polar, span, span, 0, 0, cv2.BORDER_WRAP)
    polar = cv2.blur(wrapped, (1, span))[span:-span]
    return cv2.warpPolar(polar, (side, side), centre, side * 0.7072, flags | cv2.WARP_INVERSE_MAP)


def blur(side: int, rng) -> np.ndarray:
    """Something moving, spinning or out of focus; sometimes sharp on one side and blurred on the other."""
    kind = rng.integers(4)
    source = rng.choice([product, product, turned, feather, foliage, cables] if kind < 3 else [product, wheel, feather])
    inset = int(side * 0.14)
    # The smear needs room: the sharp object is drawn smaller and centred.
    sharp = np.zeros((side, side, 4), np.float32)
    sharp[inset : side - inset, inset : side - inset] = source(side - 2 * inset, rng)
    if kind == 3:
        return np.clip(spin(sharp, rng.uniform(0.15, 0.8)), 0, 1)
    if kind == 0:
        moved = defocus(sharp, rng.uniform(0.02, 0.1))
    else:
        moved = streak(sharp, rng.uniform(0.08, 0.26), rng.uniform(0, np.pi), rng.normal(0, 0.2))
    moved = np.clip(moved, 0, 1)
    if rng.random() < 0.35:
        x, y = grid(side)
        angle = rng.uniform(0, 6.3)
        share = smoothstep(-0.5, 0.5, x * np.cos(angle) + y * np.sin(angle))[..., None].astype(np.float32).astype(np.float32)
        return sharp + share * (moved - sharp)
    return moved
