"""Families that the background shines through: glass (vessels, bubbles, splashes) and smoke."""

import cv2
import numpy as np

from scenes.families.drawing import closed, coverage, ellipse, over, paint, rotate, tube_coverage
from scenes.families.solids import draw_profile, inflate, revolve
from scenes.families.textures import displace, draw_light, fractal, grid, natural_colour, normals, ramp, smoothstep

GLASS_PROFILES = ("goblet", "tumbler", "bottle", "flask", "vase", "jar")
DRINKS = (
    (110, 16, 28), (214, 170, 70), (196, 96, 30), (90, 46, 24), (222, 206, 160), (150, 190, 90), (200, 220, 226),
    (180, 40, 60),
)
SMOKES = ((0.95, 0.95, 0.96), (0.8, 0.82, 0.85), (0.42, 0.41, 0.42), (0.12, 0.115, 0.11))


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
    facing = np.clip(normal[..., 2], 0, 1)
    rim = (1 - facing) ** rng.uniform(2, 3.5)
    # Near the silhouette a glass wall mirrors bright and dark parts of the room in turn.
    room = 0.5 + 0.5 * np.sin(9 * rim + 3 * normal[..., 0] + 2.5 * at + rng.uniform(0, 6))
    body = paint(tint * (0.15 + 0.8 * room[..., None]), alpha * (rng.uniform(0.03, 0.1) + 0.75 * rim))
    foot = smoothstep(0.9, 0.97, at) * (0.5 + 0.5 * np.abs(fractal((side, side), rng, cells=6, octaves=4))).clip(0, 1)
    body = over(paint((tint * (0.35 + 0.6 * room[..., None])).astype(np.float32), alpha * foot * 0.6), body)
    layer = over(body, drink(profile, tilt, side, rng, alpha, at, normal)) if rng.random() < 0.75 else body
    lip = closed(ellipse((0, profile[0, 0]), (profile[0, 1], tilt * profile[0, 1]), count=120))
    ring = tube_coverage([lip], [0.014], side) * (0.35 + 0.5 * room)
    layer = over(paint((0.4 + 0.6 * room[..., None] * tint).astype(np.float32), ring), layer)
    return over(paint(np.ones(3, np.float32), softboxes(normal, rng) * alpha), layer)


def drink(profile, tilt: float, side: int, rng, alpha, at, normal) -> np.ndarray:
    """What a vessel holds: Beer-Lambert absorption through its thickness, a lighter surface, a dark meniscus."""
    colour = np.array(DRINKS[rng.integers(len(DRINKS))]) / 255
    level, density = rng.uniform(0.15, 0.4), rng.uniform(0.5, 3.5)
    height = profile[0, 0] + level * (profile[-1, 0] - profile[0, 0])
    radius = np.interp(height, profile[:, 0], profile[:, 1]) * 0.95
    bowl_end = 0.57 if profile[:, 1].min() < 0.06 else 0.95
    _, y = grid(side)
    surface = coverage([ellipse((0, height), (radius, tilt * radius))], side)
    below = np.maximum(smoothstep(level - 0.01, level + 0.01, at), 0) * (at < bowl_end) * (1 - surface)
    thick = np.clip(normal[..., 2], 0.12, 1)
    body = alpha * below * (1 - np.exp(-density * thick))
    glow = 0.6 + 0.5 * smoothstep(-0.6, 0.8, normal[..., 0]) + 0.25 * at
    liquid = paint(np.clip(colour * glow[..., None], 0, 1).astype(np.float32), body)
    sheen = 0.75 + 0.5 * smoothstep(height - tilt * radius, height + tilt * radius, y)
    top = paint(np.clip(colour * 1.15 * sheen[..., None] + 0.06, 0, 1), surface * (1 - np.exp(-0.8 * density)))
    outline = ellipse((0, height), (radius, tilt * radius), count=100)
    meniscus = tube_coverage([closed(outline)], [0.009], side) * 0.6
    return over(paint((colour * 0.5).astype(np.float32), meniscus), over(top, liquid))


def bubbles(side: int, rng) -> np.ndarray:
    """Soap bubbles: almost nothing in the middle, interference colours towards the rim, two window reflections."""
    layer = np.zeros((side, side, 4), np.float32)
    x, y = grid(side)
    film = fractal((side, side), rng, cells=3, octaves=4)
    for _ in range(rng.integers(1, 9)):
        radius = rng.uniform(0.1, 0.5)
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
    for cells, strength in ((2, 0.009), (4, 0.0035), (8, 0.0011), (16, 0.0003)):
        dx, dy = curl(fractal((half, half), rng, cells=cells, octaves=2))
        density = displace(density, strength * dx, strength * dy)
    noise = fractal((half, half), rng, cells=5, octaves=7, gain=0.6)
    for cells, strength in ((3, 0.008), (7, 0.002)):
        dx, dy = curl(fractal((half, half), rng, cells=cells, octaves=2))
        noise = displace(noise, strength * dx, strength * dy)
    density = density * np.exp(0.75 * noise) * window
    alpha = 1 - np.exp(-rng.uniform(0.5, 2.6) * density)
    # Light that reaches a point has crossed the smoke above it: its density, blurred and shifted down.
    above = cv2.GaussianBlur(displace(density, 0.02 * np.ones_like(x), -0.04 * np.ones_like(x)), (0, 0), half / 60)
    lit = np.exp(-0.8 * above) * 0.75 + 0.25 * smoothstep(-1.5, 1.5, noise)
    base = rng.choice([*SMOKES, natural_colour(rng)])
    colour = ramp([base * 0.5, base * 0.8, np.clip(base * 1.1 + 0.04, 0, 1)], lit)
    layer = cv2.resize(paint(colour, alpha), (side, side), interpolation=cv2.INTER_CUBIC)
    alpha = np.clip(layer[..., 3:], 0, 1)
    return np.concatenate([np.clip(layer[..., :3], 0, alpha), alpha], -1)
