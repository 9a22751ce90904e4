import numpy as np
import pytest
import torch
from scipy import ndimage

from conftest import scene
from core.config import DEFAULTS, load_config
from losses import matting_loss

WEIGHTS = load_config(DEFAULTS).loss


def sobel(alpha):
    gx, gy = (ndimage.sobel(alpha, axis=axis, mode="nearest") for axis in (1, 0))
    return np.hypot(gx, gy) / 4


def naive_terms(logits, target):
    """Each term computed per image and output, in float64."""
    terms = {name: [] for name in ("base", "object", "thin", "edge", "background")}
    for output in logits:
        for pred, true in zip(1 / (1 + np.exp(-output[:, 0])), target[:, 0], strict=True):
            error, inside = (pred - true) ** 2, true > 0.1
            eroded = ndimage.minimum_filter(inside.astype(float), 31, mode="nearest") > 0
            thin, outside = inside & ~eroded, true <= 0.05
            leak = pred**2 + 2 * np.maximum(pred - 0.02, 0) ** 2
            terms["base"].append(error.mean())
            terms["object"].append(((1 + 2 * sobel(true)) * error)[inside].mean() if inside.any() else 0)
            terms["thin"].append(error[thin].mean() if thin.any() else 0)
            terms["edge"].append(np.abs(sobel(pred) - sobel(true)).mean())
            terms["background"].append(leak[outside].mean() if outside.any() else 0)
    return {name: np.mean(values) for name, values in terms.items()}


def batch(dtype=torch.float64, size=48):
    alphas = [scene(size, seed)[1] for seed in range(2)] + [np.zeros((size, size)), np.ones((size, size))]
    alphas[1] = np.where(np.arange(size) % 20 < 4, alphas[1], 0)  # thin bars
    target = torch.from_numpy(np.stack(alphas)[:, None]).to(dtype)
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(target.shape, dtype=dtype, generator=generator) * 2 for _ in range(7)), target


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-6), (torch.float32, 1e-4)])
def test_terms_equal_a_naive_computation(dtype, tolerance):
    logits, target = batch(dtype)
    terms = matting_loss(logits, target, WEIGHTS)
    naive = naive_terms([output.double().numpy() for output in logits], target.double().numpy())
    for name, value in naive.items():
        assert terms[name].item() == pytest.approx(value, rel=tolerance), name
    expected = sum(getattr(WEIGHTS, name) * value for name, value in naive.items())
    assert terms["total"].item() == pytest.approx(expected, rel=tolerance)
    fused = 1 / (1 + np.exp(-logits[0].double().numpy()))
    assert terms["mse"].item() == pytest.approx(np.mean((fused - target.double().numpy()) ** 2), rel=tolerance)


def test_side_outputs_count_as_much_as_their_weight_says():
    logits, target = batch()
    alone = [matting_loss((output,) * 7, target, WEIGHTS)["total"].item() for output in logits]
    for sides in (0.0, 0.5):
        weighted = matting_loss(logits, target, WEIGHTS.model_copy(update={"sides": sides}))["total"].item()
        assert weighted == pytest.approx(np.average(alone, weights=[1] + [sides] * 6), rel=1e-9)


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("logit", [-200.0, 0.0, 200.0])
def test_gradients_are_finite_at_the_ends(value, logit):
    logits = tuple(torch.full((1, 1, 40, 40), logit, requires_grad=True) for _ in range(7))
    terms = matting_loss(logits, torch.full((1, 1, 40, 40), value), WEIGHTS)
    terms["total"].backward()
    assert terms["total"].isfinite() and all(output.grad.isfinite().all() for output in logits)


def test_a_perfect_prediction_of_a_soft_alpha_costs_only_its_faint_background():
    target = torch.from_numpy(scene(64)[1])[None, None].double().clamp(0.06, 0.94)
    terms = matting_loss((torch.logit(target),) * 7, target, WEIGHTS)
    assert terms["total"].item() == pytest.approx(0, abs=1e-9)


def test_half_precision_logits_are_judged_in_float32():
    logits, target = batch(torch.float32)
    terms = matting_loss(tuple(output.bfloat16() for output in logits), target, WEIGHTS)
    assert {value.dtype for value in terms.values()} == {torch.float32}


def test_the_loss_of_a_batch_is_the_mean_of_its_images():
    logits, target = batch()
    whole = matting_loss(logits, target, WEIGHTS)["total"]
    single = [matting_loss(tuple(output[i:i + 1] for output in logits), target[i:i + 1], WEIGHTS)["total"]
              for i in range(len(target))]
    assert whole.item() == pytest.approx(torch.stack(single).mean().item(), rel=1e-9)
