"""The network run by OpenVINO on a CPU, converted straight from the torch module and kept on disk once compiled.

    network = OpenvinoNetwork(model, 1024, cfg.infer)
"""
import functools
import hashlib
import importlib.util
import io
import os
import platform
import sys
import warnings
from pathlib import Path

import numpy as np
import torch

from core.errors import OperationError, UserError
from core.files import written_whole
from core.schema import Infer
from imaging.cache import write_failure
from inference.int8 import Ranges, RoundedConv, load_ranges, rounded
from inference.matte_net import MatteNet
from u2net import U2Net

HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}  # OpenVINO's names
CAPABILITIES = {"fp32": "FP32", "bf16": "BF16", "fp16": "FP16", "int8": "INT8"}  # what a CPU that computes in it has
TRACED = 64  # side of the square that conversion runs the network on; its graph is the same at every size from 32 on
# What one stream holds at its peak, bytes per pixel at 2 bytes per value (measured: 750 at 1024²).
BYTES_PER_PIXEL = 800
THREADS_PER_STREAM = 4
DIGEST = hashlib.sha256().digest_size


def available() -> bool:
    return importlib.util.find_spec("openvino") is not None


def load_openvino():
    """The module, after seeing to it that it sends nothing.

    Its converter reports each import and conversion to its makers wherever openvino_telemetry can be imported, and
    has a stub for where it cannot.
    """
    sys.modules["openvino_telemetry"] = None
    try:
        import openvino
    except ImportError as error:
        raise UserError(f"infer.backend=openvino: cannot be imported ({' '.join(str(error).split())}); "
                        "`pip install -r requirements.txt` brings it, infer.backend=torch does without") from None
    return openvino


@functools.cache
def load_core():
    """The process's only Core, kept to its end.

    Each Core gives its thread a stack of its own to handle signals on, and frees it when it ends; of two that end in
    the order in which they began, the second leaves the thread with the freed stack of the first. Python handles every
    signal there, Ctrl-C as well as a child's end: that wrote into memory which had long become something else.
    """
    return load_openvino().Core()


