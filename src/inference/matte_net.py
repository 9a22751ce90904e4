"""The network as inference runs it: uint8 pixels in, alpha out, and only what the alpha needs is computed.

BatchNorm is folded into the convolutions. The fused output is a weighted sum of the six side outputs, and enlarging is
linear. So the weights are folded into the side convolutions, and the enlarged sides are added up one by one.

Two things keep bf16 and fp16 close to fp32 (docs/benchmarks.md). The first convolution takes pixels less their rounded
mean: integers, which both hold exactly, unlike normalised pixels. Nearly constant channels are recentred, see
recentring.py.
"""
import copy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from inference.recentring import recentre, recentrings, with_weights
from u2net import DEPTH, MEAN, STD, U2Net, blocks, full_precision, resize

MIDDLE = (255 * torch.tensor(MEAN)).round()


class MatteNet(nn.Module):
    """(B,H,W,3) uint8 -> (B,H,W) float32 in [0,1]; a folded copy of `model`, its convolutions in `dtype`."""

    def __init__(self, model: U2Net, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.dtype = dtype
        self.net = fold(model).to(dtype, memory_format=torch.channels_last)
        self.register_buffer("middle", MIDDLE.view(1, 3, 1, 1))

    def forward(self, rgb: torch.Tensor) -> torch.Tensor:
        pixels = rgb.permute(0, 3, 1, 2).float() - self.middle
        x = torch.cat((pixels, torch.ones_like(pixels[:, :1])), 1).to(self.dtype)
        size = x.shape[-2:]
        sides = (resize(full_precision(side), size) for side in self.net.sides(x))
        return sum(sides).sigmoid()[:, 0]


def fold(model: U2Net) -> U2Net:
    """A copy whose enlarged sides() add up to the fused logits; its forward() no longer works."""
    model = copy.deepcopy(model).float().eval().requires_grad_(False)
    found = recentrings(model)
    for layer in blocks(model):
        layer.conv_s1, layer.bn_s1 = fuse_conv_bn_eval(layer.conv_s1, layer.bn_s1), nn.Identity()
    for recentring in found:
        recentre(recentring)
    model.stage1.rebnconvin.conv_s1 = takes_pixels(model.stage1.rebnconvin.conv_s1)
    for depth, weight in zip(range(1, DEPTH + 1), model.outconv.weight.flatten(), strict=True):
        side = getattr(model, f"side{depth}")
        side.weight *= weight
        side.bias *= weight
    model.side1.bias += model.outconv.bias
    del model.outconv
    return model


def takes_pixels(conv: nn.Conv2d) -> nn.Conv2d:
    """A convolution of normalised pixels -> the same of pixels less MIDDLE and a fourth channel that is 1.

    The fourth adds what rounding the mean takes away, but nothing in the zero padding, as it must be.
    """
    mean, std = (255 * torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    lost = (conv.weight * (MIDDLE.view(1, 3, 1, 1) - mean) / std).sum(1, keepdim=True)
    return with_weights(conv, torch.cat((conv.weight / std, lost), 1), conv.bias)
