import pytest

from config import DEFAULTS, load_config
from schedule import learning_rate


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
