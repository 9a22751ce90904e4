"""What a measured figure was measured on."""
import os
import platform
from pathlib import Path


def processor() -> str:
    """E.g. '2 cores of AMD EPYC'."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.machine()
    return f"{os.cpu_count()} cores of {name}"
