"""The object of a picture with transparency: read, cropped, freed of its old background, placed in a new image."""
from pathlib import Path

import cv2
import numpy as np

from core.errors import UserError
from imaging.foreground import estimate_foreground
from imaging.images import is_text, opened, resize_longer_side, upright
from sources.cutouts import Unusable, refuse_constant

VISIBLE = 2        # levels of alpha; lossy encoders leave 1 around the object
MOST_ALPHA = 26    # levels; an object that nowhere reaches it is not one
SMALLEST = 32      # pixels of the object's longer side
MOST_ENLARGED = 2  # a further enlarged object is blurred beside its background
CUT = (0.05, 0.4)  # how much of an object a border cuts off
TRUSTED = 0.05     # alpha from which a stored colour says anything


def read_rgba(path: Path) -> np.ndarray:
    """(H,W,4) uint8, upright. Unusable if it cannot be read, or has no object."""
    if not is_text(str(path)):
        raise Unusable("its name is not valid UTF-8; rename it")
    try:
        with opened(path) as image:
            image = upright(image)
            rgba = np.asarray(image.convert("RGBA")) if image.has_transparency_data else None
    except UserError as error:
        raise Unusable(str(error).removeprefix(f"{path}: ")) from None
    if rgba is None:
        raise Unusable("has no transparency")
    refuse_constant(rgba[..., 3])
    if rgba[..., 3].max() < MOST_ALPHA:
        raise Unusable(f"is almost transparent everywhere (its largest alpha is {rgba[..., 3].max()} of 255)")
    return rgba


def cropped(rgba: np.ndarray) -> np.ndarray:
    """The object's bounding box (h,w,4). Unusable if it is tiny."""
    visible = rgba[..., 3] >= VISIBLE
    rows, columns = np.flatnonzero(visible.any(1)), np.flatnonzero(visible.any(0))
    box = rgba[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]
    if max(box.shape[:2]) < SMALLEST:
        raise Unusable(f"its object is only {box.shape[1]}×{box.shape[0]} pixels large; {SMALLEST} is the least")
    return box


def shrunk(rgba: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """(colours (h,w,3) uint8, alpha (h,w) float32), the longer side at most `side`."""
    alpha = rgba[..., 3:].astype(np.float32) / 255
    # averaged with alpha as weight: colours where alpha is 0 are undefined
    small = resize_longer_side(np.dstack([alpha * rgba[..., :3], alpha]), min(side, max(rgba.shape[:2])))
    return np.rint(small[..., :3] / np.maximum(small[..., 3:], 1e-6)).astype(np.uint8), small[..., 3]


def defringed(colours: np.ndarray, alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The object's own colours, without the white or black that many cut-outs have mixed into their soft edges.

    Around the object the colour of its faintest edge is filled in. So the estimate finds the old background if it was
    mixed in, and the object's own colour if it was not. (Black there, as many files have it, would be taken for an old
    background and the edges made too bright.)
    """
    unknown = (alpha < TRUSTED).astype(np.uint8)
    labels = cv2.distanceTransformWithLabels(unknown, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)[1]
    known = np.flatnonzero(unknown == 0)
    nearest = np.zeros(labels.max() + 1, np.int64)  # label -> the known pixel that it belongs to
    nearest[labels.flat[known]] = known
    return estimate_foreground(colours.reshape(-1, 3)[nearest[labels]], alpha), alpha


def placed(premultiplied: np.ndarray, side: int, scale: tuple[float, float], rng, cut_off: float = 0) -> np.ndarray:
    """The object (h,w,4) at a random size and place in an empty (side,side,4).

    cut_off: how often a border cuts off a part of it, 0 to 1.
    """
    most = MOST_ENLARGED * max(premultiplied.shape[:2]) / side
    sized = resize_longer_side(premultiplied, max(1, round(side * rng.uniform(*np.minimum(scale, most)))))
    height, width = sized.shape[:2]
    top, left = rng.integers(side - height + 1), rng.integers(side - width + 1)
    if rng.random() < cut_off:
        beyond = rng.uniform(*CUT)
        top, left = ((top, round(-beyond * width)), (top, round(side - (1 - beyond) * width)),
                     (round(side - (1 - beyond) * height), left))[rng.integers(3)]
    shift = np.array([[1, 0, left], [0, 1, top]], np.float32)
    return cv2.warpAffine(sized, shift, (side, side), flags=cv2.INTER_NEAREST)
