"""A cross-validation on disk: a folder with fold_0, fold_1, …, each an ordinary run folder.

    weights = fold_weights(Path("outputs/u2netp"))       # best.pth of every fold, all of them finished
"""
import shlex
from collections.abc import Sequence
from pathlib import Path

from core import checkpoint
from core.config import load_config
from core.errors import UserError
from core.schema import Infer


def fold_folder(folder: Path, fold: int) -> Path:
    return folder / f"fold_{fold}"


def saved_progress(run: Path) -> dict:
    """The plain values of training.run_state.Progress in a run's last.pth; empty if there is none to read."""
    try:
        return checkpoint.load(run / "last.pth").get("progress", {})
    except checkpoint.Damaged:
        return {}


def fold_weights(folder: Path) -> list[Path]:
    """best.pth of each fold. UserError names a fold that is missing or unfinished, and the command that finishes it."""
    saved = sorted(folder.glob("fold_*/config.yaml"))
    if not saved:
        raise UserError(f"{folder}: holds no folds; train them with `make folds`")
    cfg = load_config(saved[0])
    runs = [fold_folder(folder, fold) for fold in range(cfg.data.folds or 0)]
    for run in runs:
        if lack := what_lacks(run, cfg.train.epochs):
            raise UserError(f"{run}: {lack}; finish it with: {finishing(folder, saved[0])}")
    return [run / "best.pth" for run in runs]


def weighted_checkpoints(infer: Infer) -> list[tuple[Path, float]]:
    """Each file of infer.weights with its share in the mean; folds divide their folder's. Without shares of 0."""
    found = []
    for entry, share in zip(infer.checkpoints, infer.shares or (1.0,) * len(infer.checkpoints), strict=True):
        paths = fold_weights(entry) if entry.is_dir() else [entry]
        found += [(path, share / len(paths)) for path in paths if share > 0]
    return found


def weights_identity(entries: Sequence[Path]) -> dict[str, str] | list:
    """checkpoint.identity() of one file; for a folder of folds, or several entries, the list of theirs."""
    found = [[checkpoint.identity(path) for path in fold_weights(entry)] if entry.is_dir()
             else checkpoint.identity(entry) for entry in entries]
    return found if len(found) > 1 else found[0]


def finishing(folder: Path, config: Path) -> str:
    """The command that trains what is missing; config: that of any of the folds."""
    return shlex.join(["python", "scripts/folds.py", "--config", str(config), f"train.out_dir={folder}"])


def what_lacks(run: Path, epochs: int) -> str | None:
    """Why a fold's run cannot be used yet; None if it can."""
    done = saved_progress(run).get("epoch")
    if done is None:
        return "is missing" if not (run / "last.pth").exists() else "has a damaged last.pth"
    if done < epochs:
        return f"is unfinished, {done} of {epochs} epochs are trained"
    return None if (run / "best.pth").exists() else "has lost its best.pth (move the folder away first)"
