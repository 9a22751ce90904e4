"""Strands of one material: brightness along a fibre, and round tubes drawn from strokes."""

import numpy as np

from scenes.families.drawing import draw_strands

TONES = 20


def pick_colour(colours, rng) -> np.ndarray:
    """One of the colours (0..255), slightly varied, in [0, 1]."""
    return np.clip(np.array(colours[rng.integers(len(colours))]) / 255 * rng.uniform(0.88, 1.1), 0.02, 0.98)


def strand_tone(points3: np.ndarray, light, sharpness: float = 18) -> np.ndarray:
    """Kajiya-Kay brightness in [0, 1] of strand segments; points3: (N, P, 3) -> (N, P - 1)."""
    tangent = np.diff(points3, axis=1)
    tangent /= np.maximum(np.linalg.norm(tangent, axis=-1, keepdims=True), 1e-6)
    half = light.direction + np.array([0, 0, 1])
    along_light, along_half = tangent @ light.direction, tangent @ (half / np.linalg.norm(half))
    diffuse = np.sqrt(np.clip(1 - along_light**2, 0, 1))
    return 0.14 + 0.36 * diffuse + 0.5 * np.clip(1 - along_half**2, 0, 1) ** sharpness


def to_index(tone: np.ndarray, material=0) -> np.ndarray:
    """Brightness in [0, 1] as an index into a palette of stacked tone ramps; material: which ramp."""
    return np.clip(tone * TONES, 0, TONES - 1).astype(np.int64) + np.asarray(material) * TONES


def tubes(canvas, paths, width, palette, light) -> None:
    """Round twigs or wires: each path (N, P, 2) drawn dark and wide, then lighter and narrower towards the light."""
    for share, tone in ((1.0, 0.2), (0.74, 0.42), (0.42, 0.62), (0.16, 0.85)):
        shift = (1 - share) * 0.35 * width[..., None] * light.direction[:2]
        shifted = paths + np.concatenate([shift, shift[:, -1:]], 1)
        index = to_index(np.full(width.shape, tone))
        draw_strands(canvas, shifted, index, width * share, palette, slices=1)
