"""Number formats: nearly constant channels survive bf16, and auto uses only a format that was measured."""

import copy

import numpy as np
import pytest
import torch

from conftest import ROOT, scene
from core import checkpoint
from core.config import DEFAULTS, EMBEDDED, load_config
from inference import formats
from inference.formats import difference, measured_format, measured_path
from inference.half import half_state
from inference.matte_net import MatteNet
from inference.recentring import recentrings
from u2net import U2Net, normalise

CPU = torch.device("cpu")


@pytest.fixture
def constant() -> U2Net:
    """The embedded network: like the official one it has two channels that are nearly constant."""
    model = U2Net().eval()
    checkpoint.load_weights(model, EMBEDDED)
    return model


def test_recentred_channels_change_nothing_in_fp32_and_much_in_bf16(constant, monkeypatch):
    square = scene(64)[0]
    rgb = torch.from_numpy(square)[None]
    with torch.inference_mode():
        exact = constant(normalise(rgb.permute(0, 3, 1, 2)))[0].sigmoid()[:, 0]
        assert len(recentrings(constant)) == 6 and exact.std() > 0.05
        torch.testing.assert_close(MatteNet(constant)(rgb), exact, atol=1e-4, rtol=0)
    recentred = difference(constant, [square], "bf16", CPU)
    monkeypatch.setattr("inference.recentring.DEVIATIONS", 1e9)
    assert recentred < difference(constant, [square], "bf16", CPU) / 3


def test_half_precision_keeps_the_constants_and_is_true_in_bf16(constant):
    squares = [scene(64, seed)[0] for seed in range(4)]
    with torch.no_grad():
        for parameter in constant.parameters():
            parameter *= 1 + 1e-3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    stored = copy.deepcopy(constant)
    half = half_state(stored)
    stored.load_state_dict(half)
    assert {value.dtype for value in half.values() if value.dim() == 4} == {torch.float16}
    assert difference(stored, squares, "bf16", CPU) < difference(constant, squares, "bf16", CPU)
    with torch.inference_mode():
        pixels = torch.from_numpy(np.stack(squares))
        assert (MatteNet(stored)(pixels) - MatteNet(constant)(pixels)).abs().mean() < 0.005


def test_ordinary_weights_are_left_alone():
    assert recentrings(U2Net()) == []


@pytest.fixture
def case(tmp_path):
    torch.manual_seed(0)
    weights = tmp_path / "mine.pth"
    checkpoint.save(weights, {"model_state": U2Net().state_dict()})
    cfg = load_config(DEFAULTS, [f"infer.weights={weights}", f"infer.images={tmp_path}"])
    model = U2Net()
    checkpoint.load_weights(model, weights)
    return cfg, model


def test_auto_measures_once_and_remembers(case, monkeypatch):
    cfg, model = case
    first = measured_format(cfg, model, 64, ["bf16"], CPU)
    assert first[0] == "bf16" and "measured: mean |Δalpha| 0.000" in first[1]
    monkeypatch.setattr(formats, "difference", lambda *_: pytest.fail("measured again"))
    assert measured_format(cfg, model, 64, ["bf16"], CPU) == first
    assert measured_format(cfg, model, 64, [], CPU) == ("fp32", "")
    explicit = cfg.model_copy(update={"infer": cfg.infer.model_copy(update={"precision": "bf16"})})
    assert measured_format(explicit, model, 64, ["bf16"], CPU) == first
    assert measured_format(explicit, model, 96, ["bf16"], CPU) == ("bf16", "")


def test_auto_takes_the_fastest_format_that_is_exact_enough(case, monkeypatch):
    cfg, model = case
    path = measured_path(cfg.infer.weights)

    def choose(**measured: float) -> tuple[str, str]:
        formats.remember(cfg.infer.weights, {f"{name} at 64 px": value for name, value in measured.items()})
        return measured_format(cfg, model, 64, list(measured), CPU)

    inexact = "bf16 mean |Δalpha| 0.0184, over 0.001"
    assert choose(bf16=0.0184, fp16=0.0002) == ("fp16", f" (measured: mean |Δalpha| 0.0002; {inexact})")
    assert choose(bf16=0.0184) == ("fp32", f" (measured: {inexact})")
    assert choose(fp16=float("inf")) == ("fp32", " (measured: fp16 mean |Δalpha| inf, over 0.001)")
    monkeypatch.setattr(formats, "PHOTOGRAPHS", ROOT / "not here")
    path.write_text("of another checkpoint")
    precision, note = measured_format(cfg, model, 64, ["bf16"], CPU)
    assert precision == "fp32" and "bf16 not measured: no images" in note


def test_a_format_that_overflows_is_never_used(monkeypatch):
    model = U2Net()
    with torch.no_grad():
        model.outconv.bias.fill_(np.nan)
    assert difference(model, [scene(32)[0]], "bf16", CPU) == float("inf")
