"""Image files -> alpha (H,W) float32 in [0,1]: a grey image, or the transparency of a cut-out."""
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from core.errors import UserError
from imaging.images import deep_grey, is_deep, opened, upright

MOST_NOISE = 24  # levels between the channels of a grey picture saved as a colour JPEG


def read_alpha(path: str | Path) -> np.ndarray:
    """(H,W) float32 in [0,1]: the transparency of a cut-out unless it is constant, else the grey value.

    16-bit grey is read in full. UserError for what cannot be a matte: colours, and masks of 0 and 1.
    """
    with opened(path) as image:
        deep_colours = ";16" in str(image.tile)
        alpha, white = deep_grey(image, path) if is_deep(image) else (_shallow_alpha(image, path), 255)
    top = float(f"{alpha.max() * white:.4f}")
    if deep_colours and not top:  # Pillow keeps only the high byte of 16-bit colours
        top, white = int(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[..., :3].max()), 2**16 - 1
    # an alpha of 1/255 at most is a mask of 0 and 1; a 16-bit file may hold 8- to 14-bit values
    if 0 < top <= white / 254 or (white == 65535 and top in (511, 1023, 2047, 4095, 8191, 16383)):
        mask = ": a mask of 0 and 1" if top == 1 else ""
        raise UserError(f"{path}: its largest value is {top:g} of {white}{mask}; if {top:g} means opaque, multiply "
                        f"all values by {white / top:.6g}")
    return alpha


def _shallow_alpha(image: Image.Image, path: str | Path) -> np.ndarray:
    """(H,W) float32 in [0,1], from 8 bits per channel or fewer. UserError for colours."""
    image = upright(image)
    if image.has_transparency_data:
        transparency = image.convert("RGBA").getchannel("A")
        empty = transparency.getextrema() == (0, 0) and all(map(_is_constant, image.convert("RGB").split()))
        if empty or not _is_constant(transparency):
            return np.asarray(transparency, dtype=np.float32) / 255
    if image.mode not in ("1", "L", "LA", "La"):
        _refuse_colours(image, path)
        image = image.convert("RGB")
    return np.asarray(image.convert("L"), dtype=np.float32) / 255


def _refuse_colours(image: Image.Image, path: str | Path) -> None:
    palette = image.mode in ("P", "PA")
    if is_coloured(np.asarray(image.convert("RGB"))) or (palette and _is_class_map(image)):
        raise UserError(f"{path}: " + (
            "is a class map (its palette has colours); draw the object white (255) on black instead" if palette
            else "has colours, but an alpha is grey; save it as grey, or as a cut-out with transparency"))


def _is_constant(channel: Image.Image) -> bool:
    low, high = channel.getextrema()
    return low == high


def _is_class_map(image: Image.Image) -> bool:
    """Whether a grey image without white has a palette with colours: one grey class of several."""
    palette = np.array(image.getpalette("RGB"), np.uint8).reshape(1, -1, 3)
    return bool(np.ptp(palette.astype(int), axis=2).max() > MOST_NOISE) and image.convert("L").getextrema()[1] < 255


def is_coloured(rgb: np.ndarray) -> bool:
    """Whether the channels differ by more than JPEG noise in more than 1 % of the non-black pixels."""
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]  # ten times as fast as along the last axis
    brightest = np.maximum(np.maximum(red, green), blue)
    spread = brightest - np.minimum(np.minimum(red, green), blue)
    top = int(brightest.max())
    coloured = np.count_nonzero(spread > min(MOST_NOISE, top // 2))
    return coloured > 0.01 * np.count_nonzero(brightest > min(MOST_NOISE, top // 4))
