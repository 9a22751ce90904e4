import json

import cv2
import numpy as np
import pytest

from conftest import scene
from training import metrics

ALL = [metrics.mse, metrics.sad, metrics.grad, metrics.conn]


@pytest.mark.parametrize("metric", ALL)
@pytest.mark.parametrize("true", [scene(48)[1], scene(48)[1] * 0.6, np.zeros((16, 16)), np.ones((16, 16))],
                         ids=["soft", "peak .6", "empty", "full"])
def test_a_perfect_matte_scores_zero(metric, true):
    assert metric(true, true) == 0


def test_analytic_values():
    true, pred = np.zeros((100, 100)), np.full((100, 100), 0.5)
    assert metrics.mse(pred, true) == 0.25
    assert metrics.sad(pred, true) == 5
    # Flat mattes have no gradient, and an empty truth shares no component with anything.
    assert metrics.grad(pred, true) == 0
    assert metrics.conn(pred, true) == pytest.approx(5)


def test_conn_counts_a_detached_island_and_grad_does_not_mind_a_scale():
    true = np.zeros((64, 64))
    true[10:50, 10:30] = 1
    island = true.copy()
    island[10:20, 50:60] = 1
    assert metrics.conn(island, true) == pytest.approx(0.1)
    assert metrics.grad(true * 0.5, true) == pytest.approx(0, abs=1e-12)


def test_values_agree_with_an_independent_implementation(shared):
    for golden in json.loads((shared / "golden/metrics/metrics.json").read_text()):
        pred, true = (cv2.imread(str(shared / f"golden/metrics/{golden['name']}_{kind}.png"), 0) / 255
                      for kind in ("pred", "true"))
        for metric in ALL:
            name = metric.__name__
            assert metric(pred, true) == pytest.approx(golden[name], rel=1e-6), (golden["name"], name)
