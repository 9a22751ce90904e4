"""int8 for the folded network: the range of each convolution's input, and the rounding of inputs and weights.

`make precision` measures the ranges on training images and, if the MSE hardly rises, writes them to int8.yaml beside
the weights, where infer.precision=int8 finds them. Inputs come from ReLUs and get 256 levels from 0 to their range,
weights get 255 levels per output channel (Jacob et al., 2018, arXiv:1712.05877). The first convolution, whose input has
a sign, and the sides, whose outputs are the matte's half-tones, are not rounded.
"""
import copy
import math
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
import yaml
from torch import nn

from core import checkpoint
from core.errors import UserError, brief
from core.files import written_whole
from inference.matte_net import MatteNet
from inference.recentring import ConstantsConv

QUANTILE = 0.9999  # of an input's values; the few above are clipped, so that the others get finer levels
SAMPLES = 2**20    # values per input and image that the quantile is computed from
Ranges = dict[str, float]  # a convolution's name in MatteNet.net -> greatest value of its input


class RoundedConv(nn.Module):
    """A convolution whose input and weights are rounded to 8 bits; an int8 backend computes exactly this."""

    def __init__(self, conv: nn.Conv2d, greatest: float):
        super().__init__()
        self.conv, self.step = conv, greatest / 255
        steps = conv.weight.detach().abs().amax((1, 2, 3)).clamp(min=1e-8) / 127
        self.register_buffer("steps", steps)
        self.register_buffer("zero", torch.zeros(len(steps), dtype=torch.int32))

    def forward(self, x):
        x = torch.fake_quantize_per_tensor_affine(x, self.step, 0, 0, 255)
        weight = torch.fake_quantize_per_channel_affine(self.conv.weight, self.steps, self.zero, 0, -127, 127)
        return F.conv2d(x, weight, self.conv.bias, padding=self.conv.padding, dilation=self.conv.dilation)


def measure_ranges(net: MatteNet, squares: Iterable[torch.Tensor]) -> Ranges:
    """The range of each input: the greatest of its quantiles over the squares, (1,S,S,3) uint8 each."""
    ranges = {}

    def note(name: str, x: torch.Tensor) -> None:
        values = x.flatten()[::x.numel() // SAMPLES | 1]
        value = values.kthvalue(max(1, round(QUANTILE * len(values)))).values.item()
        ranges[name] = max(ranges.get(name, 1e-6), value)

    hooks = [conv.register_forward_pre_hook(lambda _, inputs, name=name: note(name, inputs[0]))
             for name, conv in rounded_convolutions(net)]
    try:
        with torch.inference_mode():
            for square in squares:
                net(square)
    finally:
        for hook in hooks:
            hook.remove()
    return ranges


def rounded_convolutions(net: MatteNet) -> list[tuple[str, nn.Conv2d]]:
    return [(name, module) for name, module in net.net.named_modules()
            if isinstance(module, nn.Conv2d) and not isinstance(module, ConstantsConv)
            and not name.startswith(("side", "stage1.rebnconvin"))]


def rounded(net: MatteNet, ranges: Ranges) -> MatteNet:
    """A copy of `net` that computes with rounded inputs and weights."""
    net = copy.deepcopy(net)
    for name, conv in rounded_convolutions(net):
        parent, _, attribute = name.rpartition(".")
        setattr(net.net.get_submodule(parent), attribute, RoundedConv(conv, ranges[name]))
    return net


def ranges_path(weights: Path) -> Path:
    return weights.parent / "int8.yaml"


def save_ranges(weights: Path, identity: dict[str, str], ranges: Ranges, change: float) -> None:
    """identity: of the network that was measured. change: of the validation MSE, relative, for people to read."""
    values = {"weights": identity, "change": change, "ranges": ranges}
    with written_whole(ranges_path(weights)) as part:
        part.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


def load_ranges(weights: Path, net: MatteNet) -> Ranges:
    """What `make precision` measured for this checkpoint; UserError if there is nothing, or it is for another one."""
    path = ranges_path(weights)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        measured_for, ranges = values["weights"], {name: float(values["ranges"][name])
                                                   for name, _ in rounded_convolutions(net)}
        if not all(0 < value < math.inf for value in ranges.values()):
            raise ValueError("a range is not positive")
    except FileNotFoundError:
        raise UserError(f"{path}: no int8 ranges for {weights}; measure them with `make precision`, or set "
                        "infer.precision=auto") from None
    except (yaml.YAMLError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: holds no valid int8 ranges ({brief(error)}); run `make precision` again") from None
    if measured_for != checkpoint.identity(weights):
        raise UserError(f"{path}: was measured for another checkpoint, not {weights}; run `make precision` again, or "
                        "set infer.precision=auto")
    return ranges