class OpenvinoNetwork:
    """(N,S,S,3) uint8 squares -> (N,S,S) float32 alphas; `batch_size` images keep all streams busy.

    A stream is a group of threads that computes one image: more streams waste less time on waiting for one another,
    and take more memory. A mirrored image is a request of its own, so a stream's memory is that of one image.
    """

    def __init__(self, model: U2Net, size: int, infer: Infer, ranges: Ranges | None = None):
        """infer: its tta, precision, streams and batch_size; beside its weights the compiled network is kept.

        ranges: for int8; None: those beside the weights.
        """
        ov = load_openvino()
        core = load_core()
        found = capabilities()
        precision = pick_cpu_precision(infer.precision, found)
        net, computed = MatteNet(model), precision
        if precision == "int8":
            net = rounded(net, load_ranges(infer.weights, net) if ranges is None else ranges)
            computed = pick_cpu_precision("auto", found)  # of all that is no convolution
        threads = torch.get_num_threads()
        streams = pick_streams(threads, size, precision) if infer.streams == "auto" else infer.streams
        self.tta = infer.tta
        passes = 2 if self.tta == "flip" else 1
        self.batch_size = -(-streams // passes) if infer.batch_size == "auto" else infer.batch_size
        options = {"INFERENCE_PRECISION_HINT": HINTS[computed], "NUM_STREAMS": streams,
                   "INFERENCE_NUM_THREADS": max(threads, streams)}
        compiled, note = compile_cached(ov, core, net, size, options, cache_path(infer.weights, size, precision))
        self.queue = ov.AsyncInferQueue(compiled, streams)
        self.queue.set_callback(keep_result)
        self.description = (f"openvino on cpu ({threads} threads, {streams} stream{'s' if streams > 1 else ''}), "
                            f"{precision}{note}")

    def __call__(self, squares: np.ndarray) -> np.ndarray:
        if self.tta == "none":
            return self._alphas(squares)
        both = self._alphas(np.concatenate((squares, squares[:, :, ::-1])))
        return (both[:len(squares)] + both[len(squares):, :, ::-1]) / 2

    def _alphas(self, squares: np.ndarray) -> np.ndarray:
        alphas = np.empty(squares.shape[:3], np.float32)
        for square, alpha in zip(squares, alphas, strict=True):
            self.queue.start_async([square[None]], alpha)
        self.queue.wait_all()
        return alphas


def keep_result(request, alpha: np.ndarray) -> None:
    alpha[:] = request.get_output_tensor(0).data[0]


def capabilities() -> list[str]:
    """The values of CAPABILITIES, and others, that this CPU has."""
    return load_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def pick_cpu_precision(wanted: str, found: list[str]) -> str:
    """auto: bf16 where the CPU computes in it, else fp32 (fp16, which some ARM CPUs have, overflows in places)."""
    if wanted == "auto":
        return "bf16" if "BF16" in found else "fp32"
    if CAPABILITIES[wanted] not in found:
        can = ", ".join(name for name, capability in CAPABILITIES.items() if capability in found)
        raise UserError(f"infer.precision={wanted}: OpenVINO cannot compute in it on this CPU; it can in {can}")
    return wanted


def pick_streams(threads: int, size: int, precision: str) -> int:
    """One per four threads, as far as half of the machine's memory goes."""
    need = BYTES_PER_PIXEL * size**2 * (2 if precision == "fp32" else 1)
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows does not say
        memory = sys.maxsize
    return max(1, min(threads // THREADS_PER_STREAM, memory // 2 // need))


def cache_path(weights: Path, size: int, precision: str) -> Path:
    """Beside the weights, so that it goes when they go, and new weights replace it."""
    return weights.with_name(f".{weights.stem}.{size}.{precision}.openvino")


def compile_cached(ov, core, net: MatteNet, size: int, options: dict, path: Path) -> tuple:
    """(compiled model, what there is to say about its cache): from `path` if that is of these very weights."""
    key = cache_key(net, size, ov.get_version(), core.get_property("CPU", "FULL_DEVICE_NAME"))
    kept = read_cache(path, key)
    if kept is not None:
        try:
            return core.import_model(io.BytesIO(kept), "CPU", options), ""
        except RuntimeError:  # a file of another build of the same version
            pass
    compiled = core.compile_model(convert(ov, net, size), "CPU", options)
    body = compiled.export_model().getvalue()
    try:
        with written_whole(path) as part:
            part.write_bytes(key + hashlib.sha256(body).digest() + body)
    except (OSError, OperationError, UserError) as error:
        return compiled, f" (converted anew each time: {path.parent} cannot be written to, {write_failure(error)})"
    return compiled, ""


def cache_key(net: MatteNet, size: int, version: str, cpu: str) -> bytes:
    steps = [layer.step for layer in net.modules() if isinstance(layer, RoundedConv)]
    digest = hashlib.sha256(repr((size, version, cpu, platform.machine(), steps)).encode())
    for name, value in net.state_dict().items():
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.digest()


def read_cache(path: Path, key: bytes) -> bytes | None:
    """A file holds its key, the SHA-256 of the rest, the rest. None: there is no whole one with this key."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    body = content[2 * DIGEST:]
    return body if content[:2 * DIGEST] == key + hashlib.sha256(body).digest() else None


def convert(ov, net: MatteNet, size: int):
    """OpenVINO's graph of it for one (1,size,size,3) uint8 input."""
    example = torch.zeros(1, TRACED, TRACED, 3, dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # which sizes are equal is the same at every size
        warnings.simplefilter("ignore", DeprecationWarning)  # OpenVINO traces with torch.jit
        graph = ov.convert_model(net, example_input=example)
    graph.reshape([1, size, size, 3])
    return graph
