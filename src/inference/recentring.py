"""Nearly constant channels stored as their differences from the constant, so that bf16 and fp16 can hold them.

One channel of the official U2NETP (stage2d.rebnconv2d) is 226.3 ± 0.2. In bf16, whose values there are 1 apart, it
loses all it says, and that is nearly the whole error of bf16 on these weights (docs/benchmarks.md). BatchNorm tells
which channels are of this kind: it gives each the mean `bias` and the standard deviation `weight`, and a ReLU changes
nothing where the mean is many deviations above 0. Such a channel x is then the sum of c + p - n with c = bias,
p = ReLU(x - c) and n = ReLU(c - x). The next convolution takes p and n, and c from two channels that are 1: so its
zero padding stays right, and two weights hold c's contribution more exactly than one. Its bias, which cancels this
contribution, comes the same way.
"""
from typing import NamedTuple

import torch
from torch import nn

from u2net import RSU, ConvBNReLU, U2Net

DEVIATIONS = 10  # a mean this many standard deviations above 0 is nearly constant; lower ones gain nothing
MULTIPLE = 8     # of channels, which GPUs prefer; the spare ones are 0


class ConstantsConv(nn.Conv2d):
    """Its weights for the constants are too large beside the others for int8."""


class Recentring(NamedTuple):
    """Of some channels on a U's way up, where they are enlarged and joined with the skip connection's."""
    layer: ConvBNReLU       # whose outputs they are
    after: ConvBNReLU       # the only one that takes them
    channels: torch.Tensor  # indices
    means: torch.Tensor


def recentrings(model: U2Net) -> list[Recentring]:
    """Those that the weights call for, before BatchNorm is folded.

    Only on the way up: elsewhere the official weights have few such channels, which matter little.
    """
    found = []
    for stage in (module for module in model.modules() if isinstance(module, RSU)):
        for level in range(2, stage.height):  # from the last: a layer's means leave its bias before that is taken on
            layer, after = getattr(stage, f"rebnconv{level}d"), getattr(stage, f"rebnconv{level - 1}d")
            channels = nearly_constant(layer.bn_s1).nonzero()[:, 0]
            if len(channels):
                found.append(Recentring(layer, after, channels, layer.bn_s1.bias.detach()[channels]))
    return found


def nearly_constant(norm: nn.BatchNorm2d) -> torch.Tensor:
    """(channels,) bool."""
    return norm.bias.detach() > DEVIATIONS * norm.weight.detach().abs()


def recentre(where: Recentring) -> None:
    """Changes the two layers, BatchNorm folded into them, so that together they compute the same as before."""
    width = where.layer.conv_s1.out_channels
    spare = -(width + len(where.channels) + 2) % MULTIPLE
    where.layer.conv_s1 = differences(where.layer.conv_s1, where, spare)
    where.after.conv_s1 = of_differences(where.after.conv_s1, where, width, spare)


def differences(conv: nn.Conv2d, where: Recentring, spare: int) -> nn.Conv2d:
    """Its outputs, less the means; then the negatives of the channels in question, two that are 1, `spare` that are 0.
    """
    bias = conv.bias.clone()
    bias[where.channels] -= where.means
    constants = torch.tensor([1.0, 1.0] + spare * [0.0])
    nothing = conv.weight.new_zeros(len(constants), *conv.weight.shape[1:])
    return with_weights(conv, torch.cat((conv.weight, -conv.weight[where.channels], nothing)),
                        torch.cat((bias, -bias[where.channels], constants)))


def of_differences(conv: nn.Conv2d, where: Recentring, width: int, spare: int) -> nn.Conv2d:
    """Takes the outputs of differences() in place of its first `width` inputs."""
    inputs, others = conv.weight[:, :width], conv.weight[:, width:]
    constant = (inputs[:, where.channels] * where.means.view(-1, 1, 1)).sum(1, keepdim=True)
    constant[:, 0, 1, 1] += conv.bias  # the kernel's centre is never in the padding
    coarse = constant.bfloat16().float()
    nothing = constant.new_zeros(len(constant), spare, *constant.shape[2:])
    return with_weights(conv, torch.cat((inputs, -inputs[:, where.channels], coarse, constant - coarse, nothing,
                                         others), 1), torch.zeros_like(conv.bias), ConstantsConv)


def with_weights(conv: nn.Conv2d, weight: torch.Tensor, bias: torch.Tensor, kind: type = nn.Conv2d) -> nn.Conv2d:
    """A convolution like `conv` with other weights, which give its numbers of channels."""
    kind = type(conv) if isinstance(conv, ConstantsConv) else kind
    new = kind(weight.shape[1], len(weight), conv.kernel_size, padding=conv.padding, dilation=conv.dilation)
    new.weight, new.bias = nn.Parameter(weight, requires_grad=False), nn.Parameter(bias, requires_grad=False)
    return new
