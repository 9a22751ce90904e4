"""The network in torch: on a GPU as a CUDA graph in channels_last, on a CPU layer by layer."""
from collections.abc import Callable

import numpy as np
import torch

from core.device import DTYPES, autocast, describe, pick_precision
from core.schema import Infer
from inference.matte_net import MatteNet
from u2net import U2Net, normalise

# Live tensors of one pass, values per pixel of the image: 400 channels at full size. Twice as much memory must fit: the
# graph's own and cuDNN's workspace.
VALUES_PER_PIXEL = 400
LARGEST_BATCH = 4  # images; more bring nothing on a GPU at 1024²


class TorchNetwork:
    """(N,S,S,3) uint8 squares -> (N,S,S) float32 alphas, N <= batch_size.

    alphas: (N,S,S,3) uint8 -> (N,S,S), both on `device`.
    """

    def __init__(self, alphas: Callable[[torch.Tensor], torch.Tensor], tta: str, device: torch.device, precision: str,
                 batch_size: int = 1):
        self.alphas, self.tta, self.device, self.batch_size = alphas, tta, device, batch_size
        self.kept_bytes = getattr(alphas, "kept_bytes", 0)
        self.description = f"torch on {describe(device, precision)}"

    @torch.inference_mode()
    def __call__(self, squares: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(squares).to(self.device)
        alphas = self.alphas(x)
        if self.tta == "flip":
            alphas = (alphas + self.alphas(x.flip(2)).flip(2)) / 2
        return alphas.cpu().numpy()


def live_network(model: U2Net, tta: str, device: torch.device, precision: str) -> TorchNetwork:
    """`model` with the weights that it has at each call: for the validation between epochs."""
    def alphas(rgb: torch.Tensor) -> torch.Tensor:
        model.eval()
        with autocast(device, precision):
            return model(normalise(rgb.permute(0, 3, 1, 2)))[0].sigmoid()[:, 0]

    return TorchNetwork(alphas, tta, device, precision)


def folded_network(model: U2Net, size: int, infer: Infer, device: torch.device) -> TorchNetwork:
    """A fast copy of `model` with the weights that it has now.

    infer: its tta, precision and batch_size; auto: by the GPU's free memory, 1 on a CPU, which one image keeps busy.
    """
    precision = pick_precision(infer.precision, device)
    batch_size = pick_batch_size(size, precision, device) if infer.batch_size == "auto" else infer.batch_size
    net = MatteNet(model, DTYPES[precision]).to(device)
    if device.type == "cuda":
        net = CudaGraph(net, (batch_size, size, size, 3), device)
    return TorchNetwork(net, infer.tta, device, precision, batch_size)


def pick_batch_size(size: int, precision: str, device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    return max(1, min(LARGEST_BATCH, torch.cuda.mem_get_info(device)[0] // (2 * pass_bytes(size, DTYPES[precision]))))


def pass_bytes(size: int, dtype: torch.dtype) -> int:
    """Live tensors of one image."""
    return VALUES_PER_PIXEL * size**2 * dtype.itemsize


class CudaGraph:
    """`net` recorded once for inputs of `shape` and replayed: no waiting between its hundreds of small kernels."""

    @torch.inference_mode()
    def __init__(self, net: MatteNet, shape: tuple[int, ...], device: torch.device):
        self.kept_bytes = shape[0] * pass_bytes(shape[1], net.dtype)
        self.net = net  # the recording reads its weights where they lie: they must not be freed
        self.input = torch.zeros(shape, dtype=torch.uint8, device=device)
        self.graph = torch.cuda.CUDAGraph()
        warm = torch.cuda.Stream(device)
        warm.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(warm):  # cuDNN chooses its kernels outside of the recording
            for _ in range(3):
                net(self.input)
        torch.cuda.current_stream(device).wait_stream(warm)
        with torch.cuda.graph(self.graph):
            self.output = net(self.input)

    def __call__(self, rgb: torch.Tensor) -> torch.Tensor:
        """(n,H,W,3), n up to the recorded batch -> (n,H,W); the rest of the batch is computed and dropped."""
        self.input[:len(rgb)].copy_(rgb)
        self.graph.replay()
        return self.output[:len(rgb)].clone()
