"""The backends compared with each other and with the network as training uses it."""
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from conftest import ROOT, scene
from core import checkpoint
from core.config import DEFAULTS, load_config
from core.device import pick_precision
from core.errors import UserError
from imaging.images import read_rgb
from inference import openvino_backend
from inference.matte_net import MatteNet
from inference.predictor import Predictor, load_predictor
from inference.torch_backend import live_network
from u2net import U2Net, normalise

needs_openvino = pytest.mark.skipif(not openvino_backend.available(), reason="openvino has no wheel for this platform")
SIZE = 96


@pytest.fixture(scope="module")
def model() -> U2Net:
    """Random weights; signals keep their strength through all layers, and mattes have a standard deviation of
    0.2.
    """
    torch.manual_seed(0)
    model = U2Net().eval()
    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            torch.nn.init.uniform_(layer.bias, -0.1, 0.1)
        elif isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.weight, 0.5, 1)
            layer.running_mean.uniform_(-0.2, 0.2)
            layer.running_var.uniform_(0.8, 1.5)
    with torch.no_grad():
        fused = model(normalise(torch.from_numpy(scene(64)[0]).permute(2, 0, 1)[None]))[0]
        model.outconv.weight /= 2 * fused.std()
        model.outconv.bias.copy_((model.outconv.bias - fused.mean()) / (2 * fused.std()))
    return model


