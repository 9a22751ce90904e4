"""How far a mean over images can be trusted."""
from statistics import NormalDist

import numpy as np
from scipy.special import stdtrit
from scipy.stats import bootstrap

from core.seeds import Purpose, generator

RESAMPLES, BATCH, CONFIDENCE = 10_000, 1000, 0.95


def intervals(changes: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """changes (candidates, images) -> low, high: the 95 % intervals of their means, by a bootstrap over images.

    Percentile intervals of few images are too narrow. So their distances from the mean are widened by the ratio of
    Student's t to the normal distribution (after Hesterberg, The American Statistician, 2015).
    """
    count, upper = changes.shape[1], (1 + CONFIDENCE) / 2
    found = bootstrap((changes,), np.mean, axis=1, n_resamples=RESAMPLES, batch=BATCH, confidence_level=CONFIDENCE,
                      method="percentile", rng=generator(seed, Purpose.TUNING, 1)).confidence_interval
    widening = stdtrit(count - 1, upper) / NormalDist().inv_cdf(upper) * np.sqrt(count / (count - 1))
    mean = changes.mean(1)
    return mean + widening * (found.low - mean), mean + widening * (found.high - mean)
