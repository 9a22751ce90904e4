"""The shares of an ensemble's members that minimise its error: non-negative, sum 1."""
from collections.abc import Sequence

import numpy as np
from scipy.optimize import nnls

from training import metrics
from tuning.measuring import in_threads, truths
from tuning.nested import Division
from tuning.recordings import Recordings
from tuning.ways import Outputs, Way

RIDGE = 1e-9  # of the mean squared error: members that are the same get the same share


def fit_shares(gram: np.ndarray) -> tuple[float, ...]:
    """gram (M,M): means over pixels of the products of the members' errors -> shares w that minimise w·gram·w.

    With shares of sum 1 that is the squared error of the mean. Up to a factor they solve a non-negative least squares
    problem. Never worse than equal shares on what it was computed from.
    """
    count = len(gram)
    scale = np.trace(gram) / count
    if scale <= 0:  # all are perfect
        return (1 / count,) * count
    root = np.linalg.cholesky(gram / scale + RIDGE * np.eye(count))
    solution, _ = nnls(root.T, np.linalg.solve(root, np.ones(count)))
    return tuple((solution / solution.sum()).tolist())


def gram_matrix(errors: Sequence[np.ndarray]) -> np.ndarray:
    """errors: (H,W) of each member, pred minus true -> (M,M)."""
    flat = np.stack([error.ravel() for error in errors]).astype(np.float64)
    return flat @ flat.T / flat.shape[1]


class Shares:
    """Fitted shares instead of the equal ones, at one way to see the pictures: the one of nested.Candidates.

    Fitted on the members' dense answers, measured on what the ensemble makes of its networks' alphas.
    """
    FITTED = "fitted shares"
    names = (FITTED,)

    def __init__(self, recordings: Recordings, way: Way, metric: str, division: Division):
        self.division = division
        samples, outputs, images = recordings.pictures.samples, Outputs(recordings, way), len(division.parts)
        alone = np.eye(len(recordings.pictures.members))  # each member's share is 1 once
        equal = np.full(len(alone), 1 / len(alone))

        def gram(image: int) -> np.ndarray:
            sample = samples[image]
            true = truths(sample, metric)[0]
            return gram_matrix([outputs.prediction(image, sample[0], shares).dense - true for shares in alone])

        def measure(image: int) -> dict[frozenset[int] | None, float]:
            """The error with equal shares, at None, and with those of each fit that did without the picture's part."""
            sample, part = samples[image], division.parts[image]
            tried = {None: equal} | {without: shares for without, shares in self.shares.items() if part in without}
            return {key: metrics.mse(outputs.prediction(image, sample[0], shares).dense, truths(sample, metric)[0])
                    for key, shares in tried.items()}

        self.grams = np.stack(in_threads(gram, images, "shares"))  # (images, members, members)
        self.shares = {without: fit_shares(self.grams[division.outside(without)].mean(0))
                       for without in division.left_out}
        self._errors = in_threads(measure, images, "measuring")

    def changes(self, name: str, without: frozenset[int], part: int) -> np.ndarray:
        here = np.flatnonzero(self.division.parts == part)
        return np.array([self._errors[image][without] - self._errors[image][None] for image in here])
