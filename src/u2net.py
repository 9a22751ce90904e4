"""U²-Net (Qin et al., 2020): a U-Net of six levels whose stages are themselves U-Nets, with a side output per level.

A rewrite of https://github.com/xuebinqin/U-2-Net (Apache-2.0). The odd module names are the keys of the official
checkpoints.
"""
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

# stage: (height of its U, in, mid, out channels); height "4F" dilates instead of pooling
STAGES = {
    "u2netp": {
        "stage1": (7, 3, 16, 64), "stage2": (6, 64, 16, 64), "stage3": (5, 64, 16, 64), "stage4": (4, 64, 16, 64),
        "stage5": ("4F", 64, 16, 64), "stage6": ("4F", 64, 16, 64), "stage5d": ("4F", 128, 16, 64),
        "stage4d": (4, 128, 16, 64), "stage3d": (5, 128, 16, 64), "stage2d": (6, 128, 16, 64),
        "stage1d": (7, 128, 16, 64),
    },
    "u2net": {
        "stage1": (7, 3, 32, 64), "stage2": (6, 64, 32, 128), "stage3": (5, 128, 64, 256), "stage4": (4, 256, 128, 512),
        "stage5": ("4F", 512, 256, 512), "stage6": ("4F", 512, 256, 512), "stage5d": ("4F", 1024, 256, 512),
        "stage4d": (4, 1024, 128, 256), "stage3d": (5, 512, 64, 128), "stage2d": (6, 256, 32, 64),
        "stage1d": (7, 128, 16, 64),
    },
}
DEPTH = 6
SHRUNK = 32  # the deepest layer is this many times narrower than the input, rounded up
# ImageNet's mean and standard deviation, with which the official weights were trained.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ConvBNReLU(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, dilation: int = 1):
        super().__init__()
        self.conv_s1 = nn.Conv2d(in_channels, out_channels, 3, padding=dilation, dilation=dilation)
        self.bn_s1 = nn.BatchNorm2d(out_channels)

    def forward(self, x):
        return F.relu(self.bn_s1(self.conv_s1(x)), inplace=True)


def blocks(model: nn.Module) -> list[ConvBNReLU]:
    """All convolutions that BatchNorm follows."""
    return [module for module in model.modules() if isinstance(module, ConvBNReLU)]


class RSU(nn.Module):
    """Residual U-block: `height` levels down, back up with skip connections, plus its input."""

    def __init__(self, height: int | str, in_channels: int, mid: int, out: int):
        super().__init__()
        self.dilated = height == "4F"
        self.height = 4 if self.dilated else height
        # A pooling block dilates only its lowest level; a dilated block doubles the dilation per level.
        dilation = [2**level if self.dilated else 1 for level in range(self.height)]
        dilation[-1] = max(2, dilation[-1])
        self.rebnconvin = ConvBNReLU(in_channels, out)
        for level in range(1, self.height + 1):
            self.add_module(f"rebnconv{level}", ConvBNReLU(out if level == 1 else mid, mid, dilation[level - 1]))
        for level in range(self.height - 1, 0, -1):
            self.add_module(f"rebnconv{level}d", ConvBNReLU(2 * mid, out if level == 1 else mid, dilation[level - 1]))

    def forward(self, x):
        x = entry = self.rebnconvin(x)
        skips = []
        for level in range(1, self.height):
            if level > 1 and not self.dilated:
                x = pool(x)
            x = getattr(self, f"rebnconv{level}")(x)
            skips.append(x)
        x = getattr(self, f"rebnconv{self.height}")(x)
        for level in range(self.height - 1, 0, -1):
            x = getattr(self, f"rebnconv{level}d")(join(x, skips.pop()))
        return x + entry


class U2Net(nn.Module):
    """(B,3,H,W) normalised rgb -> 7 logits (B,1,H,W): the fused output, then the sides from fine to coarse.

    H, W >= 32. Logits are at least float32, also under autocast: the matte's half-tones need more than bfloat16's
    8 bits.
    """

    def __init__(self, variant: str = "u2netp"):
        super().__init__()
        stages = STAGES[variant]
        for name, (height, in_channels, mid, out) in stages.items():
            self.add_module(name, RSU(height, in_channels, mid, out))
        for depth in range(1, DEPTH + 1):
            decoder = f"stage{depth}d" if depth < DEPTH else f"stage{depth}"
            self.add_module(f"side{depth}", nn.Conv2d(stages[decoder][3], 1, 3, padding=1))
        self.outconv = nn.Conv2d(DEPTH, 1, 1)
        self.checkpointing = False  # True: training recomputes the inside of a stage instead of storing it

    def forward(self, x):
        sides = [resize(full_precision(side), x.shape[-2:]) for side in self.sides(x)]
        with torch.autocast(x.device.type, enabled=False):
            fused = self.outconv(torch.cat(sides, 1))
        return fused, *sides

    def sides(self, x):
        """The six side logits from fine to coarse, each at the size of its level."""
        skips = []
        for depth in range(1, DEPTH):
            x = self._stage(f"stage{depth}", x if depth == 1 else pool(x))
            skips.append(x)
        x = self._stage("stage6", pool(x))
        sides = [self.side6(x)]
        for depth in range(DEPTH - 1, 0, -1):
            x = self._stage(f"stage{depth}d", join(x, skips.pop()))
            sides.append(getattr(self, f"side{depth}")(x))
        return sides[::-1]

    def _stage(self, name, x):
        stage = getattr(self, name)
        return recomputed(stage, x) if self.checkpointing and torch.is_grad_enabled() else stage(x)


def normalise(rgb: torch.Tensor) -> torch.Tensor:
    """(B,3,H,W) uint8 -> the network's input, float32, channels last."""
    mean, std = (torch.tensor(v, device=rgb.device).view(1, 3, 1, 1) for v in (MEAN, STD))
    return ((rgb.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


def pool(x):
    return F.max_pool2d(x, 2, stride=2, ceil_mode=True)


def resize(x, size):
    """The identity if the size is equal, so that pooling and dilated blocks share one path."""
    return x if x.shape[-2:] == size else F.interpolate(x, size, mode="bilinear", align_corners=False)


def join(x, skip):
    x = resize(x, skip.shape[-2:])
    if x.requires_grad and not torch.compiler.is_compiling():
        # cat's backward passes on a slice; upsampling's backward is ten times slower on that than on a dense gradient
        x.register_hook(partial(torch.Tensor.contiguous, memory_format=torch.channels_last))
    return torch.cat((x, skip), 1)


def full_precision(x):
    return x.to(torch.promote_types(x.dtype, torch.float32))


def recomputed(stage: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Gradient checkpointing: stage(x), storing only x, with the same gradients and running statistics.

    Activations are recomputed in the backward pass. The stage must not draw random numbers.
    """
    return checkpoint(stage, x, use_reentrant=False, preserve_rng_state=False,
                      context_fn=lambda: (nullcontext(), _running_statistics_kept(stage)))


@contextmanager
def _running_statistics_kept(stage: nn.Module) -> Iterator[None]:
    """Freezes BatchNorm's running statistics, which already include this batch; it still normalises by the batch."""
    norms = [module for module in stage.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0  # running = 1·running + 0·batch
    try:
        yield
    finally:  # checkpoint() exits with an exception as soon as it has what it needs
        for norm, (momentum, batches) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(batches)
