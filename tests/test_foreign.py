"""Weights saved by other programs: wrapped ones load, other files are recognised, nothing in them runs."""
import argparse
import io
import random
import struct
import tarfile
import zipfile

import pytest
import torch

from core import checkpoint
from core.errors import UserError
from u2net import U2Net


@pytest.fixture(scope="module")
def model() -> U2Net:
    torch.manual_seed(1)
    return U2Net()


def prefixed(state: dict, prefix: str) -> dict:
    return {prefix + key: value for key, value in state.items()}


@pytest.mark.parametrize("wrap", [
    lambda s: prefixed(s, "_orig_mod."),
    lambda s: prefixed(s, "module._orig_mod."),
    lambda s: prefixed(s, "_orig_mod.module."),
    lambda s: prefixed(s, "net."),
    lambda s: {key.replace(".", "._orig_mod.", 1): value for key, value in s.items()},
    lambda s: {"state_dict": prefixed(s, "model._orig_mod."), "hyper_parameters": {"lr": 1e-3}, "epoch": 3},
    lambda s: {"state_dict": prefixed(s, "model."), "hyper_parameters": argparse.Namespace(lr=1e-3)},
    lambda s: {"state_dict": prefixed(s, "model.net.") | {"loss.weight": torch.ones(3)}},
    lambda s: {"model": s, "optimizer": {"state": {}}, "config": {"model": "u2netp"}},
    lambda s: {"net": prefixed(s, "module."), "epoch": 1},
    lambda s: {"model": {"state_dict": s}},
    lambda s: {"ema": s, "decay": 0.99},
    lambda s: prefixed(s, "module.") | {"n_averaged": torch.tensor(3)},
    lambda s: prefixed(s, "model.") | prefixed({key: value * 0 for key, value in s.items()}, "ema_model."),
])
def test_wrapped_weights_load(model, tmp_path, wrap):
    torch.save(wrap(model.state_dict()), tmp_path / "w.pth")
    other = U2Net()
    checkpoint.load_weights(other, tmp_path / "w.pth")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


def safetensors() -> bytes:
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    return struct.pack("<Q", len(header)) + header + bytes(4)


def zipped(name: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, b"x")
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("w.pth"), io.BytesIO())
    return file.getvalue()


def saved(value: object, **how) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **how)
    return file.getvalue()


def script() -> bytes:
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Conv2d(1, 1, 1)), file)
    return file.getvalue()


TENSORS = {"a": torch.ones(1000)}


@pytest.mark.parametrize("name, content, words", [
    ("w.safetensors", safetensors, "is in the safetensors format; convert"),
    ("w.pth", safetensors, "safetensors.torch.load_file('w.pth')"),
    ("w.pt", script, "is TorchScript; convert it with torch.save(torch.jit.load('w.pt').state_dict()"),
    ("w.onnx", lambda: b"\x08\x08\x12\x07pytorch", "is an ONNX network"),
    ("w.pth", lambda: b"\x08\x08\x12\x07pytorch", "is an ONNX network"),
    ("w.pth", lambda: saved(torch.nn.Conv2d(1, 1, 1)), "it holds code (torch.nn.modules.conv.Conv2d)"),
    ("w.h5", lambda: b"\x89HDF\r\n\x1a\n" + bytes(64), "holds Keras or TensorFlow weights"),
    ("w.keras", lambda: zipped("model.weights.h5"), "holds a Keras model"),
    ("w.tflite", lambda: b"\x1c\0\0\0TFL3" + bytes(64), "is a TensorFlow network"),
    ("w.pth", lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "is a git-lfs pointer"),
    ("w.pth", lambda: b"\n<!DOCTYPE html><html>quota</html>", "is a web page"),
    ("w.pth", lambda: b"404: Not Found", "is a text file ('404: Not Found')"),
    ("w.pth", lambda: zipped("u2net.pth"), "is a zip archive (u2net.pth); unpack it"),
    ("w.pth", tarred, "is a tar archive"),
    ("w.pth", lambda: b"\x1f\x8b\x08" + bytes(64), "is compressed by gzip"),
    ("w.pth", lambda: b"", "is empty"),
    ("w.pth", lambda: saved(TENSORS)[:-100], "is cut off"),
    ("w.pth", lambda: saved(TENSORS, _use_new_zipfile_serialization=False)[:-100], "is cut off"),
])
def test_other_files_are_recognised_and_a_remedy_given(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content())
    with pytest.raises(UserError) as error:
        checkpoint.load(tmp_path / name)
    assert words in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 400


def test_a_dict_that_holds_itself_is_refused(tmp_path):
    state = {"x": torch.ones(1)}
    state["model"] = state
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(UserError, match="does not fit this network"):
        checkpoint.load_weights(U2Net(), tmp_path / "w.pth")


def test_damaged_files_of_any_kind_are_refused_in_one_line(tmp_path):
    draw = random.Random(0)
    kinds = [saved(TENSORS), saved(TENSORS, _use_new_zipfile_serialization=False), zipped("a"), safetensors()]
    path = tmp_path / "w.pth"
    for _ in range(400):
        content = bytearray(draw.choice(kinds))
        for _ in range(draw.randint(1, 6)):
            content[draw.randrange(max(0, len(content) - 150), len(content))] = draw.randrange(256)
        path.write_bytes(content[:draw.randrange(len(content))] if draw.random() < 0.3 else content)
        try:
            checkpoint.load(path)
        except UserError as error:
            assert "\n" not in str(error)
