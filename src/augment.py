"""Training augmentation of one (rgb, alpha) pair, and the dense alpha that the network learns.

Order: scale -> crop -> flip -> rotate -> background -> colour -> xray. One draw of the geometry applies to all aligned
images. All randomness comes from the generator passed in.
"""
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from core.schema import Augment, Xray

LUMA = np.array([[0.299, 0.587, 0.114]], np.float32)


@dataclass(frozen=True)
class XrayParams:
    """One draw of the dense alpha's parameters; sigmas in pixels, the rest in units of alpha or plain factors."""
    floor: float
    amp: float
    ceiling: float
    detail_k: float
    background: float
    background_noise: float
    background_sigma: float
    low_sigma: float
    thicken_sigma: float
    unsharp: float


def sample_xray_params(xray: Xray, rng: np.random.Generator) -> XrayParams:
    """Draws uniformly from each [low, high]; single numbers are used unchanged."""
    return XrayParams(**{
        name: float(rng.uniform(*value)) if isinstance(value, tuple) else value for name, value in xray})


def middle_xray_params(xray: Xray) -> XrayParams:
    """The middle of each [low, high]: the parameters that a dense alpha is composed with."""
    return XrayParams(**{name: sum(value) / 2 if isinstance(value, tuple) else value for name, value in xray})


def xray_alpha_dense(rgb: np.ndarray, alpha: np.ndarray, params: XrayParams,
                     rng: np.random.Generator | None = None) -> np.ndarray:
    """Near-binary alpha -> dense, X-ray-like target, (H,W) float32 in [0,1].

    rgb (H,W,3) uint8, alpha (H,W) float32. rng draws the background's noise field; without rng the background is flat.
    Dark, thick and textured regions become denser; the background gets a faint, uneven level.

    Within 1/255 of the formula written out in scripts/benchmark/baseline.py. Arrays are reused in place: allocating
    new ones costs as much as the arithmetic.
    """
    luma = cv2.cvtColor(rgb.astype(np.float32), cv2.COLOR_RGB2GRAY)
    luma *= 1 / 255
    low = 1 - _blur(luma, params.low_sigma)
    # Differences of blurs are equal in magnitude for the luma and its inverse.
    fine, coarse = _blur(luma, 0.8), _blur(luma, 2)
    cv2.absdiff(fine, _blur(luma, 3), dst=fine)
    cv2.absdiff(coarse, _blur(luma, 7), dst=coarse)
    texture = _blur(cv2.scaleAdd(coarse, 0.5, fine, dst=fine), params.thicken_sigma)

    inside = alpha > 1 / 255
    core = alpha > 0.3
    texture_n = _stretch(texture, *_extremes(texture, core if np.count_nonzero(core) > 64 else inside))
    low_n = _stretch(low, *_quantiles(low, inside))

    texture_n -= 0.5
    texture_n *= params.detail_k
    density = low_n
    density *= params.amp
    density += params.floor
    density *= cv2.exp(texture_n, dst=texture_n)
    np.clip(density, 0, params.ceiling, out=density)
    cv2.addWeighted(density, 1 + params.unsharp, _blur(density, 1.5), -params.unsharp, 0, dst=density)
    np.clip(density, 0, params.ceiling, out=density)

    background = np.float32(params.background)
    if rng is not None:
        background = noise_field(alpha.shape, params.background_sigma, rng)
        background *= params.background_noise
        background += params.background
        np.clip(background, 0, 0.25, out=background)
    density -= background
    density *= alpha
    density += background
    return density


def noise_field(shape: tuple[int, int], sigma: float, rng: np.random.Generator) -> np.ndarray:
    """(H,W) float32 Gaussian noise of unit variance and correlation length `sigma` pixels.

    Drawn on a coarse grid and enlarged: blurring full-size white noise with a wide kernel costs ten times as much as
    everything else. It is normalised by the kernel's norm, not by the sample: a small image holds few independent
    values, and their spread is part of the noise.
    """
    step = max(1.0, sigma / 4)
    coarse_sigma = sigma / step
    margin = int(np.ceil(3 * coarse_sigma))
    height, width = (int(np.ceil(side / step)) + 1 for side in shape)
    white = rng.standard_normal((height + 2 * margin, width + 2 * margin), dtype=np.float32)
    kernel = cv2.getGaussianKernel(2 * margin + 1, coarse_sigma, cv2.CV_32F)
    coarse = cv2.sepFilter2D(white, -1, kernel, kernel)[margin:-margin, margin:-margin] / np.sum(kernel**2)
    return cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)


