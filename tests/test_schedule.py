import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.config import DEFAULTS, load_config
from training.schedule import learning_rate


def train(**values):
    defaults = {"lr": 1e-3, "warmup": 0.0, "schedule": "plateau", "min_lr": 1e-5}
    return load_config(DEFAULTS).train.model_copy(update={**defaults, **values})


def test_plateau_waits_for_its_patience_then_falls_to_the_minimum():
    cfg = train(plateau_patience=1, plateau_factor=0.1)
    values = [0.5, 0.4, 0.41, 0.42, 0.43, 0.44, 0.45, 0.46, 0.3]
    rates = [learning_rate(cfg, 0, 1, values[:n]) for n in range(len(values) + 1)]
    assert rates == pytest.approx([1e-3] * 4 + [1e-4] * 2 + [1e-5] * 4)


def test_cosine_starts_at_lr_and_ends_at_min_lr():
    cfg = train(schedule="cosine")
    assert learning_rate(cfg, 0, 100, []) == pytest.approx(1e-3)
    assert learning_rate(cfg, 50, 100, []) == pytest.approx((1e-3 + 1e-5) / 2)
    assert learning_rate(cfg, 100, 100, []) == pytest.approx(1e-5)


def test_warm_up_rises_linearly():
    cfg = train(warmup=0.04)
    assert [learning_rate(cfg, step, 100, []) for step in range(5)] == pytest.approx(
        [2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3])


def by_torch(cfg, values):
    """The learning rate before each epoch and after the last, by torch's own class."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], cfg.lr)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=cfg.plateau_factor, patience=cfg.plateau_patience, min_lr=cfg.min_lr)
    rates = [cfg.lr]
    for value in values:
        plateau.step(value)
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


@given(values=st.lists(st.one_of(st.floats(1e-6, 1), st.floats(0.99, 1).map(lambda ratio: ratio * 0.1)), max_size=40),
       patience=st.integers(0, 3), factor=st.floats(0.05, 0.95), min_lr=st.floats(0, 1e-4))
def test_plateau_is_torchs(values, patience, factor, min_lr):
    cfg = train(plateau_patience=patience, plateau_factor=factor, min_lr=min_lr)
    assert [learning_rate(cfg, 0, 1, values[:n]) for n in range(len(values) + 1)] == by_torch(cfg, values)


def test_gains_that_add_up_count():
    values = [0.1 * (1 - 8e-5) ** n for n in range(20)]  # each is too small, every second one is not
    assert learning_rate(train(), 0, 1, values) == by_torch(train(), values)[-1] == 1e-3


def test_what_was_best_says_nothing_once_something_else_is_measured():
    values = [0.1, 0.05, 0.3, 0.31, 0.2, 0.21]
    assert learning_rate(train(plateau_patience=1), 0, 1, values) == pytest.approx(1e-5)
    assert learning_rate(train(plateau_patience=1), 0, 1, values, anew=[2]) == pytest.approx(1e-3)
