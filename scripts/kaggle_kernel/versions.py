"""The Python that `kernel.py test` runs the kernel with: this one, or one with the package versions of Kaggle's image.

    python = python_for("kaggle", Path("build"))
"""
import shutil
import subprocess
import sys
from pathlib import Path

from core.errors import OperationError, brief

PINS = Path(__file__).with_name("kaggle_image.txt")
PYTHON = "python3.12"  # as in Kaggle's image
SIZE = "about 3 GB to download, 7 GB on disk"
SHOW = """
import platform
from importlib.metadata import version
names = "torch", "numpy", "scipy", "opencv-python-headless", "pillow"
print(f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in names), sep=", ")
"""


def python_for(versions: str | None, build: Path) -> str:
    """The path of a Python. Its packages are installed into `build` on first use, and used again after that."""
    if versions is None:
        return sys.executable
    folder = (build / "kaggle-image").absolute()
    python = folder / "bin/python"
    mark = folder / "pins.txt"  # written last: an installation that was interrupted has none
    if not mark.exists() or mark.read_text(encoding="utf-8") != PINS.read_text(encoding="utf-8"):
        install(folder, base_python())
        shutil.copyfile(PINS, mark)
    print(f"versions {step([python, '-c', SHOW]).strip()}, as in Kaggle's image ({PINS.name})", flush=True)
    return str(python)


def base_python() -> str:
    """Python 3.12, where it is installed, else this one."""
    wanted = shutil.which(PYTHON)
    # a shim may be there without the Python, and Debian's Python without venv
    if wanted and subprocess.run([wanted, "-c", "import venv, ensurepip"], capture_output=True).returncode == 0:
        return wanted
    here = ".".join(map(str, sys.version_info[:2]))
    print(f"{'!' * 20} no {PYTHON} is found: running under this Python {here}, which is not that of Kaggle's image",
          flush=True)
    return sys.executable


def install(folder: Path, base: str) -> None:
    """A virtual environment with the pinned packages, from nothing."""
    print(f"versions of Kaggle's image are not installed here yet: once, {SIZE}, into {folder}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    step([base, "-m", "venv", folder])
    step([folder / "bin/python", "-m", "pip", "install", "-q", "-r", PINS])


def step(command: list[str | Path]) -> str:
    """What a command prints; OperationError with its last line where it fails."""
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        last = (result.stderr.strip() or result.stdout.strip() or "no message").splitlines()[-1]
        raise OperationError(f"the versions of {PINS.name} cannot be used: {brief(last)}; check network and disk, "
                             f"and that {PYTHON} is installed, or set kernel.versions=null")
    return result.stdout
