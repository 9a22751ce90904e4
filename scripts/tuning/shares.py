"""The shares of an ensemble's members that minimise its error: non-negative, sum 1."""
from collections.abc import Sequence

import numpy as np
from scipy.optimize import nnls

from inference.prediction import Prediction
from training import metrics
from tuning.measuring import in_threads, truths
from tuning.nested import Division
from tuning.recordings import Recordings
from tuning.ways import Base, Way, prediction

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
        self.division, self._recordings, self._way, self._metric = division, recordings, way, metric
        self._outputs = {view: recordings.outputs(view) for view in way.views}
        images = range(len(division.parts))
        self.members = len(recordings.pictures.members)
        self.equal = (1 / self.members,) * self.members
        alone = [tuple(row) for row in np.eye(self.members)]
        self.grams = np.stack(in_threads(lambda image: self._gram(image, alone), len(images), "shares"))  # (images,M,M)
        self.shares = {without: fit_shares(self.grams[division.outside(without)].mean(0))
                       for without in division.left_out}
        self._errors = in_threads(self._measured, len(images), "measuring")
        self._outputs = {}

    def _prediction(self, image: int, shares: tuple[float, ...]) -> Prediction:
        return prediction(self._recordings, Base(self._way, shares), self._outputs, image)

    def _gram(self, image: int, alone: Sequence[tuple[float, ...]]) -> np.ndarray:
        true = truths(self._recordings.pictures.samples[image], self._metric)[0]
        return gram_matrix([self._prediction(image, shares).dense - true for shares in alone])

    def _measured(self, image: int) -> dict[frozenset[int] | None, float]:
        """The picture's error with equal shares, at None, and with those of each fit that did without its part."""
        true, part = truths(self._recordings.pictures.samples[image], self._metric)[0], self.division.parts[image]
        tried = {None: self.equal, **{without: found for without, found in self.shares.items() if part in without}}
        return {key: metrics.mse(self._prediction(image, shares).dense, true) for key, shares in tried.items()}

    def changes(self, name: str, without: frozenset[int], part: int) -> np.ndarray:
        here = np.flatnonzero(self.division.parts == part)
        return np.array([self._errors[image][without] - self._errors[image][None] for image in here])
