"""Several predictors as one: the mean of their alphas, in float, each with its share.

    predict = ensemble([load_predictor(a), load_predictor(b)], [0.7, 0.3])

Networks of other variants, sizes and model.predicts mix: alphas are averaged at the image's own size. The dense alpha
is composed once, from the mean alpha of those that predict alphas; those that predict dense alphas are averaged as
such; where both kinds are there, the answer is the mean of the two.
"""
import math
from collections.abc import Iterable, Sequence

import numpy as np

from augment import xray_alpha_dense
from inference.prediction import Prediction, Raw
from inference.squares import to_square

EPSILON = 1e-9  # of the largest share; what is below changes no alpha


def ensemble(predictors: Sequence, shares: Sequence[float] | None = None):
    """Their weighted mean, as a predictor. shares: non-negative, divided by their sum; None: all the same.

    A predictor with share 0, or nearly, is left out; one alone is returned as it is. Ensembles are taken apart.
    """
    shares = [1.0] * len(predictors) if shares is None else [share / max(shares) for share in shares]
    total = math.fsum(shares)
    members = [(single, share / total * own) for predict, share in zip(predictors, shares, strict=True)
               if share > EPSILON for single, own in predict.members]
    return members[0][0] if len(members) == 1 else Ensemble(members)


class Ensemble:
    """The interface of a Predictor. members: (Predictor, share), shares with sum 1.

    Alphas of the same way (size, tiles, density) are summed before they are resized, so that memory and time beside the
    networks grow with the ways, not with the networks.
    """

    def __init__(self, members: Sequence[tuple]):
        self.members = tuple(members)
        self.ways = {}  # way -> (one of its predictors, the share of all of them)
        for predict, share in members:
            first, known = self.ways.get(predict.way, (predict, 0.0))
            self.ways[predict.way] = first, known + share
        self.density = next((predict.density for predict, _ in members if predict.density), None)
        self.batch_size = max(predict.batch_size for predict, _ in members)
        self.description = describe(members)

    @property
    def seconds(self) -> float:
        """Spent in the networks."""
        return math.fsum(predict.seconds for predict, _ in self.members)

    def __call__(self, rgb_batch: list[np.ndarray]) -> list[np.ndarray]:
        return [prediction.dense for prediction in self.predictions(rgb_batch)]

    def predictions(self, rgb_batch: list[np.ndarray]) -> list[Prediction]:
        raws = self.run(rgb_batch, [self.prepare(rgb) for rgb in rgb_batch])
        return [self.finish(rgb, raw) for rgb, raw in zip(rgb_batch, raws, strict=True)]

    def prepare(self, rgb: np.ndarray) -> dict[int, np.ndarray]:
        """The image's square of each size."""
        return {size: to_square(rgb, size) for size in dict.fromkeys(predict.size for predict, _ in self.members)}

    def run(self, rgbs: list[np.ndarray], squares: list[dict[int, np.ndarray]]) -> list[dict[tuple, Raw]]:
        """-> for each image the mean output of each way."""
        means = [{} for _ in rgbs]
        for predict, share in self.members:
            part = np.float32(share / self.ways[predict.way][1])
            raws = predict.run(rgbs, [sizes[predict.size] for sizes in squares])
            for mean, raw in zip(means, raws, strict=True):
                mean[predict.way] = added(mean.get(predict.way), part, raw)
        return means

    def finish(self, rgb: np.ndarray, raws: dict[tuple, Raw]) -> Prediction:
        composing = [way for way in raws if self.ways[way][0].density]
        direct = [way for way in raws if way not in composing]
        if not composing:
            dense = self.mean(rgb, raws, direct)
            return Prediction(dense, dense)
        alpha = self.mean(rgb, raws, composing)
        dense = xray_alpha_dense(rgb, alpha, self.density)
        if direct:
            share = np.float32(self.share(composing) / self.share(self.ways))
            dense = share * dense + (1 - share) * self.mean(rgb, raws, direct)
        return Prediction(alpha, dense)

    def share(self, ways: Iterable[tuple]) -> float:
        return math.fsum(self.ways[way][1] for way in ways)

    def mean(self, rgb: np.ndarray, raws: dict[tuple, Raw], ways: Sequence[tuple]) -> np.ndarray:
        """(H,W): the mean matte of these ways."""
        total = self.share(ways)
        mattes = (np.float32(self.ways[way][1] / total) * self.ways[way][0].matte(rgb, raws[way]) for way in ways)
        return np.clip(sum(mattes), 0, 1)


def added(total: Raw | None, part: np.float32, raw: Raw) -> Raw:
    """total + part·raw"""
    scaled = [None if each is None else part * each for each in raw]
    return Raw(*scaled) if total is None else Raw(*(
        None if each is None else before + each for before, each in zip(total, scaled, strict=True)))


def describe(members: Sequence[tuple]) -> str:
    """In one line: how many outputs are averaged, with which shares if these differ, and all that makes them."""
    shares = [f"{share:.3g}" for _, share in members]
    weighted = f" with shares {', '.join(shares)}" if len(set(shares)) > 1 else ""
    networks, sizes, manners = (" | ".join(dict.fromkeys(each)) for each in zip(*(
        (predict.network.description, f"{predict.size} px", predict.manner) for predict, _ in members), strict=True))
    return f"mean of {len(members)} outputs{weighted}: {networks}, {sizes}, {manners}"
