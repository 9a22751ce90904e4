"""The learning rate as a pure function of where training stands, so that a resumed run has nothing to restore."""
import math
from collections.abc import Sequence

from schema import Train

IMPROVEMENT = 1e-4  # relative; less than this counts as none


def learning_rate(cfg: Train, step: int, steps: int, values: Sequence[float]) -> float:
    """For `step` (from 0) of `steps`; `values`: the validation metric of the epochs so far, lower is better."""
    rising = round(cfg.warmup * steps)
    warm = min(1.0, (step + 1) / rising) if rising else 1.0
    return warm * (_cosine(cfg, step / steps) if cfg.schedule == "cosine" else _plateau(cfg, values))


def _cosine(cfg: Train, done: float) -> float:
    return cfg.min_lr + (cfg.lr - cfg.min_lr) * (1 + math.cos(math.pi * min(1.0, done))) / 2


def _plateau(cfg: Train, values: Sequence[float]) -> float:
    """Multiplied by plateau_factor after more than plateau_patience epochs in a row without improvement."""
    lr, best, stalled = cfg.lr, math.inf, 0
    for value in values:
        stalled = 0 if value < best * (1 - IMPROVEMENT) else stalled + 1
        best = min(best, value)
        if stalled > cfg.plateau_patience:
            lr, stalled = max(lr * cfg.plateau_factor, cfg.min_lr), 0
    return lr
