"""Which weights a command uses: the run's own, or the bundled ones while nothing is trained there."""
from collections.abc import Sequence
from pathlib import Path

from core.config import EMBEDDED, Config, load_config, load_run, nothing_trained
from core.errors import UserError
from core.folds import fold_folder


def with_weights(cfg: Config) -> Config:
    """cfg, with the bundled weights in place of best.pth if nothing is trained there yet; prints a line if so.

    UserError if a training has not finished its first epoch, or if the folder holds folds.
    """
    run, weights = cfg.train.out_dir, cfg.infer.weights
    if nothing_trained(cfg):
        if fold_folder(run, 0).is_dir():
            raise UserError(f"{run}: holds a cross-validation; use its mean with infer.weights={run}")
        print(f"{run}: no trained model there yet; using the bundled weights (infer.weights=embedded)", flush=True)
        return cfg.model_copy(update={"infer": cfg.infer.model_copy(update={"weights": EMBEDDED})})
    if weights == run / "best.pth" and not (weights.exists() or (run / "metrics.csv").exists()):
        raise UserError(f"{weights}: does not exist yet, the training in {run} has not finished its first epoch; wait "
                        "for it, or use other weights, for example infer.weights=embedded")
    return cfg


def refuse_several(cfg: Config) -> None:
    """UserError unless infer asks for one network that sees images at one size."""
    if len(cfg.infer.checkpoints) > 1:
        raise UserError(f"infer.weights: names {len(cfg.infer.checkpoints)}, but this command is about one network; "
                        "run it for each")
    if cfg.infer.tta_sizes:
        raise UserError(f"infer.tta={list(cfg.infer.tta)}: this command is about one size; set infer.size, and "
                        "infer.tta to none or flip")


def run_with_weights(path: str | Path, overrides: Sequence[str]) -> Config:
    """The config of the run in train.out_dir; if nothing is trained there yet, the given one with the bundled weights.

    path, overrides: as in load_config().
    """
    cfg = load_config(path, overrides)
    return with_weights(load_run(path, overrides) if (cfg.train.out_dir / "config.yaml").exists() else cfg)
