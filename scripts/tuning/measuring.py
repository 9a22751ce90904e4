"""Errors of images against their truths, many at a time."""
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm import tqdm

TRUTHS = {"val_mse_dense": "dense target", "val_mse": "file's alpha"}


def truths(sample: tuple, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """sample: (rgb, alpha, target) -> the truth that decides, and the other one."""
    _, alpha, target = sample
    return (target, alpha) if metric == "val_mse_dense" else (alpha, target)


def in_threads(function: Callable[[int], object], count: int, what: str) -> list:
    """function(i) for i below `count`, in order; OpenCV and NumPy release the GIL."""
    with ThreadPoolExecutor() as pool:
        return list(tqdm(pool.map(function, range(count)), what, count, unit="image", disable=None, leave=False))
