"""The device and precision that a run uses, and the description of the machine that a figure was measured on."""
import ctypes
import os
import platform
import re
import shlex
import shutil
import sys
import warnings
from pathlib import Path

import torch

from core.errors import OperationError, UserError, brief

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # from glibc's malloc.h


def usable_cores() -> int:
    """How many cores this process may use; on macOS, which does not say, all of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine_memory() -> int:
    """Bytes; very many where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return sys.maxsize


def pick_device() -> torch.device:
    """The first visible GPU (see CUDA_VISIBLE_DEVICES), else the CPU, for which malloc is tuned.

    On a GPU fp32 is full fp32: TF32 is off. OperationError if this torch has no code for the GPU.
    """
    with warnings.catch_warnings(record=True) as said:  # e.g. several lines about an old driver
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    if available:
        check_gpu(torch.cuda.get_device_capability(), torch.cuda.get_arch_list())
        torch.backends.cudnn.allow_tf32 = False  # default True: since Ampere convolutions would keep 10 of 23 bits
        return torch.device("cuda")
    for warning in said:
        print(f"note    using no GPU: {brief(warning.message)}")
    keep_freed_memory()
    return torch.device("cpu")


def check_gpu(capability: tuple[int, int], built_for: list[str]) -> None:
    """OperationError if torch's code (built_for: e.g. sm_75, compute_120) does not run on a GPU of this capability.

    sm_86 runs on 8.6 and later 8.x; compute_90 is compiled by the driver for 9.0 and later.
    """
    found = [re.fullmatch(r"(sm|compute)_(\d+)(\d)", name) for name in built_for]
    versions = [(match[1], int(match[2]), int(match[3])) for match in found if match]
    if not versions or any(capability >= (major, minor) and (kind == "compute" or capability[0] == major)
                           for kind, major, minor in versions):
        return
    raise OperationError(f"torch {torch.__version__} has no code for this GPU of compute capability "
                         f"{'{}.{}'.format(*capability)}, only {', '.join(built_for)}; install a torch built for "
                         "it, choose another GPU, or set CUDA_VISIBLE_DEVICES= (empty) to use the CPU")


def check_compiler(device: torch.device) -> None:
    """UserError if there is no compiler for the code that torch.compile generates."""
    default = "clang++" if sys.platform == "darwin" else "g++"
    names = [os.environ.get("CXX") or default] if device.type == "cpu" else [os.environ.get("CC"), "gcc", "clang"]
    if not any(shutil.which(shlex.split(name)[0]) for name in names if name):
        raise UserError(f"train.compile: no compiler found ({' or '.join(filter(None, names))}); install one "
                        "(apt-get install g++) or set train.compile=false")


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory for the next tensor; does nothing with other C libraries.

    By default it returns large blocks to the system, which zeroes them before reuse: half the time of a training step
    and of a forward pass in torch (docs/benchmarks.md).
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def pick_precision(wanted: str, device: torch.device) -> str:
    """auto -> bf16 if the hardware supports it, fp16 on older GPUs (T4), else fp32."""
    if wanted == "int8":
        raise UserError("infer.precision=int8: only openvino on a CPU supports it, torch does not; set "
                        "infer.precision=auto")
    if wanted != "auto":
        if device.type == "cuda" and wanted == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise UserError(f"bf16 is not supported by {torch.cuda.get_device_name()}; use fp16 or auto")
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return "bf16" if any(capabilities.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16")) else "fp32"


def autocast(device: torch.device, precision: str) -> torch.autocast:
    return torch.autocast(device.type, dtype=DTYPES[precision], enabled=precision != "fp32")


def describe(device: torch.device, precision: str) -> str:
    """E.g. 'cuda (Tesla T4), fp16', 'cuda (NVIDIA H100), fp32 without TF32' or 'cpu (2 threads), bf16'."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    exact = " without TF32" if (device.type, precision) == ("cuda", "fp32") else ""
    return f"{device.type} ({name}), {precision}{exact}"


def processor() -> str:
    """E.g. '2 cores of AMD EPYC'."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.machine()
    return f"{os.cpu_count()} cores of {name}"


def peak_bytes(usage) -> int:
    """Peak memory from a process's resource usage; ru_maxrss is in bytes on macOS, in KiB elsewhere."""
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def hardware() -> str:
    """The name of the GPU if there is one, else of the processor."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else processor()
