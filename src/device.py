"""Which device and which number format a run uses, decided once and said out loud."""
import torch

from cli import UserError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device() -> torch.device:
    """The first visible GPU (CUDA_VISIBLE_DEVICES chooses), else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pick_precision(wanted: str, device: torch.device) -> str:
    """auto -> bf16 where the hardware computes in it, fp16 on older GPUs (T4), else fp32."""
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
    """E.g. 'cuda (Tesla T4), fp16' or 'cpu (2 threads), bf16'."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    return f"{device.type} ({name}), {precision}"
