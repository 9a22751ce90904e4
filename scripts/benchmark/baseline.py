"""What `make bench` compares with: the same computations as they are commonly written, eager, fp32, one by one.

Our own code, neither tuned nor slowed down: the forward pass as in the official code, a training step that computes the
target's terms again for each of the seven outputs, the dense alpha with full-size blurs, one pass over the image per
connected component, and a submission that is kept in memory and written at the end.
"""
import base64
import csv
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from augment import XrayParams
from core.schema import Loss
from losses import BACKGROUND, MARGIN, OBJECT, THIN_PX
from u2net import MEAN, STD, U2Net


@torch.no_grad()
def forward(model: U2Net, rgb: np.ndarray) -> np.ndarray:
    """(H,W,3) uint8 -> pred (H,W) float32, at the image's own size; NCHW memory."""
    return torch.sigmoid(model(to_input(rgb))[0])[0, 0].numpy()


def to_input(rgb: np.ndarray) -> torch.Tensor:
    x = torch.from_numpy(rgb.astype(np.float32) / 255).permute(2, 0, 1)[None].contiguous()
    return (x - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)


def training_step(model: U2Net, optimizer: torch.optim.Optimizer, rgb: torch.Tensor, target: torch.Tensor,
                  weights: Loss) -> float:
    """rgb (B,3,H,W) uint8, target (B,1,H,W) -> the loss before the step."""
    mean, std = (torch.tensor(values, device=rgb.device).view(1, 3, 1, 1) for values in (MEAN, STD))
    x = (rgb.float() / 255 - mean) / std
    loss = sum(output_loss(torch.sigmoid(output), target, weights) for output in model(x)) / 7
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def output_loss(pred: torch.Tensor, target: torch.Tensor, weights: Loss) -> torch.Tensor:
    """The composite loss of one output; the target's terms are computed here, too."""
    error = (pred - target) ** 2
    inside = (target > OBJECT).float()
    side = 2 * THIN_PX + 1
    thin = inside + F.max_pool2d(-inside, side, stride=1, padding=THIN_PX)
    outside = (target <= BACKGROUND).float()
    pred_edges, true_edges = sobel(pred), sobel(target)
    terms = {
        "base": error.mean((1, 2, 3)),
        "object": masked_mean((1 + 2 * true_edges) * error, inside),
        "thin": masked_mean(error, thin),
        "edge": (pred_edges - true_edges).abs().mean((1, 2, 3)),
        "background": masked_mean(pred**2 + 2 * F.relu(pred - MARGIN) ** 2, outside),
    }
    return sum(getattr(weights, name) * value.mean() for name, value in terms.items())


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return (values * mask).sum((1, 2, 3)) / mask.sum((1, 2, 3)).clamp(min=1)


def sobel(alpha: torch.Tensor) -> torch.Tensor:
    kernel = torch.tensor([[-1., 0, 1], [-2, 0, 2], [-1, 0, 1]], device=alpha.device)
    padded = F.pad(alpha, (1, 1, 1, 1), mode="replicate")
    dx, dy = (F.conv2d(padded, k[None, None]) for k in (kernel, kernel.T))
    return torch.sqrt(dx**2 + dy**2 + 1e-12) / 4


def xray_alpha_dense(rgb: np.ndarray, alpha: np.ndarray, p: XrayParams, rng: np.random.Generator | None = None,
                     dtype: type = np.float32) -> np.ndarray:
    """The dense alpha (H,W): every blur at full size, also that of the background's white noise; exact quantiles.

    For objects of more than 64 core pixels. From the same generator, augment.py draws other noise.
    """
    def blur(image, sigma):
        return cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)

    inverse = 1 - (rgb @ np.array([0.299, 0.587, 0.114], dtype)) / 255
    low = blur(inverse, p.low_sigma)
    texture = np.abs(blur(inverse, 0.8) - blur(inverse, 3)) + 0.5 * np.abs(blur(inverse, 2) - blur(inverse, 7))
    texture = blur(texture, p.thicken_sigma)
    core, inside = alpha > 0.3, alpha > 1 / 255
    texture_n = np.clip((texture - texture[core].min()) / np.ptp(texture[core]), 0, 1)
    q10, q90 = np.quantile(low[inside], (0.1, 0.9))
    base = p.floor + p.amp * np.clip((low - q10) / (q90 - q10), 0, 1)
    density = np.clip(base * np.exp(p.detail_k * (texture_n - 0.5)), 0, p.ceiling)
    density = np.clip(density + p.unsharp * (density - blur(density, 1.5)), 0, p.ceiling)
    background = p.background
    if rng is not None:
        field = blur(rng.standard_normal(alpha.shape, dtype), p.background_sigma)
        background = np.clip(background + p.background_noise * field / field.std(), 0, 0.25)
    return background + alpha * (density - background)


def components(pred: np.ndarray, p: Mapping[str, float]) -> np.ndarray:
    """The original post-processing with its settings p: one pass over the image per part of pred > support."""
    count, labels = cv2.connectedComponents((pred > p["support"]).astype(np.uint8))
    found = []
    for label in range(1, count):
        part = labels == label
        mean, share = pred[part].mean(), part.mean()
        if mean >= p["confidence"] or share >= p["area"]:
            found.append((mean, part))
    found.sort(key=lambda item: -item[0])
    keep = np.zeros(pred.shape, np.uint8)
    for _, part in found[:p["top"]]:
        keep |= part.astype(np.uint8)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * p["dilate"] + 1, 2 * p["dilate"] + 1))
    return np.where(cv2.dilate(keep, disc) > 0, pred, 0)


def submission(model: U2Net, images: list[Path], path: Path) -> None:
    """For each image: decode, predict twice (flip), encode; all rows are kept in a list and written at the end."""
    rows = []
    for image in images:
        rgb = cv2.cvtColor(cv2.imread(str(image)), cv2.COLOR_BGR2RGB)
        alpha = (forward(model, rgb) + forward(model, rgb[:, ::-1])[:, ::-1]) / 2
        encoded = cv2.imencode(".png", np.round(alpha * 255).astype(np.uint8))[1]
        rows.append([image.stem, base64.b64encode(encoded.tobytes()).decode()])
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["filename", "image_utf"], *rows])