@pytest.fixture(scope="module")
def weights(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "best.pth"
    checkpoint.save(path, {"model_state": model.state_dict()})
    return path


def load(weights, *options, size=SIZE):
    return load_predictor(load_config(DEFAULTS, [f"infer.weights={weights}", f"infer.size={size}", *options,
                                                 "model.predicts=dense"]))


def live(model, tta="flip", size=SIZE):
    return Predictor(live_network(model, tta, torch.device("cpu"), "fp32"), size)


@pytest.mark.parametrize("shape", [(32, 32), (96, 96), (45, 70)])
def test_the_folded_network_is_the_network(model, shape):
    rgb = torch.from_numpy(np.stack([np.ascontiguousarray(scene(96, seed)[0][:shape[0], :shape[1]])
                                     for seed in range(2)]))
    with torch.inference_mode():
        alpha = model(normalise(rgb.permute(0, 3, 1, 2)))[0].sigmoid()[:, 0]
        folded = MatteNet(model)(rgb)
    assert alpha.std() > 0.05
    torch.testing.assert_close(folded, alpha, atol=1e-5, rtol=0)


@needs_openvino
@pytest.mark.parametrize("tta", ["none", "flip"])
def test_all_fp32_backends_agree(model, weights, tta):
    rgbs = [scene(96, 1)[0], scene(96, 2)[0][:50], scene(128, 3)[0][:, :77]]
    exact = live(model, tta)(rgbs)
    for backend in ("torch", "openvino"):
        alphas = load(weights, f"infer.backend={backend}", "infer.precision=fp32", f"infer.tta={tta}")(rgbs)
        for alpha, reference in zip(alphas, exact, strict=True):
            np.testing.assert_allclose(alpha, reference, atol=1e-4)


@needs_openvino
@pytest.mark.parametrize("streams, batch_size", [(2, "auto"), (3, 4)])
def test_streams_and_batches_change_nothing(weights, streams, batch_size):
    rgbs = [scene(96, seed)[0] for seed in range(4)]
    options = "infer.backend=openvino", "infer.precision=fp32"
    several = load(weights, *options, f"infer.streams={streams}", f"infer.batch_size={batch_size}")
    assert several.batch_size == (batch_size if batch_size != "auto" else 1)  # an image is two passes
    for alpha, reference in zip(several(rgbs), load(weights, *options)(rgbs), strict=True):
        np.testing.assert_allclose(alpha, reference, atol=1e-5)


@needs_openvino
@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_bf16_agrees_with_fp32_on_real_photographs(weights, model, shared, backend):
    rgbs = [read_rgb(path) for path in sorted((shared / "real/images").iterdir())[:2]]
    try:
        predict = load(weights, f"infer.backend={backend}", "infer.precision=bf16", "infer.tta=none")
    except UserError as error:
        pytest.skip(str(error))
    errors = [np.abs(alpha - exact) for alpha, exact in zip(predict(rgbs), live(model, "none")(rgbs), strict=True)]
    # A trained network's errors are much smaller (mean 0.0004, greatest 0.6 / 255 at 512 px).
    assert np.mean([error.mean() for error in errors]) <= 4e-3
    assert max(error.max() for error in errors) <= 4 / 255


@needs_openvino
def test_the_compiled_network_is_kept_for_these_very_weights(weights, model, tmp_path, monkeypatch):
    mine = tmp_path / "best.pth"
    mine.write_bytes(weights.read_bytes())
    options = "infer.backend=openvino", "infer.precision=fp32"
    first, = load(mine, *options)([scene(SIZE)[0]])

    class ConvertsAnewError(Exception):
        pass

    def convert(*_):
        raise ConvertsAnewError

    monkeypatch.setattr(openvino_backend, "convert", convert)
    np.testing.assert_array_equal(load(mine, *options)([scene(SIZE)[0]])[0], first)
    kept, = tmp_path.glob(".best.*.openvino")
    whole = kept.read_bytes()
    kept.write_bytes(whole[:-1])
    with pytest.raises(ConvertsAnewError):
        load(mine, *options)
    kept.write_bytes(whole)
    state = model.state_dict()
    checkpoint.save(mine, {"model_state": {**state, "outconv.bias": state["outconv.bias"] + 1}})
    with pytest.raises(ConvertsAnewError):
        load(mine, *options)


LISTEN = """
import gc, os, signal, sys
def refuse(event, arguments):
    if event.startswith(("socket.connect", "socket.getaddrinfo", "socket.send")):
        sys.stderr.write(f"{event} {arguments}\\n")
        os._exit(9)
sys.addaudithook(refuse)
import infer
infer.main()
assert "openvino" in sys.modules and not [name for name in sys.modules if name.startswith("openvino_telemetry.")]
from core.config import load_config
from inference.predictor import load_predictor
first, second = (load_predictor(load_config(sys.argv[2], sys.argv[3:])) for _ in range(2))
del first, second
gc.collect()
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
signal.raise_signal(signal.SIGUSR1)
"""


@pytest.fixture(scope="module")
def listened(weights, tmp_path_factory) -> tuple[subprocess.CompletedProcess, Path]:
    """A new process that infers with openvino, which cannot write its cache, then loads two predictors and drops them
    again -> what it said, its home."""
    folder = tmp_path_factory.mktemp("listened")
    (folder / "home").mkdir()
    (folder / "images").mkdir()
    cv2.imwrite(str(folder / "images/a.png"), scene(40)[0])
    mine = folder / "mine.pth"
    mine.write_bytes(weights.read_bytes())
    (folder / ".mine.32.fp32.openvino").mkdir()  # so no file of this name can be written
    result = subprocess.run(
        [sys.executable, "-c", LISTEN, "--config", str(DEFAULTS), f"infer.weights={mine}",
         f"infer.images={folder}/images", "infer.size=32", f"infer.submission={folder}/s.csv", "infer.backend=openvino",
         "infer.precision=fp32"],
        env={"HOME": str(folder / "home"), "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}, cwd=folder,
        capture_output=True, text=True)
    return result, folder / "home"


@needs_openvino
def test_conversion_sends_nothing_and_goes_without_a_cache_where_none_can_be_written(listened):
    result, home = listened
    assert result.returncode == 0, result.stderr
    assert "Warning" not in result.stderr and "cannot be written to" in result.stdout
    assert not any(home.iterdir())


@needs_openvino
def test_a_signal_is_handled_when_predictors_have_come_and_gone(listened):
    """Each OpenVINO Core changes how the process handles signals."""
    result, _ = listened
    assert result.stdout.splitlines()[-1] == "handled", result.stderr


def test_without_openvino_auto_takes_torch_and_says_so(weights, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "torch on cpu" in load(weights).description and "not installed" in load(weights).description
    with pytest.raises(UserError, match=r"infer\.backend=openvino: .*`pip install"):
        load(weights, "infer.backend=openvino")


@needs_openvino
def test_a_precision_that_the_cpu_lacks_is_refused():
    assert openvino_backend.pick_cpu_precision("auto", ["FP32", "INT8"]) == "fp32"
    assert openvino_backend.pick_cpu_precision("auto", ["BF16", "FP32"]) == "bf16"
    with pytest.raises(UserError, match=r"infer\.precision=fp16: .* choose one of fp32, bf16"):
        openvino_backend.pick_cpu_precision("fp16", ["BF16", "FP32"])
    assert pick_precision("fp32", torch.device("cpu")) == "fp32"


def test_streams_follow_from_cores_and_memory(monkeypatch):
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 2**22, "SC_PAGE_SIZE": 4096}.get)  # 16 GiB
    assert openvino_backend.pick_streams(2, 1024, "bf16") == 1
    assert openvino_backend.pick_streams(16, 1024, "bf16") == 4
    assert openvino_backend.pick_streams(64, 1024, "bf16") == 10
    assert openvino_backend.pick_streams(64, 1024, "fp32") == 5
    assert openvino_backend.pick_streams(64, 8192, "fp32") == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_recorded_networks_keep_their_weights_when_others_come_and_go(weights, model):
    """A recording reads the weights where they lie; the memory of a freed network would soon hold something else."""
    squares = np.stack([scene(SIZE, seed)[0] for seed in range(2)])
    kept = load(weights, "infer.backend=torch", "infer.precision=fp32")
    expected = kept.network(squares)
    for _ in range(3):
        load(weights, "infer.backend=torch", "infer.precision=fp32")
    torch.full((2**26,), float("nan"), device="cuda")
    assert np.array_equal(kept.network(squares), expected)
