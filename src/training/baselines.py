"""What the official network reaches without any training: a run that does not beat it is not worth its time.

Two baselines of val_mse_dense: `official_line`, the official alpha through the line a·alpha + b that fits this set
best, and `official_composed`, the dense alpha composed from picture and official alpha.
"""
import contextlib
import math
from pathlib import Path

import numpy as np
from tqdm import tqdm

from core import checkpoint
from core.config import OFFICIAL_SIZE, Config, official_weights, select_metric, with_infer
from core.distributed import World
from core.errors import UserError
from dataset import ValidationSet
from inference.predictor import Predictor, load_predictor
from training import metrics
from training.validation import keep_levels, kept_levels, pairs_identity, sha256

NAMES = ("official_line", "official_composed")


def official_levels(val_set: ValidationSet, cfg: Config, cache: Path, world: World) -> dict[str, float]:
    """By NAMES, kept in the file `cache`; empty without official weights or where dense alphas are not wanted."""
    weights = official_weights(cfg.model.variant)
    with contextlib.suppress(UserError):
        if select_metric(cfg) == "val_mse_dense" and world.from_main(weights.exists()):
            identity = sha256((pairs_identity(val_set.pairs), cfg.seed, cfg.data.size, cfg.augment.xray,
                               cfg.infer.flips, checkpoint.identity(weights)))
            known = world.from_main(kept_levels(cache, identity) if world.main else None)
            if not known:
                known = measure(val_set, load_predictor(official(cfg, weights)), world)
                keep_levels(cache, identity, known, world)
            return known
    return {}


def official(cfg: Config, weights: Path) -> Config:
    cfg = with_infer(cfg, weights=weights, shares=None, size=OFFICIAL_SIZE, tta=cfg.infer.flips)
    return cfg.model_copy(update={"model": cfg.model.model_copy(update={"predicts": "alpha"})})


def measure(val_set: ValidationSet, predict: Predictor, world: World) -> dict[str, float]:
    def moments(index: int) -> tuple[float, ...]:
        """Of the picture's alpha p and target t: means of p, p², pt, t and t²; MSE of the composed dense alpha."""
        rgb, _, target = val_set[index]
        (alpha, dense), = predict.predictions([rgb])
        products = (alpha, alpha**2, alpha * target, target, target**2)
        return *(float(np.mean(each, dtype=np.float64)) for each in products), metrics.mse(dense, target)

    mine = world.deal(range(len(val_set)))
    rows = world.merge({index: moments(index) for index in
                        tqdm(mine, "baselines without training", disable=None, leave=False)})
    *means, composed = np.mean(list(rows.values()), axis=0).tolist()
    return dict(zip(NAMES, (error_of_line(*means), composed), strict=True))


def error_of_line(p: float, pp: float, pt: float, t: float, tt: float) -> float:
    """The least mean of (a·p + b − t)² over a and b, from the means of p, p², pt, t and t²."""
    variance, covariance = pp - p * p, pt - p * t
    return tt - t * t - (covariance**2 / variance if variance > 1e-12 else 0.0)


def in_words(levels: dict[str, float]) -> str:
    """For a line on stdout; empty if unknown."""
    if not levels:
        return ""
    return (f"; without training: official network with a fitted line {levels['official_line']:.4f}, dense alpha "
            f"composed from the official alpha {levels['official_composed']:.4f}")


def verdict(value: float, levels: dict[str, float]) -> str:
    """What to say of a val_mse_dense that the official network reaches without training; empty if it is better."""
    best = min(levels.values(), default=math.nan)
    if not value >= best:  # also where it is unknown
        return ""
    return (f"val_mse_dense {value:.4f} does not beat the official weights without any training ({best:.4f}): predict "
            "with infer.weights=official, or train longer or on more pairs")
