"""Removes what `kernel.py` has put into build/, and nothing else there; needs no virtual environment.

    python scripts/clean.py
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from core import cli
from core.errors import UserError
from core.files import remove, remove_folder

BUILD = Path("build")


def clean(build: Path) -> None:
    """`build` itself goes too, if nothing is left in it."""
    for act, path in ((remove_folder, build / "kernel"), (remove_folder, build / "dataset"),
                      (remove_folder, build / "output"), (remove, build / "executed.ipynb"),
                      (remove, build / "kernel-test.json"), (remove_folder, build)):
        try:
            act(path)
        except UserError as error:
            print(f"kept    {error}")


def main() -> None:
    cli.parse(__doc__)
    clean(BUILD)


if __name__ == "__main__":
    cli.run(main)