def augment_pair(rgb: np.ndarray, alpha: np.ndarray, cfg: Augment, rng: np.random.Generator,
                 foreground: Callable[[np.ndarray, np.ndarray], np.ndarray],
                 background: Callable[[np.random.Generator], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """One training sample: rgb (crop,crop,3) uint8 and target (crop,crop) float32.

    foreground(rgb, alpha) -> the object's own colour; background(rng) -> another picture. Both are called only if the
    background is replaced.
    """
    moved = rng.random() < cfg.background_p
    if moved:
        rgb = foreground(rgb, alpha)
    geometry = Geometry.draw(alpha.shape, cfg, rng)
    rgb, alpha = geometry.apply(rgb), geometry.apply(alpha)
    if moved:
        other = background(rng)
        rgb = composite(rgb, Geometry.draw(other.shape[:2], cfg, rng).apply(other), alpha)
    if rng.random() < cfg.color_p:
        rgb = jitter_color(rgb, *rng.uniform(*cfg.color_range, size=3))
    if rng.random() < cfg.xray_p:
        return rgb, xray_alpha_dense(rgb, alpha, sample_xray_params(cfg.xray, rng), rng)
    return rgb, alpha


@dataclass(frozen=True)
class Geometry:
    """One draw of scale, crop, flip and rotation; apply() takes any image of the shape it was drawn for."""
    shape: tuple[int, int]  # (H,W) after scaling
    top: int                # of the crop, in the scaled image; negative: so many pixels are reflected padding
    left: int
    crop: int
    flip: bool
    angle: float            # degrees

    @classmethod
    def draw(cls, shape: tuple[int, int], cfg: Augment, rng: np.random.Generator) -> "Geometry":
        # Below this scale even the longer side would be padded, and nothing more would be visible.
        whole = min(1.0, cfg.crop / max(shape))
        scale = max(rng.uniform(*cfg.scale), whole)
        height, width = (max(1, round(side * scale)) for side in shape)
        top, left = (int(rng.integers(min(0, side - cfg.crop), max(0, side - cfg.crop) + 1))
                     for side in (height, width))
        flip = bool(rng.random() < cfg.flip_p)
        angle = rng.uniform(-cfg.rotate_deg, cfg.rotate_deg) if rng.random() < cfg.rotate_p else 0.0
        return cls((height, width), top, left, cfg.crop, flip, angle)

    def apply(self, image: np.ndarray) -> np.ndarray:
        height, width = self.shape
        if image.shape[:2] != self.shape:
            shrinks = height < image.shape[0]
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        image = image[max(0, self.top):self.top + self.crop, max(0, self.left):self.left + self.crop]
        above, before = max(0, -self.top), max(0, -self.left)
        below, after = self.crop - above - image.shape[0], self.crop - before - image.shape[1]
        if above or before or below or after:
            image = cv2.copyMakeBorder(image, above, below, before, after, cv2.BORDER_REFLECT_101)
        if self.flip:
            image = image[:, ::-1]
        if self.angle:
            turn = cv2.getRotationMatrix2D(((self.crop - 1) / 2, (self.crop - 1) / 2), self.angle, 1)
            image = cv2.warpAffine(np.ascontiguousarray(image), turn, (self.crop, self.crop), flags=cv2.INTER_LINEAR,
                                   borderMode=cv2.BORDER_REFLECT_101)
        return np.ascontiguousarray(image)


def composite(foreground: np.ndarray, background: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """(H,W,3) uint8 from two uint8 pictures and alpha (H,W) in [0,1]."""
    alpha = alpha[..., None]
    return np.rint(alpha * foreground + (1 - alpha) * background).astype(np.uint8)


def jitter_color(rgb: np.ndarray, brightness: float, contrast: float, saturation: float) -> np.ndarray:
    """Scales all values, their distance to the mean grey, and each pixel's distance to its own grey; 1: no change.

    All three are affine in the colour, so one 3×4 matrix applies them in one pass.
    """
    to_grey = np.repeat(LUMA, 3, axis=0)
    matrix = brightness * contrast * (saturation * np.eye(3) + (1 - saturation) * to_grey)
    shift = (1 - contrast) * brightness * float((LUMA @ cv2.mean(rgb)[:3])[0])
    return cv2.transform(rgb, np.column_stack([matrix, np.full(3, shift)]))


def _blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur into a new array, borders reflected; a wide one on a coarser grid, at a tenth of the cost.

    The error is below 1/500 of the image's range (1/1000 for sigma >= 7).
    """
    if sigma < 3:
        return cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)
    levels = 1 if sigma < 6 else 2
    step = 2**levels
    margin = step * int(np.ceil(4 * sigma / step))  # reflected here, as the coarse grid may not end on the last pixel
    height, width = image.shape
    coarse = cv2.copyMakeBorder(image, margin, margin + -height % step, margin, margin + -width % step,
                                cv2.BORDER_REFLECT_101)
    for _ in range(levels):
        coarse = cv2.pyrDown(coarse)
    # Each pyramid step, down or up, itself blurs by one pixel of its finer grid; variances add up.
    rest = sigma**2 - 2 * sum(4**level for level in range(levels))
    coarse = cv2.GaussianBlur(coarse, (0, 0), rest**0.5 / step, borderType=cv2.BORDER_REFLECT_101)
    for _ in range(levels):
        coarse = cv2.pyrUp(coarse)
    return coarse[margin:margin + height, margin:margin + width]


def _stretch(image: np.ndarray, low: float, high: float) -> np.ndarray:
    """Maps low to 0 and high to 1, clipped, in place; a flat image becomes 0."""
    image -= low
    image *= 1 / max(high - low, 1e-6)
    return np.clip(image, 0, 1, out=image)


def _extremes(image: np.ndarray, region: np.ndarray) -> tuple[float, float]:
    low, high, _, _ = cv2.minMaxLoc(image, region.view(np.uint8))
    return low, high


def _quantiles(image: np.ndarray, region: np.ndarray) -> tuple[float, float]:
    """The 10 % and 90 % quantiles in the region; if large, on a grid of at most 65536 of its pixels."""
    step = max(1, int(np.ceil((np.count_nonzero(region) / 65536) ** 0.5)))
    values = image[::step, ::step][region[::step, ::step]]
    if not values.size:
        return 0.0, 0.0
    low, high = np.quantile(values, (0.1, 0.9))
    return float(low), float(high)
