"""The network in OpenVINO on a CPU: converted from the torch module, and kept on disk once compiled.

    network = OpenvinoNetwork(model, 1024, cfg.infer)
"""
import functools
import hashlib
import importlib.util
import io
import platform
import sys
import warnings
from pathlib import Path

import numpy as np
import torch

from core.device import machine_memory
from core.errors import OperationError, UserError
from core.files import written_whole
from core.schema import Infer
from imaging.cache import write_failure
from inference.int8 import Ranges, RoundedConv, load_ranges, rounded
from inference.matte_net import MatteNet
from u2net import U2Net

HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}  # OpenVINO's names
CAPABILITIES = {"fp32": "FP32", "bf16": "BF16", "fp16": "FP16", "int8": "INT8"}  # OpenVINO's names for what a CPU can
TRACED = 64  # side of the square that the network is traced on; its graph is the same at every size from 32 on
# Peak memory of one stream, bytes per pixel at 2 bytes per value (measured: 750 at 1024²).
BYTES_PER_PIXEL = 800
THREADS_PER_STREAM = 4
DIGEST = hashlib.sha256().digest_size


def available() -> bool:
    return importlib.util.find_spec("openvino") is not None


def load_openvino():
    """The module, with its telemetry off.

    Its converter reports each import and conversion to its makers if openvino_telemetry can be imported, and uses a
    stub if not.
    """
    sys.modules["openvino_telemetry"] = None
    try:
        import openvino
    except ImportError as error:
        raise UserError(f"infer.backend=openvino: cannot be imported ({' '.join(str(error).split())}); run "
                        "`pip install -r requirements.txt`, or set infer.backend=torch") from None
    return openvino


@functools.cache
def load_core():
    """The process's only Core, kept until the process ends.

    Each Core gives its thread an alternate signal stack and frees it at its end. If two Cores end in the order in
    which they began, the second sets the thread back to the first one's stack, which is freed. Python handles every
    signal there, Ctrl-C or a child's end, and would write into memory that is something else by then.
    """
    return load_openvino().Core()


class OpenvinoNetwork:
    """(N,S,S,3) uint8 squares -> (N,S,S) float32 alphas; `batch_size` images keep all streams busy.

    A stream is a group of threads that computes one image: with more streams threads wait less for one another, but
    memory grows. A mirrored image is a request of its own, so a stream needs memory for one image only.
    """

    def __init__(self, model: U2Net, size: int, infer: Infer, ranges: Ranges | None = None):
        """infer: its tta, precision, streams and batch_size; the compiled network is kept beside infer.weights.

        ranges: for int8; None: those kept beside the weights.
        """
        precision = pick_cpu_precision(infer.precision, capabilities())
        net, computed = MatteNet(model), precision
        if precision == "int8":
            net = rounded(net, load_ranges(infer.weights, net) if ranges is None else ranges)
            computed = pick_cpu_precision("auto", capabilities())  # of everything but the convolutions
        threads = torch.get_num_threads()
        streams = pick_streams(threads, size, precision) if infer.streams == "auto" else infer.streams
        self.tta = infer.tta
        passes = 2 if self.tta == "flip" else 1
        self.batch_size = -(-streams // passes) if infer.batch_size == "auto" else infer.batch_size
        options = {"INFERENCE_PRECISION_HINT": HINTS[computed], "NUM_STREAMS": streams,
                   "INFERENCE_NUM_THREADS": max(threads, streams)}
        self.kept_bytes = streams * stream_bytes(size, precision)
        compiled, note = compile_cached(net, size, options, cache_path(infer.weights, size, precision))
        self.queue = load_openvino().AsyncInferQueue(compiled, streams)
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
    """What this CPU can compute in, in OpenVINO's names; not all are in CAPABILITIES."""
    return load_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def pick_cpu_precision(wanted: str, found: list[str]) -> str:
    """auto: bf16 if the CPU computes in it, else fp32. UserError if it does not compute in what is wanted.

    fp16 is slower than fp32 on Intel CPUs (docs/benchmarks.md), and some ARM CPUs add up in it until this network
    overflows.
    """
    if wanted == "auto":
        return "bf16" if "BF16" in found else "fp32"
    if CAPABILITIES[wanted] not in found:
        can = ", ".join(name for name, capability in CAPABILITIES.items() if capability in found)
        raise UserError(f"infer.precision={wanted}: OpenVINO cannot compute in it on this CPU; choose one of {can}")
    return wanted


def pick_streams(threads: int, size: int, precision: str) -> int:
    """One per four threads, fewer if they would need more than half of the machine's memory; at least 1."""
    return max(1, min(threads // THREADS_PER_STREAM, machine_memory() // 2 // stream_bytes(size, precision)))


def stream_bytes(size: int, precision: str) -> int:
    return BYTES_PER_PIXEL * size**2 * (2 if precision == "fp32" else 1)


def cache_path(weights: Path, size: int, precision: str) -> Path:
    """Beside the weights, so that it is deleted with them and replaced with them."""
    return weights.with_name(f".{weights.stem}.{size}.{precision}.openvino")


def compile_cached(net: MatteNet, size: int, options: dict, path: Path) -> tuple:
    """(compiled model, note about its cache or ""): read from `path` if that was made from the same weights."""
    core = load_core()
    key = cache_key(net, size, load_openvino().get_version(), core.get_property("CPU", "FULL_DEVICE_NAME"))
    kept = read_cache(path, key)
    if kept is not None:
        try:
            return core.import_model(io.BytesIO(kept), "CPU", options), ""
        except RuntimeError:  # made by another build of the same version
            pass
    compiled = core.compile_model(convert(net, size), "CPU", options)
    body = compiled.export_model().getvalue()
    try:
        with written_whole(path) as part:
            part.write_bytes(key + hashlib.sha256(body).digest() + body)
    except (OSError, OperationError, UserError) as error:
        return compiled, f" (will be converted each time: {path.parent} cannot be written to, {write_failure(error)})"
    return compiled, ""


def cache_key(net: MatteNet, size: int, version: str, cpu: str) -> bytes:
    steps = [layer.step for layer in net.modules() if isinstance(layer, RoundedConv)]
    digest = hashlib.sha256(repr((size, version, cpu, platform.machine(), steps)).encode())
    for name, value in net.state_dict().items():
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.digest()


def read_cache(path: Path, key: bytes) -> bytes | None:
    """The compiled network; None if no undamaged file has this key. In the file: key, SHA-256 of the rest, rest."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    body = content[2 * DIGEST:]
    return body if content[:2 * DIGEST] == key + hashlib.sha256(body).digest() else None


def convert(net: MatteNet, size: int):
    """OpenVINO's graph of `net` for one (1,size,size,3) uint8 input."""
    example = torch.zeros(1, TRACED, TRACED, 3, dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # sizes that are equal here are equal at every size
        warnings.simplefilter("ignore", DeprecationWarning)  # OpenVINO traces with torch.jit
        graph = load_openvino().convert_model(net, example_input=example)
    graph.reshape([1, size, size, 3])
    return graph
