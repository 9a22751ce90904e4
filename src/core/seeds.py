"""Random generators keyed by what they are for, so that results depend neither on workers nor on interruptions.

    rng = generator(cfg.seed, Purpose.TRAINING, epoch, index)
"""
from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """A number once given keeps its meaning: another one would change every result."""
    TRAINING = 0              # a sample's augmentation, by epoch and index
    VALIDATION = 1            # a validation target, by index
    SHUFFLE = 2               # an epoch's order
    SCENE = 3                 # a drawn scene, by index
    SYNTHETIC_TEST = 4        # the dense alphas of the drawn test set
    MAGICK_BACKGROUND = 5     # by page id; does not depend on the seed
    TUNING = 6                # halves and resamples of `make tune`
    FLOOR = 7                 # draws of the floor, by index and draw
    ABLATION = 8              # resamples of `make ablate`
    NOTEBOOK = 12             # the notebook's two dense targets of a pair


def generator(*key: int) -> np.random.Generator:
    """key: mostly seed, purpose, and what tells this draw from the purpose's others."""
    return np.random.default_rng([int(part) for part in key])
