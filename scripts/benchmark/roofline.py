"""Limits of the machine: on a CPU the rate of a matrix product, on a GPU the rate at which memory is copied."""
import time

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from core.device import DTYPES
from u2net import U2Net

VIEWS = {"view", "_unsafe_view", "t", "transpose", "permute", "expand", "slice", "select", "unsqueeze", "squeeze",
         "alias", "detach", "split", "as_strided", "_reshape_alias", "unbind"}


def forward_operations(size: int) -> int:
    """Multiplications and additions of one U2NETP forward pass at size²; a training step takes three times as many."""
    with FakeTensorMode(), torch.no_grad(), FlopCounterMode(display=False) as counted:
        U2Net().eval()(torch.empty(1, 3, size, size))
    return counted.get_total_flops()


def matrix_rate(precision: str, side: int = 4096, repeats: int = 3) -> float:
    """Operations per second of the product of two square matrices, best of `repeats`, with torch's threads."""
    a, b = torch.randn(2, side, side).to(DTYPES[precision])
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - started)
    return 2 * side**3 / min(seconds)


class BytesMoved(TorchDispatchMode):
    """Sums the bytes of all tensors that operations in the block read and write; views move nothing."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function.overloadpacket.__name__ not in VIEWS:
            tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return result


def copy_bandwidth(gigabytes: float = 1, repeats: int = 20) -> float:
    """Bytes per second, read and written, of a copy within the GPU's memory."""
    source = torch.empty(int(gigabytes * 2**30), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    target.copy_(source)
    started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    started.record()
    for _ in range(repeats):
        target.copy_(source)
    ended.record()
    torch.cuda.synchronize()
    return 2 * source.numel() * repeats / (started.elapsed_time(ended) / 1000)
