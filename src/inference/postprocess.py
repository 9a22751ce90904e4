"""Optional clean-up of a matte: small pure functions, and a Setting (one of them with its parameters) kept as YAML.

`make tune` measures which of them, if any, lowers a run's MSE, and at which size the network should see the images;
`infer.postprocess=tuned` then applies both. pred is
(H,W) float32 in [0,1] everywhere, in and out. Lengths are pixels of an image whose longer side is 1024 and scale with
the image, so that a setting means the same at every size. Nothing here loops over pixels or components.
"""
from dataclasses import dataclass, field

import cv2
import numpy as np

BACKGROUND_BOUND = 0.25  # dense alphas never exceed it outside the object (xray_alpha_dense clips there)
RIDGE = 3e-3             # added to the mean square of each feature
FITTED_PIXELS = 2**16    # of an image that the correction is fitted on
BINS = 1024              # of pred, for the fits: four per level of an 8-bit matte


@dataclass(frozen=True)
class Setting:
    """One of METHODS with its parameters, which are plain values so that YAML can hold them."""
    name: str
    parameters: dict[str, float | str] = field(default_factory=dict)

    def __str__(self) -> str:
        return " ".join([self.name, *(f"{key}={value}" for key, value in self.parameters.items())])


def apply(setting: Setting, rgb: np.ndarray, pred: np.ndarray, alpha: np.ndarray | None = None) -> np.ndarray:
    """rgb (H,W,3) uint8, pred (H,W), alpha (H,W) that pred was composed from, None: pred itself -> a new, cleaned pred.
    """
    method = METHODS[setting.name]
    inputs = {guided: (rgb,), correction: (rgb, pred if alpha is None else alpha)}.get(method, ())
    return np.clip(method(pred, *inputs, **setting.parameters), 0, 1, dtype=np.float32)


def unchanged(pred: np.ndarray) -> np.ndarray:
    return pred


@dataclass(frozen=True)
class Components:
    """Which connected parts of pred > support are kept: the `top` most confident of those that count."""
    support: float
    confidence: float  # a part counts if its mean is at least this …
    area: float        # … or if it covers at least this share of the image
    top: int
    dilate: float      # pixels within this distance of a kept part are kept too
    rest: str          # what the other pixels become: "zero" or "background" (its estimated level)


def components(pred: np.ndarray, **parameters: float | str) -> np.ndarray:
    """Keeps some connected parts of the matte and their surroundings; parameters: the fields of Components."""
    rule = Components(**parameters)
    radius = _scaled(rule.dilate, pred.shape)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return np.where(cv2.dilate(_kept_parts(pred, rule), disc) > 0, pred, _level(pred, rule.rest))


def _kept_parts(pred: np.ndarray, rule: Components) -> np.ndarray:
    """(H,W) uint8, 1 in the parts to keep."""
    supported = pred > rule.support
    count, labels = cv2.connectedComponents(supported.view(np.uint8))
    inside = labels[supported]  # a matte is mostly background: summing over the rest is several times cheaper
    sizes = np.bincount(inside, minlength=count)
    means = np.bincount(inside, pred[supported], count) / np.maximum(sizes, 1)
    counts = (means >= rule.confidence) | (sizes >= rule.area * pred.size)
    counts[0] = False  # label 0: the pixels below the support
    best = np.argsort(np.where(counts, means, -1))[-int(rule.top):]
    keep = np.zeros(count, np.uint8)
    keep[best] = counts[best]
    return np.take(keep, labels)


def guided(pred: np.ndarray, rgb: np.ndarray, radius: float, eps: float) -> np.ndarray:
    """Guided filter (He, Sun and Tang, TPAMI 2013), guided by rgb's luma in [0,1]: pred's edges move onto its edges.

    radius: half the window; eps: variance of the guide below which the window is smoothed. Borders are reflected.
    """
    side = 2 * _scaled(radius, pred.shape) + 1

    def box(image: np.ndarray) -> np.ndarray:
        return cv2.blur(image, (side, side), borderType=cv2.BORDER_REFLECT)

    guide = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    guide_mean, pred_mean = box(guide), box(pred)
    slope = (box(guide * pred) - guide_mean * pred_mean) / (box(guide * guide) - guide_mean**2 + np.float32(eps))
    return box(slope) * guide + box(pred_mean - slope * guide_mean)


def correction(pred: np.ndarray, rgb: np.ndarray, alpha: np.ndarray, /, **weights: float) -> np.ndarray:
    """What was learned about composed mattes: pred plus a weighted sum of correction_features()."""
    features = correction_features(pred, rgb, alpha)
    return sum((np.float32(weight) * features[name] for name, weight in weights.items()), pred)


