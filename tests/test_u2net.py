import json
import zlib

import numpy as np
import pytest
import torch

from conftest import ROOT
from u2net import U2Net, normalise

GOLDEN = ROOT / "tests/golden"


def golden_fill(key: str, shape: list[int]) -> np.ndarray:
    """The weights behind the golden logits, strong enough to reveal a wrong dilation."""
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    if key.endswith("num_batches_tracked"):
        return np.array(0)
    if key.endswith("running_var") or (".bn_" in key and key.endswith("weight")):
        return rng.uniform(0.5, 1.5, shape)
    if len(shape) == 4:
        return rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
    return rng.normal(0, 0.1, shape)


@pytest.mark.parametrize("variant", ["u2netp", "u2net"])
def test_keys_and_logits_are_the_official_ones(variant):
    shapes = json.loads((GOLDEN / "u2net_state_dict.json").read_text())[variant]
    model = U2Net(variant).double().eval()
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == shapes
    assert list(model.state_dict()) == list(shapes)
    model.load_state_dict({key: torch.from_numpy(golden_fill(key, shape)) for key, shape in shapes.items()})
    golden = np.load(GOLDEN / f"{variant}_logits.npz")
    for height, width in ((64, 64), (97, 131)):
        x = torch.from_numpy(np.random.default_rng([height, width]).normal(0, 1, (1, 3, height, width)))
        with torch.no_grad():
            logits = np.stack([output[0, 0].numpy() for output in model(x)])
        true = golden[f"logits_{height}x{width}"]
        np.testing.assert_allclose(logits, true, rtol=0, atol=1e-9 * true.std())


@pytest.mark.parametrize("shape", [(32, 32), (33, 70)])
def test_any_size_from_32_up_gives_seven_logits_of_that_size(shape):
    with torch.no_grad():
        outputs = U2Net().eval()(torch.zeros(2, 3, *shape))
    assert [tuple(output.shape) for output in outputs] == [(2, 1, *shape)] * 7


def test_logits_stay_in_full_precision_under_autocast():
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert {output.dtype for output in U2Net().eval()(torch.zeros(1, 3, 32, 32))} == {torch.float32}


def test_checkpointing_changes_neither_gradients_nor_running_statistics():
    def step(checkpointing):
        """-> numbers stored for the backward pass, gradients and state after it"""
        torch.manual_seed(0)
        model = U2Net().train()
        model.checkpointing = checkpointing
        stored = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: stored.append(x.numel()) or x, lambda x: x):
            total = sum(output.square().mean() for output in model(torch.rand(2, 3, 64, 64)))
        total.backward()
        assert {norm.momentum for norm in model.modules() if isinstance(norm, torch.nn.BatchNorm2d)} == {0.1}
        return sum(stored), [weight.grad for weight in model.parameters()], model.state_dict()

    (plain, gradients, state), (less, same_gradients, same_state) = step(False), step(True)
    assert less < plain / 3
    assert all(torch.equal(a, b) for a, b in zip(gradients, same_gradients, strict=True))
    assert all(torch.equal(value, same_state[key]) for key, value in state.items())


def test_normalisation_is_imagenets():
    x = normalise(torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2).expand(1, 3, 1, 2))
    np.testing.assert_allclose(x[0, :, 0, 0], [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225], rtol=1e-6)
    np.testing.assert_allclose(x[0, :, 0, 1], [0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225], rtol=1e-6)


def test_the_network_stays_short():
    network, checkpointing = (ROOT / "src/u2net.py").read_text().split("def recomputed(")
    assert len(network.splitlines()) < 150 and len(checkpointing.splitlines()) < 30
