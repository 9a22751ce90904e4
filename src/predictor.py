"""One predict() over the backends that can run the network: images in, alphas of the images' own sizes out."""
from typing import Protocol

import cv2
import numpy as np
import torch

import checkpoint
from config import Config, predict_size
from device import autocast, describe, pick_device, pick_precision
from images import resize_longer_side
from u2net import U2Net, normalise


class Predictor(Protocol):
    """What load_predictor() returns."""
    description: str  # what runs, in one line

    def __call__(self, rgb_batch: list[np.ndarray]) -> list[np.ndarray]:
        """(H,W,3) uint8 each, sizes may differ -> (H,W) float32 in [0,1] each."""


class TorchPredictor:
    """A U2Net as it is in memory, seeing images at `size`."""

    def __init__(self, model: U2Net, size: int, tta: str, device: torch.device, precision: str):
        self.model, self.size, self.tta = model, size, tta
        self.device, self.precision = device, precision
        self.description = f"torch on {describe(device, precision)}, {size} px, tta {tta}"

    @torch.inference_mode()
    def __call__(self, rgb_batch: list[np.ndarray]) -> list[np.ndarray]:
        self.model.eval()
        squares = np.stack([to_square(rgb, self.size) for rgb in rgb_batch])
        x = normalise(torch.from_numpy(squares).to(self.device).permute(0, 3, 1, 2))
        alphas = self._alpha(x)
        if self.tta == "flip":
            alphas = (alphas + self._alpha(x.flip(3)).flip(3)) / 2
        alphas = alphas[:, 0].cpu().numpy()
        return [from_square(alpha, rgb.shape[:2]) for alpha, rgb in zip(alphas, rgb_batch, strict=True)]

    def _alpha(self, x: torch.Tensor) -> torch.Tensor:
        with autocast(self.device, self.precision):
            return self.model(x)[0].sigmoid()


def load_predictor(cfg: Config) -> Predictor:
    """The network of cfg.infer.weights; its variant and size are the checkpoint's own where config leaves them open."""
    trained = checkpoint.load(cfg.infer.weights).get("config") or {}
    model = U2Net(trained.get("model", {}).get("variant", cfg.model.variant))
    checkpoint.load_weights(model, cfg.infer.weights)
    size = cfg.infer.size or trained.get("infer", {}).get("size") or predict_size(cfg)
    device = pick_device()
    precision = pick_precision(cfg.infer.precision, device)
    return TorchPredictor(model.to(device, memory_format=torch.channels_last), size, cfg.infer.tta, device, precision)


def to_square(rgb: np.ndarray, size: int) -> np.ndarray:
    """(size,size,3): longer side `size`, aspect kept, the rest reflected below or to the right."""
    rgb = resize_longer_side(rgb, size)
    height, width = rgb.shape[:2]
    return cv2.copyMakeBorder(rgb, 0, size - height, 0, size - width, cv2.BORDER_REFLECT_101)


def from_square(alpha: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(size,size) -> (H,W) of `shape`: what to_square() added is cut off, the rest brought back to size."""
    height, width = shape
    ratio = alpha.shape[0] / max(shape)
    alpha = alpha[:max(1, round(height * ratio)), :max(1, round(width * ratio))]
    if alpha.shape == tuple(shape):
        return np.ascontiguousarray(alpha)
    return cv2.resize(alpha, (width, height), interpolation=cv2.INTER_AREA if ratio > 1 else cv2.INTER_LINEAR)
