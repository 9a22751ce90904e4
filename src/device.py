"""Which device and which number format a run uses, decided once and said out loud."""
import ctypes
import platform

import torch

from cli import UserError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def pick_device() -> torch.device:
    """The first visible GPU (CUDA_VISIBLE_DEVICES chooses), else the CPU, with memory arranged for it.

    What computes in fp32 on a GPU does so in full: TF32 is off.
    """
    if torch.cuda.is_available():
        torch.backends.cudnn.allow_tf32 = False  # on by default: from Ampere on, convolutions would keep 10 bits of 23
        return torch.device("cuda")
    keep_freed_memory()
    return torch.device("cpu")


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
