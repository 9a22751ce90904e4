"""Sizes, then shares, then post-processing: each step starts from what the steps before it have chosen.

For each part of the images the steps start from what all other parts have chosen. So the sum of their changes is what
choosing everything in this way is worth.
"""
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from core.config import Config
from inference.prediction import Prediction
from inference.tuned import NOT_TUNED, Tuned
from tuning.candidates import PostProcessing
from tuning.measuring import in_threads
from tuning.nested import Candidates, Change, Decision, Division, decide, mean_changes
from tuning.recordings import Recordings
from tuning.shares import Shares
from tuning.ways import Base, Measured, Outputs, Way, Ways, measure_way

ALL = None  # in place of a part: all images


class Step(NamedTuple):
    """A decision, and the candidates that all images had."""
    candidates: Candidates
    decision: Decision


class Procedure:
    """The steps, in their order; each keeps what all images choose, and what all but each part choose."""

    def __init__(self, cfg: Config, recordings: Recordings, division: Division, metric: str):
        self.recordings, self.division, self.metric, self.seed = recordings, division, metric, cfg.seed
        count = len(recordings.pictures.members)
        given = np.array(cfg.infer.shares or (1,) * count, float)
        self.shares = tuple((given / given.sum()).tolist())
        self.bases, self.steps = {}, []

    def choose_way(self, ways: Sequence[Way]) -> tuple[list[Measured], Step]:
        """ways: the present one first."""
        measured = [measure_way(self.recordings, Base(way, self.shares), self.metric) for way in ways]
        candidates = Ways(measured, self.division)
        step = self._decided(dict.fromkeys([ALL, *self.division.names], candidates))
        self.bases = {part: Base(candidates.ways.get(name, ways[0]), self.shares)
                      for part, name in accepted(step.decision).items()}
        return measured, step

    def choose_shares(self) -> Step:
        """At the chosen ways."""
        fits = self._at_each_base(lambda base: Shares(self.recordings, base.way, self.metric, self.division))
        step = self._decided(fits)
        for part, name in accepted(step.decision).items():
            if name is not None:
                without = frozenset() if part is ALL else frozenset({part})
                self.bases[part] = Base(self.bases[part].way, fits[part].shares[without])
        return step

    def choose_postprocessing(self) -> Step:
        """For the predictions that the chosen ways and shares make."""
        samples = self.recordings.pictures.samples
        return self._decided(self._at_each_base(
            lambda base: PostProcessing(samples, predictions(self.recordings, base), self.metric, self.division)))

    def _at_each_base(self, candidates: Callable[[Base], Candidates]) -> dict[int | None, Candidates]:
        made = {base: candidates(base) for base in dict.fromkeys(self.bases.values())}
        return {part: made[base] for part, base in self.bases.items()}

    def _decided(self, candidates: Mapping[int | None, Candidates]) -> Step:
        step = Step(candidates[ALL], decide(candidates[ALL], candidates, self.seed))
        self.steps.append(step)
        return step

    def change(self) -> Change:
        """Of all accepted steps together, on images that had no say in them."""
        changes = sum((step.decision.changes for step in self.steps if step.decision.accepted),
                      np.zeros(len(self.division.parts)))
        return mean_changes(changes[None], self.division.groups, self.seed)[0]

    def tuned(self, present: Way) -> Tuned:
        """What all images choose."""
        way, shares = self.bases[ALL]
        step = self.steps[-1]
        name = accepted(step.decision)[ALL]
        tuned = NOT_TUNED._replace(setting=step.candidates.setting(name)) if name else NOT_TUNED
        if shares != self.shares:
            tuned = tuned._replace(shares=tuple(round(share, 4) for share in shares))
        return tuned if way == present else tuned._replace(**way.settings)


def accepted(decision: Decision) -> dict[int | None, str | None]:
    """What all images choose, at ALL, and what all but each part choose; None throughout if it is not accepted."""
    found = {ALL: decision.chosen, **decision.by_part}
    return found if decision.accepted else dict.fromkeys(found)


def predictions(recordings: Recordings, base: Base) -> list[Prediction]:
    """Two (H,W) float16 per image: 4 MB each at 1024²."""
    outputs = Outputs(recordings, base.way)

    def predict(image: int) -> Prediction:
        pred = outputs.prediction(image, recordings.rgb(image), base.shares)
        return Prediction(*(each.astype(np.float16) for each in pred))

    return in_threads(predict, len(recordings.pictures.samples), "predicting")
