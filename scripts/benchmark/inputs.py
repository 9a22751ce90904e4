"""The inputs of both sides of `make bench`, drawn from the seed: each side draws its own in its own process."""
import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from augment import sample_xray_params, xray_alpha_dense
from core import checkpoint
from core.config import EMBEDDED, Config
from inference.postprocess import ORIGINAL
from scenes.scene import draw_pair
from u2net import U2Net

# settings of the original post-processing; the reference always removes the rest, so it has no such setting
COMPONENTS = {key: value for key, value in ORIGINAL.parameters.items() if key != "rest"}


@dataclass(frozen=True)
class Forward:
    """One forward pass to measure; the reference runs it in fp32, in torch."""
    size: int  # squares of this side, in pixels
    images: int = 1
    precision: str = "auto"
    backend: str = "auto"
    threads: int | None = None  # None: as many as usual


def embedded_network() -> U2Net:
    model = U2Net()
    checkpoint.load_weights(model, EMBEDDED)
    return model


def squares(cfg: Config, size: int, images: int) -> np.ndarray:
    """(images,size,size,3) uint8; sizes above 1024 are enlarged."""
    drawn = [draw_pair(cfg.seed, index, min(size, 1024))[0] for index in range(images)]
    return np.stack([cv2.resize(rgb, (size, size)) for rgb in drawn])


def training_batch(cfg: Config, size: int, images: int, device: torch.device | str = "cpu") -> list[torch.Tensor]:
    """rgb (B,3,size,size) uint8 and dense target (B,1,size,size)."""
    pairs = []
    for index in range(images):
        rgb, alpha, _ = draw_pair(cfg.seed, index, size)
        rng = np.random.default_rng([cfg.seed, index])
        pairs.append((rgb.transpose(2, 0, 1), xray_alpha_dense(rgb, alpha, sample_xray_params(cfg.augment.xray, rng),
                                                               rng)[None]))
    return [torch.from_numpy(np.stack(arrays)).to(device) for arrays in zip(*pairs, strict=True)]


def noisy_matte() -> np.ndarray:
    """(1024,1024): a soft disc under noise that leaves about 3000 connected parts."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:1024, :1024] / 1024 - 0.5
    noise = cv2.GaussianBlur(rng.standard_normal((1024, 1024), np.float32), (0, 0), 1.4)
    pred = np.clip(0.9 * np.exp(-((x**2 + y**2) / 0.08) ** 4) + 0.06 * (noise / noise.std() - 1.2), 0, 1)
    return pred.astype(np.float32)


def drawn_images(cfg: Config, folder: Path, count: int) -> list[Path]:
    """1024² test images."""
    folder.mkdir()
    paths = [folder / f"{index}.png" for index in range(count)]
    for path, rgb in zip(paths, squares(cfg, 1024, count), strict=True):
        cv2.imwrite(str(path), rgb[..., ::-1])
    return paths


@contextlib.contextmanager
def on_cores(count: int | None) -> Iterator[None]:
    """Runs the block on `count` cores with as many threads; None: changes nothing. macOS cannot pin cores."""
    if count is None:
        yield
        return
    pinned = hasattr(os, "sched_setaffinity")
    cores, threads = os.sched_getaffinity(0) if pinned else (), torch.get_num_threads()
    if pinned:
        os.sched_setaffinity(0, sorted(cores)[:count])
    torch.set_num_threads(count)
    try:
        yield
    finally:
        if pinned:
            os.sched_setaffinity(0, cores)
        torch.set_num_threads(threads)


def difference(true: np.ndarray, pred: np.ndarray) -> str:
    error = np.abs(np.asarray(true, np.float64) - pred)
    return f"mean Δ {error.mean():.1e}, max {error.max():.1e}"


def difference_inside(cfg: Config, size: int, true: np.ndarray, pred: np.ndarray) -> str:
    """Difference of dense alphas inside the object: outside they are noise, drawn differently."""
    inside = draw_pair(cfg.seed, 0, size)[1] > 0.99
    return f"inside the object {difference(true[inside], pred[inside])}"
