"""An ensemble's shares: non-negative, sum 1, and the best there are."""
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tuning.shares import fit_shares, gram_matrix

ERRORS = st.integers(1, 6).flatmap(lambda members: arrays(np.float64, (members, 8),
                                                          elements=st.floats(-1, 1, width=16)))


@given(ERRORS)
def test_shares_are_a_mean_that_is_never_worse_than_equal_shares(errors):
    gram = gram_matrix(list(errors))
    shares = np.array(fit_shares(gram))
    assert (shares >= 0).all() and shares.sum() == pytest.approx(1)
    assert shares @ gram @ shares <= gram.mean() + 1e-9


@given(ERRORS, st.integers(0, 1000))
def test_no_other_shares_are_better(errors, seed):
    gram = gram_matrix(list(errors))
    shares, others = np.array(fit_shares(gram)), np.random.default_rng(seed).dirichlet(np.ones(len(gram)) / 2, 100)
    assert shares @ gram @ shares <= np.einsum("ni,ij,nj->n", others, gram, others).min() + 1e-6


def test_a_planted_optimum_is_recovered():
    """Independent errors: the best shares are inverse to their variances; a member that adds nothing gets none."""
    rng = np.random.default_rng(0)
    errors = rng.standard_normal((3, 200_000)) * np.array([[1], [2], [4]]) ** 0.5
    assert fit_shares(gram_matrix(errors)) == pytest.approx((4 / 7, 2 / 7, 1 / 7), abs=0.01)
    worse = errors[0] * 3 + 0.1 * rng.standard_normal(200_000)
    assert fit_shares(gram_matrix([errors[0], worse]))[1] == 0


def test_equal_members_share_alike():
    assert fit_shares(np.ones((3, 3))) == pytest.approx((1 / 3,) * 3)
    assert fit_shares(np.zeros((2, 2))) == (0.5, 0.5)
