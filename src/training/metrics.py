"""MSE, SAD, Grad and Conn of a matte, as the matting literature computes them (Rhemann et al., CVPR 2009).

Each takes pred and true (H,W) in [0,1], whole image, and returns a float; 0 is perfect.
"""
import itertools

import cv2
import numpy as np


def mse(pred: np.ndarray, true: np.ndarray) -> float:
    """Mean squared error, in alpha²."""
    return float(np.mean((_float(pred) - _float(true)) ** 2))


def sad(pred: np.ndarray, true: np.ndarray) -> float:
    """Sum of absolute differences, in thousands of pixels."""
    return float(np.abs(_float(pred) - _float(true)).sum() / 1000)


def grad(pred: np.ndarray, true: np.ndarray) -> float:
    """Squared difference of gradient magnitudes (Gaussian derivatives, σ 1.4), summed, in thousands."""
    return float(((_gradient(pred) - _gradient(true)) ** 2).sum() / 1000)


def conn(pred: np.ndarray, true: np.ndarray, step: float = 0.1, tolerance: float = 0.15) -> float:
    """Connectivity: how far each pixel is above the level at which it leaves the common largest component."""
    pred, true = _float(pred), _float(true)
    # The highest level at which a pixel still belongs to the largest 4-connected component of both mattes.
    level = np.ones(true.shape)
    undecided = np.ones(true.shape, bool)
    thresholds = np.arange(0, 1 + step, step)
    for below, threshold in itertools.pairwise(thresholds):
        outside = undecided & ~_largest_component((pred >= threshold) & (true >= threshold))
        level[outside] = below
        undecided &= ~outside
    pred_above, true_above = pred - level, true - level
    pred_phi = 1 - pred_above * (pred_above >= tolerance)
    true_phi = 1 - true_above * (true_above >= tolerance)
    return float(np.abs(pred_phi - true_phi).sum() / 1000)


def _float(alpha: np.ndarray) -> np.ndarray:
    return np.asarray(alpha, np.float64)


def _gradient(alpha: np.ndarray, sigma: float = 1.4) -> np.ndarray:
    """Gradient magnitude of the min-max scaled matte; each 9×9 kernel has unit L2 norm."""
    alpha = _float(alpha)
    alpha = cv2.normalize(alpha, None, 0, 1, cv2.NORM_MINMAX) if np.ptp(alpha) > 0 else np.zeros_like(alpha)
    # Half width at which the derivative falls below 1 % of its peak: the literature's choice.
    half = int(np.ceil(sigma * np.sqrt(-2 * np.log(np.sqrt(2 * np.pi) * sigma * 0.01))))
    x = np.arange(-half, half + 1)
    gauss = np.exp(-(x**2) / (2 * sigma**2))
    derivative = -x * gauss
    gauss, derivative = gauss / np.linalg.norm(gauss), derivative / np.linalg.norm(derivative)
    dx = cv2.sepFilter2D(alpha, -1, derivative, gauss, borderType=cv2.BORDER_REPLICATE)
    dy = cv2.sepFilter2D(alpha, -1, gauss, derivative, borderType=cv2.BORDER_REPLICATE)
    return np.hypot(dx, dy)


def _largest_component(mask: np.ndarray) -> np.ndarray:
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=4)
    if len(stats) == 1:  # background only
        return np.zeros(mask.shape, bool)
    return labels == 1 + np.argmax(stats[1:, cv2.CC_STAT_AREA])