def correction_features(pred: np.ndarray, rgb: np.ndarray, alpha: np.ndarray) -> dict[str, np.ndarray]:
    """(H,W) float32 each, by name: pred and alpha, their surroundings, and what is nonlinear in them."""
    def around(image: np.ndarray, radius: float) -> np.ndarray:
        side = 2 * _scaled(radius, pred.shape) + 1
        return cv2.blur(cv2.blur(image, (side, side)), (side, side))

    luma = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    return {"constant": np.ones_like(pred), "luma": luma, "dense": pred, "dense_near": around(pred, 10),
            "dense_far": around(pred, 40), "alpha": alpha, "alpha_squared": alpha**2, "alpha_far": around(alpha, 40),
            "product": alpha * pred}


def affine(pred: np.ndarray, scale: float, offset: float) -> np.ndarray:
    return np.float32(scale) * pred + np.float32(offset)


def gamma(pred: np.ndarray, exponent: float) -> np.ndarray:
    return pred ** np.float32(exponent)


def snap(pred: np.ndarray, to: str, tolerance: float) -> np.ndarray:
    """Pixels within `tolerance` of the level `to`, "zero" or "background", become that level."""
    level = _level(pred, to)
    return np.where(np.abs(pred - level) <= tolerance, level, pred)


METHODS = {"none": unchanged, "components": components, "guided": guided, "affine": affine, "gamma": gamma,
           "snap": snap, "correction": correction}
NONE = Setting("none")
# What the pipeline before this project did to every matte.
ORIGINAL = Setting("components", {"support": 0.05, "confidence": 0.2, "area": 0.01, "top": 3, "dilate": 7,
                                  "rest": "zero"})


def background_level(pred: np.ndarray) -> np.float32:
    """The level of what is certainly background: the median of pixels below BACKGROUND_BOUND; 0 if there are none."""
    low = pred[pred < BACKGROUND_BOUND]
    return np.float32(np.median(low) if low.size else 0)


def _level(pred: np.ndarray, name: str) -> np.float32:
    return {"zero": lambda _: np.float32(0), "background": background_level}[name](pred)


def _scaled(length: float, shape: tuple[int, int]) -> int:
    """A length given for a longer side of 1024, in pixels of an image of this shape; at least 1."""
    return max(1, round(length * max(shape) / 1024))


def calibration_table(pred: np.ndarray, true: np.ndarray) -> np.ndarray:
    """(2,BINS): per level of pred its share of the pixels, and the sum of true over them divided by all pixels.

    fit_affine() and fit_gamma() take the mean of several images' tables, in which each image counts the same.
    """
    bins = np.rint(pred.ravel() * (BINS - 1)).astype(np.int32)
    return np.stack([np.bincount(bins, minlength=BINS), np.bincount(bins, true.ravel(), BINS)]) / pred.size


def fit_affine(table: np.ndarray) -> Setting:
    """Least squares of true on pred; a falling line, which would invert the matte, becomes a constant."""
    share, sums = table
    levels = np.linspace(0, 1, BINS)
    pred_mean, true_mean = float(share @ levels), float(sums.sum())
    variance, covariance = float(share @ (levels - pred_mean) ** 2), float((levels - pred_mean) @ sums)
    scale = max(0.0, covariance / variance) if variance > 1e-9 else 0.0
    return Setting("affine", {"scale": round(scale, 4), "offset": round(true_mean - scale * pred_mean, 4)})


def fit_gamma(table: np.ndarray) -> Setting:
    """The exponent in [1/4,4] with the lowest squared error of pred**exponent, to half a percent."""
    share, sums = table
    exponents = np.geomspace(0.25, 4, 561)
    powers = np.linspace(0, 1, BINS) ** exponents[:, None]
    errors = powers**2 @ share - 2 * powers @ sums  # without Σtrue², which is the same for all
    return Setting("gamma", {"exponent": round(float(exponents[np.argmin(errors)]), 4)})


def correction_table(pred: np.ndarray, rgb: np.ndarray, alpha: np.ndarray, true: np.ndarray) -> np.ndarray:
    """(F,F+1): means over pixels of the features' products with one another, and with what pred lacks.

    fit_correction() takes the mean of several images' tables, in which each image counts the same.
    """
    step = max(1, round((pred.size / FITTED_PIXELS) ** 0.5))
    features = np.stack([feature[::step, ::step].ravel() for feature in correction_features(pred, rgb, alpha).values()])
    missing = (true - pred)[::step, ::step].ravel()
    return features.astype(np.float64) @ np.vstack([features, missing]).T / missing.size


def fit_correction(table: np.ndarray) -> Setting:
    """Ridge regression of what pred lacks: with little evidence the weights stay near 0, which changes nothing."""
    weights = np.linalg.solve(table[:, :-1] + RIDGE * np.eye(len(table)), table[:, -1])
    dot = np.zeros((1, 1), np.float32)
    names = correction_features(dot, np.zeros((1, 1, 3), np.uint8), dot)
    return Setting("correction", dict(zip(names, weights.round(4).tolist(), strict=True)))
