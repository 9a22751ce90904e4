"""Noise, colour and light: the procedural materials of the synthetic families and backgrounds.

Everything is a pure function of its arguments and of a numpy Generator. Frequencies are given in cells per image, never
in pixels, so the same generator draws the same picture at every size.

    python -c "from textures import fractal; import numpy; print(fractal((64, 64), numpy.random.default_rng(0)).std())"
"""

from dataclasses import dataclass

import cv2
import numpy as np

# Muted colours of dyes, paints, leathers, cloth and plants (sRGB, 0..255).
NATURAL_COLOURS = (
    (142, 46, 40), (176, 88, 56), (201, 146, 84), (222, 196, 150), (236, 226, 208), (246, 245, 241), (112, 84, 62),
    (70, 52, 42), (44, 42, 44), (24, 25, 28), (92, 98, 102), (150, 154, 156), (198, 200, 200), (52, 72, 98),
    (84, 116, 144), (150, 178, 190), (40, 66, 58), (78, 102, 70), (138, 148, 104), (188, 178, 122), (206, 160, 52),
    (180, 118, 122), (214, 172, 170), (96, 70, 98), (132, 40, 60), (30, 48, 84), (214, 92, 60), (60, 128, 130),
)


@dataclass(frozen=True)
class Light:
    """One studio set-up: unit direction towards the key light, colour of the key, ambient level, softbox position."""

    direction: np.ndarray
    colour: np.ndarray
    ambient: float
    softbox: float


def draw_light(rng) -> Light:
    """A key light from above, left or right of the camera, slightly warm or cold."""
    direction = np.array([rng.choice([-1, 1]) * rng.uniform(0.25, 0.7), -rng.uniform(0.35, 0.8), rng.uniform(0.6, 1.0)])
    warmth = rng.uniform(-0.05, 0.06)
    return Light(
        (direction / np.linalg.norm(direction)).astype(np.float32),
        np.array([1 + warmth, 1, 1 - warmth], np.float32) * rng.uniform(0.72, 0.95),
        rng.uniform(0.22, 0.42),
        rng.uniform(0.45, 0.75) * np.sign(direction[0]),
    )


def grid(side: int) -> tuple[np.ndarray, np.ndarray]:
    """x and y of the pixel centres of a square image, float32 in [-1, 1], y downwards; each (side, side)."""
    axis = ((np.arange(side, dtype=np.float32) + 0.5) / side) * 2 - 1
    return np.meshgrid(axis, axis)


def smoothstep(low, high, x):
    """0 below low, 1 above high, a cubic in between; low > high gives the falling step."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def fractal(size_hw: tuple[int, int], rng, cells: float = 4, octaves: int = 6, gain: float = 0.5) -> np.ndarray:
    """Multi-octave value noise, (H, W) float32, zero mean, about unit variance; `cells`: its coarsest frequency."""
    height, width = size_hw
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        count = max(2, round(cells * 2**octave)) + 2
        values = rng.standard_normal((count, count), dtype=np.float32) * gain**octave
        # A grid finer than the picture is averaged, not sampled: a small picture equals the large one reduced.
        total += cv2.resize(values, (width, height), interpolation=cv2.INTER_CUBIC if count < width else cv2.INTER_AREA)
    # The cubic interpolation of unit white noise has about 0.55 of its variance.
    return total / np.sqrt(0.55 * sum(gain ** (2 * octave) for octave in range(octaves))).astype(np.float32)


def displace(image: np.ndarray, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """The image sampled at (x + dx, y + dy), displacements in image widths."""
    height, width = image.shape[:2]
    x = np.arange(width, dtype=np.float32)[None] + dx * width
    y = np.arange(height, dtype=np.float32)[:, None] + dy * width
    return cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def natural_colour(rng) -> np.ndarray:
    """One muted colour with a little variation, (3,) float32 in [0, 1]."""
    colour = np.array(NATURAL_COLOURS[rng.integers(len(NATURAL_COLOURS))]) / 255
    return np.clip(colour * rng.uniform(0.85, 1.1) + rng.normal(0, 0.015, 3), 0.02, 0.97).astype(np.float32)


def ramp(stops, values: np.ndarray) -> np.ndarray:
    """Colours along evenly spaced stops (K, 3) at values in [0, 1]; returns values.shape + (3,) float32."""
    stops = np.asarray(stops, np.float32)
    table = np.stack([np.interp(np.linspace(0, 1, 256), np.linspace(0, 1, len(stops)), c) for c in stops.T], -1)
    return table.astype(np.float32)[np.clip(values * 255, 0, 255).astype(np.uint8)]


def tones(base: np.ndarray, count: int = 16) -> np.ndarray:
    """A material from its shadow over its own colour to its highlight, (count, 3) float32 in [0, 1]."""
    base = np.asarray(base, np.float32)
    shadow, light = base * np.array([0.16, 0.15, 0.17], np.float32), np.clip(base * 1.15 + 0.22, 0, 1)
    return ramp([shadow, base * 0.55, base, light], np.linspace(0, 1, count, dtype=np.float32))


def normals(height: np.ndarray, relief: float = 1.0) -> np.ndarray:
    """Unit surface normals (H, W, 3) of a height field given in half image widths; z looks at the camera."""
    scale = np.float32(relief * height.shape[1] / 2 / 8)
    normal = np.empty((*height.shape, 3), np.float32)
    normal[..., 0] = -cv2.Sobel(height, cv2.CV_32F, 1, 0) * scale
    normal[..., 1] = -cv2.Sobel(height, cv2.CV_32F, 0, 1) * scale
    normal[..., 2] = 1
    return normal / np.sqrt(np.einsum("hwc,hwc->hw", normal, normal))[..., None]


def shade(normal: np.ndarray, albedo: np.ndarray, light: Light, gloss: float = 0.3, shine: float = 40) -> np.ndarray:
    """Lambert + Blinn-Phong + a softbox mirrored at grazing rows + Fresnel rim; (H, W, 3) float32, clipped to [0, 1].

    normal: (H, W, 3) unit vectors; albedo: (3,) or (H, W, 3) in [0, 1]; gloss in [0, 1]; shine: Phong exponent.
    """
    nx, ny, nz = normal[..., 0], normal[..., 1], np.clip(normal[..., 2], 0, 1)
    half = light.direction + np.array([0, 0, 1], np.float32)
    # Wrapped Lambert: a large soft source also lights a little beyond the terminator.
    diffuse = np.clip((normal @ light.direction) * 0.8 + 0.2, 0, 1)
    specular = cv2.pow(np.clip(normal @ (half / np.linalg.norm(half)), 0, 1), shine)
    reflected_x, reflected_y = 2 * nz * nx, 2 * nz * ny
    box = smoothstep(0.2, 0.12, np.abs(reflected_x - light.softbox)) * smoothstep(0.85, 0.7, np.abs(reflected_y))
    rim = (1 - nz) ** 4
    ambient = light.ambient * (1 - 0.35 * ny)
    lit = albedo * (ambient[..., None] + diffuse[..., None] * light.colour)
    return np.clip(lit + (gloss * (0.7 * specular + 0.45 * box + 0.25 * rim))[..., None], 0, 1)
