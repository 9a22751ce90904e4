"""Detail for images far larger than what the network sees at once.

A tile at native resolution shows the network hair, but not whose: its low frequencies are guesses. So the matte is that
of the whole image, enlarged, plus the tiles' frequencies above its resolution:

    alpha = enlarge(small) + tiles − enlarge(shrink(tiles))

This replaces the finest level of a Laplacian pyramid (Burt and Adelson, 1983). If the tiles' matte equals the whole
image's but is sharper, the sum is exactly the tiles' matte; a tile that is off by a constant changes nothing.
"""
from collections.abc import Callable, Iterator

import cv2
import numpy as np


def tiled_alpha(rgb: np.ndarray, size: int, batch_size: int, network: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """(H,W,3) uint8 -> (H,W) float32: the network's mattes of tiles of `size`, blended where they overlap.

    network: (N,size,size,3) uint8 -> (N,size,size). Memory: the image, its matte and `batch_size` tiles.
    """
    height, width = rgb.shape[:2]
    rgb = cv2.copyMakeBorder(rgb, 0, max(0, size - height), 0, max(0, size - width), cv2.BORDER_REFLECT_101)
    rows, columns = starts(rgb.shape[0], size), starts(rgb.shape[1], size)
    ramp = window(size)
    weights = ramp[:, None] * ramp
    alpha = np.zeros(rgb.shape[:2], np.float32)
    for corners in batches([(y, x) for y in rows for x in columns], batch_size):
        tiles = np.stack([rgb[y:y + size, x:x + size] for y, x in corners])
        for (y, x), tile in zip(corners, network(tiles), strict=True):
            alpha[y:y + size, x:x + size] += weights * tile
    # The total weight of a grid of tiles is the product of its rows' and its columns' total weights.
    alpha /= total_weight(rgb.shape[0], rows, ramp)[:, None]
    alpha /= total_weight(rgb.shape[1], columns, ramp)
    return np.ascontiguousarray(alpha[:height, :width])


def add_detail(enlarged: np.ndarray, tiles: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The whole image's matte (H,W), enlarged from `shape` (h,w), plus the frequencies of tiles (H,W) above that."""
    height, width = tiles.shape
    known = cv2.resize(tiles, shape[::-1], interpolation=cv2.INTER_AREA)
    detail = tiles - cv2.resize(known, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.clip(enlarged + detail, 0, 1)


def starts(length: int, size: int) -> list[int]:
    """Where tiles start, so that they cover `length` evenly and overlap by at least a quarter."""
    count = 1 + -(-(length - size) // (size - size // 4))
    return np.linspace(0, length - size, count).round().astype(int).tolist()


def window(size: int) -> np.ndarray:
    """(size,) weights of a tile's rows: rising over a quarter of the tile, never 0, since one tile covers the edge."""
    distance = np.minimum(np.arange(size), np.arange(size)[::-1]) + 1
    return np.minimum(1, distance / (size // 4)).astype(np.float32)


def total_weight(length: int, begins: list[int], ramp: np.ndarray) -> np.ndarray:
    total = np.zeros(length, np.float32)
    for begin in begins:
        total[begin:begin + len(ramp)] += ramp
    return total


def batches(items: list, size: int) -> Iterator[list]:
    for first in range(0, len(items), size):
        yield items[first:first + size]
