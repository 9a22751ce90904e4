"""What makes composed pairs more like photographs: see-through objects, others behind them, a camera's noise.

Pictures are (H,W,4) float32, premultiplied: alpha·colour in 0…255 and alpha in [0,1].
"""
from collections.abc import Sequence

import cv2
import numpy as np

from augment import LUMA

FLAT = 0.02  # of luma: a weaker texture is not strengthened to full
TILT = 25    # degrees, the most that a camera or an object is turned


def see_through(picture: np.ndarray, rng) -> np.ndarray:
    """The object as if of glass: its rim, its texture and its lights stay, the rest lets the background through.

    Sometimes only the part above or below a line; mostly without its colour.
    """
    alpha = picture[..., 3]
    colours = picture[..., :3] / np.maximum(alpha[..., None], 1e-6)
    luma = (cv2.transform(colours, LUMA) / 255).clip(0, 1)
    inner = cv2.GaussianBlur((alpha > 0.5).astype(np.float32), (0, 0), max(alpha.shape) * rng.uniform(0.02, 0.06))
    rim = 1 - (2 * inner - 1).clip(0, 1)
    texture = np.abs(luma - cv2.GaussianBlur(luma, (0, 0), 3))
    texture = (2 * texture / max(texture[alpha > 0.5].max(initial=0), FLAT)).clip(0, 1)
    base, *strengths = rng.uniform((0.02, 0.2, 0.2, 0), (0.5, 1, 1, 0.6))
    seen = base + sum(strength * part for strength, part in zip(strengths, (rim, texture, luma**2), strict=True))
    seen = seen.clip(0, 1).astype(np.float32)
    if rng.random() < 0.4:
        line = (np.linspace(0, 1, len(alpha), dtype=np.float32)[:, None] - rng.uniform(0.2, 0.8)) * 20
        solid = line.clip(0, 1) if rng.random() < 0.5 else 1 - line.clip(0, 1)
        seen = seen + solid * (1 - seen)
    if rng.random() < 0.6:
        colours = 0.3 * colours + 0.7 * 255 * (1.1 * luma[..., None] + 0.1).clip(0, 1)
    alpha = alpha * seen
    return np.dstack([alpha[..., None] * colours, alpha]).astype(np.float32)


def rough(picture: np.ndarray, rng) -> np.ndarray:
    """The object with a grainy surface, fine to coarse, and another tint: renders are smoother than real things."""
    height, width = picture.shape[:2]
    grain = np.zeros((height, width), np.float32)
    for coarse in (1, 2, 4, 8):
        noise = rng.standard_normal((height // coarse + 1, width // coarse + 1), dtype=np.float32)
        grain += rng.uniform(0.2, 1) * cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    alpha = picture[..., 3:]
    colours = picture[..., :3] / np.maximum(alpha, 1e-6)
    colours *= (1 + rng.uniform(0.05, 0.3) * grain / grain.std())[..., None] * rng.uniform(0.7, 1.2, 3)
    return np.dstack([alpha * colours.clip(0, 255), alpha]).astype(np.float32)


def tilted(picture: np.ndarray, rng) -> np.ndarray:
    """Turned by up to TILT degrees, in its new bounding box."""
    height, width = picture.shape[:2]
    side = int(np.hypot(height, width)) + 2
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), rng.uniform(-TILT, TILT), 1)
    turn[:, 2] += (side - width) / 2, (side - height) / 2
    turned = cv2.warpAffine(picture, turn, (side, side))
    visible = turned[..., 3] > 0.01
    rows, columns = np.flatnonzero(visible.any(1)), np.flatnonzero(visible.any(0))
    return turned[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]


def out_of_focus(behind: np.ndarray, rng) -> np.ndarray:
    """A background (S,S,3), sometimes blurred as behind a near object."""
    if rng.random() < 0.4:
        behind = cv2.GaussianBlur(behind, (0, 0), len(behind) * rng.uniform(0.0025, 0.015))
    return behind


def photographed(rgb: np.ndarray, rng) -> np.ndarray:
    """(H,W,3) uint8 as from a camera: sensor noise, and the artefacts of a JPEG file.

    Otherwise objects and backgrounds differ in noise and sharpness, and a network learns to tell them apart by that.
    """
    noisy = rgb + rng.normal(0, 255 * rng.uniform(0, 0.02), rgb.shape)
    quality = int(rng.integers(80, 98))
    jpeg = cv2.imencode(".jpg", np.rint(noisy.clip(0, 255)).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(jpeg, cv2.IMREAD_COLOR)


def with_others_behind(behind: np.ndarray, others: Sequence[np.ndarray], rng) -> np.ndarray:
    """A background (S,S,3) in [0,1] with other objects, (S,S,4) each, more or less out of focus."""
    side = len(behind)
    for other in others:
        blurred = cv2.GaussianBlur(other, (0, 0), side * rng.uniform(0.0005, 0.02))
        behind = blurred[..., :3] / 255 + (1 - blurred[..., 3:]) * behind
    return behind
