"""What to choose, and what that is worth on images that had no part in the choice.

Images are divided into parts. choose() fits each candidate on all parts but one, measures it on that one, for each part
in turn, and takes the best of those whose interval is below zero. decide() lets all other parts choose in this way for
each part, and measures their choice there: this figure holds neither the luck of the fit nor that of the choice.
"""
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from core.seeds import Purpose, generator
from imaging.pairs import Pair, fold_of
from reporting.intervals import intervals

PARTS = 5        # of images that are not in folds
MOST_PARTS = 10  # of images in folds: beyond that some folds share a part
FEWEST_GROUPS, FEWEST_PARTS = 4, 3


class Division(NamedTuple):
    """(images,) int each: the part that an image is in, and its group. A group is in one part."""
    parts: np.ndarray
    groups: np.ndarray

    @property
    def enough(self) -> bool:
        return len(np.unique(self.groups)) >= FEWEST_GROUPS and len(self.names) >= FEWEST_PARTS

    @property
    def names(self) -> list[int]:
        """The parts."""
        return np.unique(self.parts).tolist()

    @property
    def left_out(self) -> list[frozenset[int]]:
        """What fits do without: no part, each part, each two. The second is left out to judge, the first to choose."""
        return [frozenset(each) for count in range(3) for each in itertools.combinations(self.names, count)]

    def outside(self, without: frozenset[int]) -> np.ndarray:
        """(images,) bool: whether it is in none of these parts."""
        return ~np.isin(self.parts, list(without))


def divide(pairs: Sequence[Pair], folds: int | None, seed: int) -> Division:
    """The folds are the parts (halves of them if there are only two); without folds the groups are dealt at random."""
    names, groups = np.unique([pair.fold_key for pair in pairs], return_inverse=True)
    if folds:
        return Division(np.array([fold_of(pair, max(folds, 4 if folds == 2 else 0)) % MOST_PARTS for pair in pairs]),
                        groups)
    order = generator(seed, Purpose.TUNING, 0).permutation(len(names))
    return Division(order[groups] % PARTS, groups)


class Change(NamedTuple):
    """The mean change of the MSE over images, after minus before (negative is better), and its 95 % interval."""
    mean: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        if self.low == self.high == 0:
            return "no effect"
        return "helps" if self.high < 0 else "hurts" if self.low > 0 else "no evidence"

    def __str__(self) -> str:
        return f"{self.mean:+.5f} ({self.low:+.5f} … {self.high:+.5f})"


def mean_changes(changes: np.ndarray, groups: np.ndarray, seed: int) -> list[Change]:
    """changes (candidates, images) -> each candidate's; the bootstrap draws groups, as their images are alike."""
    _, index = np.unique(groups, return_inverse=True)
    mean, sizes = changes.mean(1, keepdims=True), np.bincount(index)
    sums = np.stack([np.bincount(index, row) for row in changes])
    # one value per group, with the same mean as the images: the linearised mean of groups of different sizes
    values = mean + len(sizes) / changes.shape[1] * (sums - sizes * mean)
    return [Change(*map(float, each)) for each in zip(mean[:, 0], *intervals(values, seed), strict=True)]


class Candidates(Protocol):
    """What can be chosen instead of the present state, by name."""
    names: Sequence[str]
    division: Division

    def changes(self, name: str, without: frozenset[int], part: int) -> np.ndarray:
        """The change of the MSE of each image of the part, by the candidate fitted on images outside the parts
        `without`, of which `part` is one."""


def cross_fitted(candidates: Candidates, without: frozenset[int] = frozenset()) -> np.ndarray:
    """(candidates, images outside the parts `without`): changes, each image's by a fit without its part and these."""
    parts = candidates.division.parts
    changes = np.zeros((len(candidates.names), len(parts)))
    for part in set(parts.tolist()) - without:
        changes[:, parts == part] = [candidates.changes(name, without | {part}, part) for name in candidates.names]
    return changes[:, candidates.division.outside(without)]


def choose(candidates: Candidates, seed: int, without: frozenset[int] = frozenset()) -> str | None:
    """The best of those whose interval is below zero on the images outside the parts `without`; None: there is none."""
    groups = candidates.division.groups[candidates.division.outside(without)]
    found = mean_changes(cross_fitted(candidates, without), groups, seed)
    accepted = {name: change.mean for name, change in zip(candidates.names, found, strict=True) if change.high < 0}
    return min(accepted, key=accepted.get, default=None)


@dataclass(frozen=True)
class Decision:
    """A choice, and what choosing so is worth."""
    chosen: str | None                # by all images; None: the present state
    by_part: dict[int, str | None]    # what all other parts choose
    changes: np.ndarray               # (images,), by what all other parts choose
    change: Change                    # of the mean of these

    @property
    def accepted(self) -> bool:
        return self.chosen is not None and self.change.high < 0


def decide(everywhere: Candidates, by_part: Mapping[int, Candidates], seed: int) -> Decision:
    """everywhere: the candidates for all images; by_part: as the other parts' earlier choices leave them.

    These are the same unless an earlier choice, for example of the size, is another without some part.
    """
    division = everywhere.division
    changes, chosen = np.zeros(len(division.parts)), {}
    for part in division.names:
        candidates, without = by_part[part], frozenset({part})
        name = chosen[part] = choose(candidates, seed, without)
        if name is not None:
            changes[division.parts == part] = candidates.changes(name, without, part)
    return Decision(choose(everywhere, seed), chosen, changes, mean_changes(changes[None], division.groups, seed)[0])
