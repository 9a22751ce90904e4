"""Families whose alpha follows from physics: dense (absorption by thickness) and blur (motion, rotation, defocus)."""

# ruff: noqa: RUF005 - outline + (x, y) is a sum of vectors, not a concatenation

import cv2
import numpy as np

from scenes.families.drawing import closed, coverage, ellipse, fit, over, paint, rotate, spline, tube_coverage
from scenes.families.fibres import feather
from scenes.families.plants import foliage
from scenes.families.products import hardware, product
from scenes.families.solids import inflate, round_part, turned
from scenes.families.textures import draw_light, fractal, grid, natural_colour, ramp, smoothstep
from scenes.families.threads import cables, wheel


def body_parts(side: int, rng) -> list[tuple[np.ndarray, float]]:
    """A trunk with lungs, spine, ribs and pelvis, as (silhouette, absorption) parts."""
    parts, bend = [], rng.uniform(-0.08, 0.08)
    spine_y = np.linspace(-0.8, 0.55, 15)
    spine_x = bend * np.sin(2.2 * spine_y)
    flank = np.array([(0.16, -0.93), (0.62, -0.7), (0.66, 0.1), (0.56, 0.9)])
    trunk = fit(spline(np.concatenate([flank, flank[::-1] * (-1, 1)]), 160))
    parts.append((coverage([trunk], side), 0.9))
    lungs = [ellipse((s * 0.32, -0.28), (0.2, 0.4), -s * 0.15) for s in (-1, 1)]
    parts.append((coverage(lungs, side), -0.9))
    vertebrae = [ellipse((x, y), (0.075, 0.042)) for x, y in zip(spine_x, spine_y, strict=True)]
    parts.append((coverage(vertebrae, side), 7.0))
    turn = np.linspace(0, 1, 30)
    rib = np.stack([0.56 * np.sin(turn * 2.3), 0.3 * turn**1.5 - 0.06], -1)
    ribs = [rib * (s * (0.75 + 0.03 * k), 1) + (spine_x[k + 2], spine_y[k + 2]) for k in range(8) for s in (-1, 1)]
    parts.append((tube_coverage(ribs, [0.036] * len(ribs), side) * parts[0][0], 5.0))
    hip = spline([(0.05, 0.56), (0.46, 0.42), (0.42, 0.66), (0.2, 0.84), (0.1, 0.7)], 60)
    parts.append((coverage([hip, hip * (-1, 1)], side), 3.0))
    return parts


def luggage_parts(side: int, rng) -> list[tuple[np.ndarray, float]]:
    """A case with overlapping things in it, as (silhouette, absorption) parts."""
    w, h = rng.uniform(0.6, 0.9), rng.uniform(0.5, 0.8)
    corners = [(-1, -1), (0, -1.01), (1, -1), (1.01, 0), (1, 1), (0, 1.01), (-1, 1), (-1.01, 0)]
    case = spline(np.array(corners) * (w, h), 200)
    parts = [(coverage([case], side), rng.uniform(0.3, 0.8)), (tube_coverage([closed(case)], [0.03], side), 3.0)]
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
            shape = tube_coverage([closed(ring)], [rng.uniform(0.02, 0.08)], side)
        else:
            coil = np.linspace(0, 10 * np.pi, 200)
            path = np.stack([coil / 16 - 1, 0.35 * np.sin(coil)], -1) * scale
            shape = tube_coverage([rotate(path, angle) + centre], [0.02], side)
        parts.append((shape * parts[0][0], rng.uniform(0.8, 5)))
    return parts


def shell_parts(side: int, rng) -> list[tuple[np.ndarray, float]]:
    """A hollow jellyfish or sheer bell: nested skins, radial veins and tentacles, as (silhouette, absorption) parts."""
    rim = [(0.7, 0.1), (0.35, 0.16), (0, 0.1), (-0.35, 0.16), (-0.7, 0.1)]
    bell = spline([(-0.62, -0.45), (0, -0.85), (0.62, -0.45), *rim], 160)
    stretch = np.array([rng.uniform(0.6, 1.2), rng.uniform(0.75, 1.02)])
    parts = [(coverage([(bell * k + (0, 0.2 * k - 0.2)) * stretch], side), strength)
             for k, strength in ((1, 0.8), (0.8, 0.6), (0.45, 1.4))]
    s = np.linspace(0, 1, 40)
    veins = [np.stack([0.66 * x * np.sin(s * 1.5), -0.8 + 0.9 * s**1.4], -1) for x in np.linspace(-1, 1, 13)]
    waves, drift = rng.uniform(4, 11), rng.normal(0, 0.12)
    root = np.linspace(-0.6, 0.6, int(rng.integers(8, 40)))[:, None]
    sway = 0.12 * s * np.sin(waves * s + rng.uniform(0, 6, root.shape)) + drift * s**2
    arms = np.stack([root + sway, 0.08 + 0.84 * s * rng.uniform(0.4, 1, root.shape)], -1)
    widths = rng.uniform(0.008, 0.035, len(arms))
    lines = ((veins * stretch, [0.012] * len(veins)), (fit(arms * stretch), widths))
    return parts + [(tube_coverage(paths, width, side), 3.0) for paths, width in lines]


