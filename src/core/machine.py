"""What a measured figure was measured on."""
import os
import platform
import sys
from pathlib import Path

import torch


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
