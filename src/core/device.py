"""Which device and number format a run uses, decided once and said out loud; what machine a figure was measured on."""
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
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def usable_cores() -> int:
    """How many this process may use; on macOS, which does not tell, all there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pick_device() -> torch.device:
    """The first visible GPU (CUDA_VISIBLE_DEVICES chooses), else the CPU, with memory arranged for it.

    What computes in fp32 on a GPU does so in full: TF32 is off. OperationError for a GPU that this torch has no code
    for.
    """
    with warnings.catch_warnings(record=True) as said:  # e.g. of a driver that is too old, in many lines
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    for warning in said:
        print(f"note    no GPU is used: {brief(warning.message)}")
    if available:
        check_gpu(torch.cuda.get_device_capability(), torch.cuda.get_arch_list())
        torch.backends.cudnn.allow_tf32 = False  # on by default: from Ampere on, convolutions would keep 10 bits of 23
        return torch.device("cuda")
    keep_freed_memory()
    return torch.device("cpu")


def check_gpu(capability: tuple[int, int], built_for: list[str]) -> None:
    """OperationError where torch's code, e.g. for sm_75 and compute_120, does not run on a GPU of this capability.

    sm_86 runs on 8.6 and later of 8.x; compute_90 is compiled by the driver for whatever is later.
    """
    found = [re.fullmatch(r"(sm|compute)_(\d+)(\d)", name) for name in built_for]
    versions = [(match[1], int(match[2]), int(match[3])) for match in found if match]
    if not versions or any(capability >= (major, minor) and (kind == "compute" or capability[0] == major)
                           for kind, major, minor in versions):
        return
    raise OperationError(f"torch {torch.__version__} has no code for this GPU, whose compute capability is "
                         f"{'{}.{}'.format(*capability)} (it has {', '.join(built_for)}); install a torch built for "
                         "it, choose another GPU, or set CUDA_VISIBLE_DEVICES= (empty) to compute on the CPU")


def check_compiler(device: torch.device) -> None:
    """UserError where torch.compile would find no compiler: it needs one for what it writes."""
    default = "clang++" if sys.platform == "darwin" else "g++"
    names = [os.environ.get("CXX") or default] if device.type == "cpu" else [os.environ.get("CC"), "gcc", "clang"]
    if not any(shutil.which(shlex.split(name)[0]) for name in names if name):
        raise UserError(f"train.compile: no compiler is here ({' or '.join(filter(None, names))}); install one "
                        "(apt-get install g++), or set train.compile=false")


def keep_freed_memory() -> None:
    """What one tensor gives back stays with the process, for the next one.

    glibc would return every large block to the system, which zeroes it before the process gets it anew: half of the
    time of a training step, and of a forward pass in torch (docs/benchmarks.md). Other C libraries are left alone.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def pick_precision(wanted: str, device: torch.device) -> str:
    """auto -> bf16 where the hardware computes in it, fp16 on older GPUs (T4), else fp32."""
    if wanted == "int8":
        raise UserError("infer.precision=int8: torch does not compute in it, openvino on a CPU does; set "
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
    """Of a process's resource usage; ru_maxrss is in bytes on macOS, in KiB elsewhere."""
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def hardware() -> str:
    """What a network runs on here: the GPU's name, or the processor's."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else processor()
