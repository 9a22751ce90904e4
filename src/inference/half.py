"""A network's weights in half precision, rounded so that it computes nearly the same in fp32, fp16 and bf16.

The convolutions, with BatchNorm folded into them, get the nearest numbers that bf16 has; what BatchNorm adds, too. So
bf16 rounds only what flows through the network, no longer the network. Where a convolution takes a nearly constant
channel, its bias makes up for what rounding a weight times 226 would add (recentring.py).
"""
import torch

from inference.recentring import nearly_constant, recentrings
from u2net import ConvBNReLU, U2Net, blocks


@torch.no_grad()
def half_state(model: U2Net) -> dict[str, torch.Tensor]:
    """The state of `model`, which it changes: convolutions in fp16, the few other numbers in fp32."""
    constants = recentrings(model)
    exact = {each.after: each.after.conv_s1.weight.clone() for each in constants}
    for layer in blocks(model):
        layer.conv_s1.weight.copy_(rounded_weight(layer).half())
    for _, after, channels, means in constants:
        after.conv_s1.bias += (exact[after] - after.conv_s1.weight)[:, channels].sum((2, 3)) @ means
    for layer in blocks(model):
        if layer not in exact:  # theirs is not rounded in bf16 either
            layer.bn_s1.bias.copy_(rounded_bias(layer))
    return {name: value.half() if value.dim() == 4 else value for name, value in model.state_dict().items()}


def rounded_weight(layer: ConvBNReLU) -> torch.Tensor:
    """What folding multiplies to numbers of bf16."""
    scale = folding_scale(layer).view(-1, 1, 1, 1)
    weight = layer.conv_s1.weight
    return torch.where(scale == 0, weight, (weight * scale).bfloat16().float() / scale)


def rounded_bias(layer: ConvBNReLU) -> torch.Tensor:
    """What gives the folded convolution a bias of bf16; that of nearly constant channels as it is."""
    conv, norm = layer.conv_s1, layer.bn_s1
    own = (conv.bias - norm.running_mean) * folding_scale(layer)
    nearest = (own + norm.bias).bfloat16().float() - own
    return torch.where(nearly_constant(norm), norm.bias, nearest)


def folding_scale(layer: ConvBNReLU) -> torch.Tensor:
    """(channels,): what BatchNorm multiplies the convolution's output by."""
    return layer.bn_s1.weight / (layer.bn_s1.running_var + layer.bn_s1.eps).sqrt()