def dense(side: int, rng) -> np.ndarray:
    """A body that absorbs by its thickness, with structure inside: X-rays, jelly, or a solid of graded density."""
    if rng.random() < 0.35:
        return graded_solid(side, rng)
    parts = rng.choice([body_parts, luggage_parts, shell_parts])(side, rng)
    absorption = sum(strength * inflate(alpha) * np.sqrt(alpha) for alpha, strength in parts)
    tissue = fractal((side, side), rng, cells=7, octaves=7, gain=0.6)
    absorption = np.maximum(absorption, 0) * np.exp(0.14 * tissue)
    outline = np.max([alpha for alpha, strength in parts if strength > 0], axis=0)
    alpha = outline * (1 - np.exp(-0.22 * outline - rng.uniform(0.8, 2.2) * absorption))
    cold = [(0.42, 0.47, 0.54), (0.7, 0.75, 0.8), (0.97, 0.98, 1.0)]
    film = [(0.2, 0.2, 0.22), (0.1, 0.1, 0.12), (0.02, 0.02, 0.03)]
    scanner = [(0.95, 0.72, 0.4), (0.4, 0.55, 0.35), (0.1, 0.16, 0.4)]
    schemes = (cold, cold[::-1], film, scanner, [natural_colour(rng), natural_colour(rng) * 0.6])
    return paint(ramp(schemes[rng.integers(len(schemes))], alpha), alpha.astype(np.float32))


def graded_solid(side: int, rng) -> np.ndarray:
    """A product whose inside is denser where it is darker and more detailed, as in the X-ray-like targets."""
    layer = rng.choice([turned, product])(side, rng)
    alpha = layer[..., 3]
    darkness = alpha - layer[..., :3] @ np.array([0.299, 0.587, 0.114], np.float32)
    detail = np.abs(darkness - cv2.GaussianBlur(darkness, (0, 0), side / 200))
    field = cv2.GaussianBlur(darkness, (0, 0), side / 90)
    density = rng.uniform(0.35, 0.55) + rng.uniform(0.25, 0.45) * field + 1.5 * detail
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
    unrolled = cv2.warpPolar(layer, (side, turns), centre, side * 0.7072, flags)
    span = max(1, int(turns * angle / (2 * np.pi)))
    wrapped = cv2.copyMakeBorder(unrolled, span, span, 0, 0, cv2.BORDER_WRAP)
    unrolled = cv2.blur(wrapped, (1, span))[span:-span]
    return cv2.warpPolar(unrolled, (side, side), centre, side * 0.7072, flags | cv2.WARP_INVERSE_MAP)


def propeller(side: int, rng) -> np.ndarray:
    """A fan or rotor: two to six blades on a hub."""
    light, colour, count = draw_light(rng), natural_colour(rng), int(rng.integers(2, 7))
    breadth, sweep, first = rng.uniform(0.08, 0.3), rng.uniform(-0.2, 0.3), rng.uniform(0, 6)
    tip = np.array([(0.5, -breadth), (0.9, 0), (0.55, 0.5 * breadth)]) + (0, sweep)
    blade = spline([(0.05, -0.05), *tip, (0.05, 0.05)], 80)
    layer = np.zeros((side, side, 4), np.float32)
    for turn in first + np.arange(count) * 2 * np.pi / count:
        shape = coverage([fit(rotate(blade, turn))], side)
        layer = over(round_part(shape, rng, light, colour, gloss=0.5, puff=0.4), layer)
    hub = coverage([ellipse((0, 0), (0.13, 0.13))], side)
    return over(round_part(hub, rng, light, colour * 0.6, gloss=0.8), layer)


def blur(side: int, rng) -> np.ndarray:
    """Something moving, spinning or out of focus; sometimes sharp on one side and blurred on the other."""
    kind = rng.integers(4)
    rotors, others = [propeller, propeller, hardware, wheel], [product, product, turned, feather, foliage, cables]
    source = rng.choice(rotors if kind == 3 else others)
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
        share = smoothstep(-0.5, 0.5, x * np.cos(angle) + y * np.sin(angle)).astype(np.float32)
        return sharp + share[..., None] * (moved - sharp)
    return moved
