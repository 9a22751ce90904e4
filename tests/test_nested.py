"""The choice among candidates is honest: luck is not accepted, an effect is, and its gain is measured elsewhere."""
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imaging.pairs import Pair, fold_of
from reporting.intervals import intervals
from tuning.nested import Division, choose, decide, divide, mean_changes

IMAGES = 30
DIVISION = Division(np.arange(IMAGES) % 5, np.arange(IMAGES))


class Known:
    """Candidates whose changes are given, whatever they are fitted on: (candidates, images)."""

    def __init__(self, table: np.ndarray):
        self.table, self.names, self.division = table, [str(number) for number in range(len(table))], DIVISION

    def changes(self, name, without, part):
        assert part in without
        return self.table[int(name), DIVISION.parts == part]


def decided(table: np.ndarray, seed: int = 0):
    known = Known(table)
    return decide(known, dict.fromkeys(DIVISION.names, known), seed)


def test_of_pure_noise_nothing_is_accepted_and_the_figure_is_not_flattered():
    noise = [np.random.default_rng(seed).standard_normal((12, IMAGES)) for seed in range(40)]
    found = [decided(table) for table in noise]
    lucky = [table.mean(1).min() for table in noise]
    assert sum(decision.accepted for decision in found) <= 3
    assert np.mean(lucky) < -0.2 and abs(np.mean([decision.change.mean for decision in found])) < 0.05


def test_an_effect_is_found_among_noise_and_its_gain_is_right():
    table = np.random.default_rng(1).standard_normal((12, IMAGES))
    table[7] -= 1.5
    found = decided(table)
    assert found.accepted and found.chosen == "7" and set(found.by_part.values()) == {"7"}
    assert found.change.low < table[7].mean() < found.change.high < 0
    np.testing.assert_array_equal(found.changes, table[7])


def test_each_part_is_judged_by_what_the_others_choose():
    """Candidate k helps all parts but k, where it does great harm."""
    parts = DIVISION.parts
    table = np.where(parts == np.arange(5)[:, None], 9.0, -1.0) + 0.1 * np.random.default_rng(0).random((5, IMAGES))
    found = decided(table)
    assert all(chosen == str(part) for part, chosen in found.by_part.items())
    assert found.change.mean > 8 and not found.accepted
    assert choose(Known(table), 0, frozenset({3})) == "3"


@given(st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=40), st.sampled_from([None, 2, 3, 5, 30]),
       st.integers(0, 5))
def test_a_group_is_never_in_two_parts(groups, folds, seed):
    pairs = [Pair(Path(f"{number}.png"), Path("a.png"), "", group=group) for number, group in enumerate(groups)]
    division, found = divide(pairs, folds, seed), defaultdict(set)
    for pair, part, group in zip(pairs, division.parts, division.groups, strict=True):
        found[pair.group].add((int(part), int(group)))
    assert all(len(each) == 1 for each in found.values())
    if folds and 2 < folds <= 10:
        assert division.parts.tolist() == [fold_of(pair, folds) for pair in pairs]
    if not folds and len(found) >= 5:
        assert division.names == [0, 1, 2, 3, 4]


def test_little_evidence_is_recognised():
    pairs = [Pair(Path(f"{number}.png"), Path("a.png"), "") for number in range(4)]
    assert divide(pairs, None, 0).enough and not divide(pairs[:3], None, 0).enough


def test_many_pictures_of_an_object_count_as_one():
    values = np.random.default_rng(0).standard_normal(10)
    alone, = mean_changes(values[None], np.arange(10), 0)
    tenfold, = mean_changes(np.repeat(values, 10)[None], np.repeat(np.arange(10), 10), 0)
    assert tenfold == pytest.approx(alone)
    uneven = np.repeat(np.arange(10), np.arange(1, 11))
    assert mean_changes(values[None, uneven], uneven, 0)[0].mean == pytest.approx(values[uneven].mean())


@pytest.mark.parametrize("count", [4, 10, 40])
def test_an_interval_misses_the_true_mean_about_as_often_as_it_says(count):
    changes = np.random.default_rng(0).standard_normal((1000, count))
    low, high = intervals(changes, 0)
    # It should be 5 %; the plain percentile bootstrap misses 20 % with 4 images.
    assert 0.02 < ((low > 0) | (high < 0)).mean() < 0.085
