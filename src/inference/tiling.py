"""Detail for images far larger than what the network sees at once.

A tile at native resolution shows the network hair, but not whose: its low frequencies are guesses. So the matte is the
enlarged one of the whole image plus what only tiles can show, their frequencies above the small matte's resolution:

    alpha = enlarge(small) + tiles − enlarge(shrink(tiles))

the finest level of a Laplacian pyramid (Burt and Adelson, 1983) exchanged. Where the tiles' matte is the whole image's
matte, only sharper, the sum is exactly the tiles'; a tile that is off by a constant changes nothing.
"""
from collections.abc import Callable, Iterator

import cv2
import numpy as np


def tiled_alpha(rgb: np.ndarray, size: int, batch_size: int, network: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """(H,W,3) uint8 -> (H,W) float32: the network's mattes of tiles of `size`, blended where they overlap.

    network: (N,size,size,3) uint8 -> (N,size,size). Beside the image and its matte, only `batch_size` tiles are held.
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
    # The weights of a grid of tiles are the product of those of its rows and its columns.
    alpha /= total_weight(rgb.shape[0], rows, ramp)[:, None]
    alpha /= total_weight(rgb.shape[1], columns, ramp)
    return np.ascontiguousarray(alpha[:height, :width])


def add_detail(enlarged: np.ndarray, tiles: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The whole image's matte (H,W), enlarged from `shape` (h,w), with the tiles' (H,W) frequencies above that."""
    height, width = tiles.shape
    known = cv2.resize(tiles, shape[::-1], interpolation=cv2.INTER_AREA)
    detail = tiles - cv2.resize(known, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.clip(enlarged + detail, 0, 1)


def starts(length: int, size: int) -> list[int]:
    """Where tiles begin so that they cover `length` evenly and overlap by a quarter at least."""
    count = 1 + -(-(length - size) // (size - size // 4))
    return np.linspace(0, length - size, count).round().astype(int).tolist()


def window(size: int) -> np.ndarray:
    """(size,) weight of a tile's rows: rises over a quarter of the tile, never 0, as the image's edge has one tile."""
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
