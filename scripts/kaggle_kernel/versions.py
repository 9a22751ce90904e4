"""Chooses the Python that runs the kernel in `kernel.py test`: this one, or one with Kaggle's package versions.

    python = python_for("kaggle", Path("build"))
"""
import shutil
import subprocess
import sys
from pathlib import Path

from core.errors import OperationError, UserError, brief

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
    """The path of a Python. On first use its packages are installed into `build`."""
    if versions is None:
        return sys.executable
    folder = (build / "kaggle-image").absolute()
    python = folder / "bin/python"
    mark = folder / "pins.txt"  # written last, so an interrupted installation is repeated
    if not mark.exists() or mark.read_text(encoding="utf-8") != PINS.read_text(encoding="utf-8"):
        install(folder, base_python())
        shutil.copyfile(PINS, mark)
    print(f"versions {step([python, '-c', SHOW]).strip()}, as in Kaggle's image ({PINS.name})", flush=True)
    return str(python)


def base_python() -> str:
    """Python 3.12 if it is installed, else this one."""
    wanted = shutil.which(PYTHON)
    # it may be a shim without a Python, or Debian's Python without venv
    if wanted and subprocess.run([wanted, "-c", "import venv, ensurepip"], capture_output=True).returncode == 0:
        return wanted
    here = ".".join(map(str, sys.version_info[:2]))
    print(f"{'!' * 20} {PYTHON} not found: running under Python {here}, which differs from Kaggle's image",
          flush=True)
    return sys.executable


def install(folder: Path, base: str) -> None:
    """Makes a new virtual environment with the pinned packages."""
    if folder.exists() and not (folder / "pyvenv.cfg").exists():
        raise UserError(f"{folder}: is not a virtual environment of this program; move it")
    print(f"versions of Kaggle's image: installing them into {folder}, only this once ({SIZE})", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    step([base, "-m", "venv", folder])
    step([folder / "bin/python", "-m", "pip", "install", "-q", "-r", PINS])


def step(command: list[str | Path]) -> str:
    """stdout of a command; OperationError with its last line if it fails."""
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        last = (result.stderr.strip() or result.stdout.strip() or "no message").splitlines()[-1]
        raise OperationError(f"the versions of {PINS.name} cannot be used: {brief(last)}; check network and disk, "
                             f"and that {PYTHON} is installed, or set kernel.versions=null")
    return result.stdout
