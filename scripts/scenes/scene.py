"""The procedural matting data set: any number of scenes with exact soft alpha, without a download.

A scene is a foreground, a background and an alpha, drawn by code from (seed, index) only. The network sees its
composite as a photograph (noise, JPEG). The same scene can be drawn at any size.

    from scenes.scene import draw_pair, contact_sheet
    rgb, alpha, family = draw_pair(seed=42, index=0, size=512)
    Image.fromarray(contact_sheet()).save("sheet.png")
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from core.seeds import Purpose, generator
from scenes.backgrounds import catalog_background, contact_shadow, photographic_background
from scenes.families import FAMILIES
from scenes.families.drawing import extend_foreground, place

# Families that cast a shadow on the ground.
GROUNDED = {"hair", "fur", "glass", "foliage", "dense", "turned", "product"}
LEAST_CONTRAST = 0.15  # mean |foreground - background| over the object


@dataclass(frozen=True)
class Scene:
    """What a camera would see, before noise: arrays in [0, 1], float32.

    foreground: (H, W, 3), defined everywhere, also where alpha is 0; background: (H, W, 3); alpha: (H, W).
    """

    foreground: np.ndarray
    background: np.ndarray
    alpha: np.ndarray
    family: str


def composite(scene: Scene) -> np.ndarray:
    """The clean rgb of a scene, (H, W, 3) float32 in [0, 1]."""
    alpha = scene.alpha[..., None]
    return alpha * scene.foreground + (1 - alpha) * scene.background


def family_of(seed: int, index: int) -> str:
    """Families come in shuffled rounds of len(FAMILIES) indices, each family once per round."""
    round_, position = divmod(index, len(FAMILIES))
    order = generator(seed, Purpose.SCENE, round_, 1).permutation(len(FAMILIES))
    return list(FAMILIES)[order[position]]


def draw_objects(family: str, size: int, rng) -> np.ndarray:
    """One object, rarely two or three, placed in a frame: a premultiplied layer (size, size, 4)."""
    frame = np.zeros((size, size, 4), np.float32)
    count = rng.choice([1, 2, 3], p=[0.84, 0.11, 0.05])
    for item in range(count):
        scale = rng.uniform(0.62, 1.06) if count == 1 else rng.uniform(0.42, 0.66)
        slot = (item + 0.5) / count + rng.normal(0, 0.04)
        centre = np.array([slot, 0.5 + rng.normal(0, 0.04 if count == 1 else 0.1)])
        if rng.random() < 0.15:  # cut off by the frame
            centre[rng.integers(2)] += rng.choice([-1, 1]) * rng.uniform(0.1, 0.3)
        side = max(16, round(scale * size))
        layer = FAMILIES[family](side, rng)
        left, top = np.round(centre * size - side / 2).astype(int)
        # An object that reaches the lower edge of its layer, like shoulders, continues below the frame.
        if layer[-1, :, 3].max() > 0.5:
            top = max(top, size - side)
        place(layer, frame, left, top)
    # A lens is never perfectly sharp; blurring the premultiplied layer keeps the composite exact.
    sigma = rng.uniform(0, 0.0009) * size
    return cv2.GaussianBlur(frame, (0, 0), sigma) if sigma > 0.25 else frame


def draw_background(family: str, foreground: np.ndarray, alpha: np.ndarray, rng, files: Sequence[Path]) -> np.ndarray:
    """Catalogue paper for half of the scenes, a picture for the others; (H, W, 3).

    A background in the object's own colour would hide it; then another one is drawn, a few times at most.
    """
    on_paper = rng.random() < 0.5
    for attempt in range(4):
        if on_paper and attempt < 2:
            background = catalog_background(alpha.shape, rng)
            if family in GROUNDED and rng.random() < 0.6:
                background = contact_shadow(background, alpha, rng)
        else:
            background = photographic_background(len(alpha), rng, files)
        contrast = np.abs(foreground - background).mean(-1)
        if np.vdot(contrast, alpha) > LEAST_CONTRAST * alpha.sum():
            break
    return background


def draw_scene(seed: int, index: int, size: int, backgrounds: Sequence[Path] = ()) -> Scene:
    """The scene of an index, size x size pixels (64..2048); `backgrounds`: image files to use for drawn ones."""
    object_rng, background_rng = generator(seed, Purpose.SCENE, index).spawn(2)
    family = family_of(seed, index)
    layer = draw_objects(family, size, object_rng)
    alpha = np.clip(layer[..., 3], 0, 1)
    foreground = extend_foreground(layer)
    background = draw_background(family, foreground, alpha, background_rng, backgrounds)
    return Scene(foreground, background, alpha, family)


def photograph(scene: Scene, rng) -> np.ndarray:
    """The composite as a camera stores it: with shot and read noise, and mostly as JPEG; (H, W, 3) uint8."""
    clean = composite(scene)
    read, shot = rng.uniform(0, 0.008), rng.uniform(0, 0.012)
    noise = rng.standard_normal(clean.shape, dtype=np.float32)
    noisy = clean + noise * np.sqrt(np.float32(read**2) + np.float32(shot**2) * clean)
    rgb = np.round(np.clip(noisy, 0, 1) * 255).astype(np.uint8)
    if rng.random() < 0.2:
        return rgb
    quality = int(rng.integers(70, 99))
    _, stored = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.cvtColor(cv2.imdecode(stored, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def draw_pair(seed: int, index: int, size: int, backgrounds: Sequence[Path] = ()) -> tuple[np.ndarray, np.ndarray, str]:
    """One training pair: rgb (H, W, 3) uint8, alpha (H, W) float32 in [0, 1], and the family's name."""
    scene = draw_scene(seed, index, size, backgrounds)
    rgb = photograph(scene, generator(seed, Purpose.SCENE, index, 2))
    return rgb, scene.alpha, scene.family


def contact_sheet(size: int = 256, per_family: int = 4, seed: int = 0) -> np.ndarray:
    """A labelled sheet of every family, rgb and alpha side by side; (H, W, 3) uint8."""
    gutter, seam, margin = max(8, size // 12), 2, max(20, size // 6)
    font = ImageFont.load_default(max(12, size // 9))
    caption = max(90, round(size * 0.55))
    width = margin * 2 + caption + per_family * (2 * size + seam + gutter) - gutter
    height = margin * 2 + len(FAMILIES) * (size + gutter) - gutter
    sheet = Image.new("RGB", (width, height), (30, 31, 33))
    pen = ImageDraw.Draw(sheet)
    for row, family in enumerate(FAMILIES):
        top = margin + row * (size + gutter)
        pen.text((margin, top + size / 2), family, fill=(214, 214, 210), font=font, anchor="lm")
        rounds = range(0, per_family * len(FAMILIES), len(FAMILIES))
        members = [start + k for start in rounds for k in range(len(FAMILIES)) if family_of(seed, start + k) == family]
        for column, index in enumerate(members):
            rgb, alpha, _ = draw_pair(seed, index, size)
            left = margin + caption + column * (2 * size + seam + gutter)
            sheet.paste(Image.fromarray(rgb), (left, top))
            sheet.paste(Image.fromarray(np.round(alpha * 255).astype(np.uint8)), (left + size + seam, top))
    return np.asarray(sheet)
