"""Images of any shape as the squares that the network takes, and back."""
import cv2
import numpy as np

from imaging.images import resize_longer_side


def to_square(rgb: np.ndarray, size: int) -> np.ndarray:
    """(H,W,3) -> (size,size,3): longer side `size`, aspect kept, padded below or to the right by reflection."""
    rgb = resize_longer_side(rgb, size)
    height, width = rgb.shape[:2]
    return cv2.copyMakeBorder(rgb, 0, size - height, 0, size - width, cv2.BORDER_REFLECT_101)


def from_square(alpha: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(size,size) -> (H,W) of `shape`: without to_square()'s padding, resized back."""
    height, width = inner_shape(shape, len(alpha))
    alpha = alpha[:height, :width]
    if alpha.shape == tuple(shape):
        return np.ascontiguousarray(alpha)
    smaller = max(shape) < max(alpha.shape)
    return cv2.resize(alpha, shape[::-1], interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)


def inner_shape(shape: tuple[int, int], size: int) -> tuple[int, int]:
    """(h,w) of an image of `shape` within its square."""
    ratio = size / max(shape)
    return max(1, round(shape[0] * ratio)), max(1, round(shape[1] * ratio))
