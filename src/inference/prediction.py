"""What a predictor makes of one image: first the network's output, then mattes of the image's own size."""
from typing import NamedTuple

import numpy as np


class Raw(NamedTuple):
    """The network's output for one image."""
    alpha: np.ndarray         # (S,S), of its square
    tiles: np.ndarray | None  # (H,W), if the image is large


class Prediction(NamedTuple):
    """For one image, (H,W) float32 in [0,1] each; the same array twice if the network predicts the answer directly."""
    alpha: np.ndarray  # of the object
    dense: np.ndarray  # the answer, which a submission holds
