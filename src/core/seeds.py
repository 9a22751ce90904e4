"""Random generators keyed by purpose, so that results depend neither on workers nor on interruptions.

    rng = generator(cfg.seed, Purpose.TRAINING, epoch, index)
"""
from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """These numbers must not change: they are part of every random key, so results would change with them."""
    TRAINING = 0              # augmentation of a sample, by epoch and index
    VALIDATION = 1            # a validation target, by index
    SHUFFLE = 2               # an epoch's order
    SCENE = 3                 # a drawn scene, by index
    SYNTHETIC_TEST = 4        # the dense alphas of the drawn test set
    MAGICK_BACKGROUND = 5     # by page id; does not depend on the seed
    TUNING = 6                # splits of `make tune`; resamples of it and of `make compare`
    FLOOR = 7                 # draws of the floor, by index and draw
    ABLATION = 8              # resamples of `make ablate`
    PANORAMA_VIEW = 21        # a view of a panorama, by panorama and view
    NOTEBOOK = 12             # the notebook's two dense targets of a pair
    RGBA = 20                 # size, place and background of a cut-out, by its name and the number of the pair


def generator(*key: int) -> np.random.Generator:
    """key: usually seed, purpose, and the indices of this draw."""
    return np.random.default_rng([int(part) for part in key])
