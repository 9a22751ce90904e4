"""The learning rate as a pure function of training's progress, so that a resumed run has nothing to restore."""
import math
from collections.abc import Collection, Sequence

from core.schema import Train

# The defaults of torch's ReduceLROnPlateau:
IMPROVEMENT = 1e-4  # relative; a smaller one does not count
SMALLEST_DROP = 1e-8


def learning_rate(cfg: Train, step: float, steps: int, values: Sequence[float], anew: Collection[int] = ()) -> float:
    """For `step` (from 0) of `steps`; `values`: the validation metric of the epochs so far, lower is better.

    anew: indices in `values` at which the validation changed; earlier values are not comparable with later ones.
    """
    rising = round(cfg.warmup * steps)
    warm = min(1.0, (step + 1) / rising) if rising else 1.0
    return warm * (_cosine(cfg, step / steps) if cfg.schedule == "cosine" else _plateau(cfg, values, anew))


def _cosine(cfg: Train, done: float) -> float:
    return cfg.min_lr + (cfg.lr - cfg.min_lr) * (1 + math.cos(math.pi * min(1.0, done))) / 2


def _plateau(cfg: Train, values: Sequence[float], anew: Collection[int]) -> float:
    """Multiplied by plateau_factor after more than plateau_patience epochs in a row without improvement."""
    lr, best, stalled = cfg.lr, math.inf, 0
    for index, value in enumerate(values):
        if index in anew:
            best, stalled = math.inf, 0
        if value < best * (1 - IMPROVEMENT):
            best, stalled = value, 0
        else:
            stalled += 1
        if stalled > cfg.plateau_patience:
            lower = max(lr * cfg.plateau_factor, cfg.min_lr)
            lr, stalled = lower if lr - lower > SMALLEST_DROP else lr, 0
    return lr
