"""config.yaml + `key=value` overrides -> one typed, frozen Config, and values derived from its settings.

A file given with --config may set any subset of the keys; config.yaml supplies the rest.
"""
import json
import math
from collections.abc import Mapping
from pathlib import Path

import yaml
from pydantic import ValidationError

from core import DEFAULTS, ROOT
from core.errors import UserError
from core.schema import Config, Infer, Loss
from core.values import explained, merged, parsed_override, read_values

EMBEDDED = ROOT / "models/u2netp_dense.pth"  # part of the repository; its model card is beside it

OFFICIAL_SIZE = 320  # pixels, of the squares that the official weights were trained on

MSE_ALONE = Loss(**dict.fromkeys(Loss.model_fields, 0) | {"base": 1})

# What `auto` means in train: a low learning rate to fine-tune trained weights, a high one from scratch.
RECIPES = {"weights": {"lr": 5e-5, "warmup": 0.0, "schedule": "plateau", "batchnorm": "frozen"},
           "nothing": {"lr": 1e-3, "warmup": 0.05, "schedule": "cosine", "batchnorm": "trained"}}


def load_config(path: str | Path = "config.yaml", overrides=()) -> Config:
    """Reads `path`, applies `key=value` overrides and fills in values that follow from other keys.

    Texts and paths are taken literally (null: none), other values are YAML. UserError names the file or key, the value
    and what is allowed.
    """
    values = read_values(DEFAULTS) if DEFAULTS.exists() else {}
    if Path(path).resolve() != DEFAULTS:
        values = merged(values, read_values(path))
    for override in overrides:
        values = merged(values, parsed_override(override))
    try:
        cfg = Config.model_validate(values)
    except ValidationError as error:
        raise UserError(explained(error)) from None
    return _follow(cfg)


def load_run(path: str | Path, overrides=()) -> Config:
    """The config of the run in train.out_dir plus overrides; infer.weights and infer.submission are the run's own.

    UserError if there is no run, or if it is from another version with other keys.
    """
    out_dir = load_config(path, overrides).train.out_dir
    saved = out_dir / "config.yaml"
    if not saved.exists():
        raise UserError(f"{out_dir}: is not a run folder (it has no config.yaml); set train.out_dir to one, or run "
                        "`make train` first")
    own = {"train.out_dir": out_dir, "infer.weights": out_dir / "best.pth", "infer.shares": None,
           "infer.submission": out_dir / "submission.csv"}
    try:
        return load_config(saved, [*as_overrides(own), *overrides])
    except UserError as error:  # the overrides were checked above, so it is the run's file, from another version
        raise UserError(f"{saved}: {error}") from None


def with_infer(cfg: Config, **values: object) -> Config:
    """cfg with other values in its section infer."""
    return cfg.model_copy(update={"infer": cfg.infer.model_copy(update=values)})


def nothing_trained(cfg: Config) -> bool:
    """Whether infer.weights is the best.pth of a run that was never started."""
    best, run = cfg.infer.weights, cfg.train.out_dir
    return best == run / "best.pth" and not best.exists() and not (run / "config.yaml").exists()


def as_overrides(values: Mapping[str, object]) -> list[str]:
    """{"section.key": value} -> key=value as load_config() takes them; texts and paths may hold any character."""
    return [f"{key}={_written(value)}" for key, value in values.items()]


def _written(value: object) -> str:
    if isinstance(value, tuple | list) and any(isinstance(each, str | Path) for each in value):
        texts = [str(each) if isinstance(each, Path) else each for each in value]
        return yaml.safe_dump(texts, default_flow_style=True, width=math.inf).strip()
    return str(value) if isinstance(value, str | Path) else json.dumps(value)


def flat(values: dict, prefix: str = "") -> dict[str, object]:
    """Nested sections -> {"section.key": value}."""
    pairs = {}
    for key, value in values.items():
        pairs |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return pairs


def dump_config(cfg: Config) -> str:
    """The resolved config as YAML, readable by `--config`."""
    return yaml.safe_dump(cfg.model_dump(mode="json"), sort_keys=False)


def select_metric(cfg: Config) -> str:
    """The metrics.csv column that best.pth is chosen by."""
    if cfg.train.select_by != "auto":
        return cfg.train.select_by
    return "val_mse_dense" if cfg.augment.xray_p > 0 else "val_mse"


def official_weights(variant: str) -> Path:
    """Where `make weights` puts the official weights of a model.variant."""
    return Path("weights") / f"{variant}.pth"


def named_weights(weights: Path | None, variant: str) -> Path | None:
    """Resolves `official` and `embedded`; any other path, or None, is returned unchanged."""
    return {Path("official"): official_weights(variant), Path("embedded"): EMBEDDED}.get(weights, weights)


def sample_submission(cfg: Config) -> Path | None:
    """data.sample_submission; if null and the test folder is predicted, the one found beside that, if any."""
    if cfg.data.sample_submission or cfg.infer.images != cfg.data.test_dir:
        return cfg.data.sample_submission
    folders = (cfg.data.test_dir.parent, cfg.data.root)
    found = (folder / f"{kind}_submission.csv" for folder in folders for kind in ("sample", "example"))
    return next((path for path in found if path.exists()), None)


def in_epoch(cfg: Config, epoch: int) -> Config:
    """The settings of this epoch (from 0): the final phase has its own crop and loss."""
    if epoch < cfg.train.epochs - cfg.train.final_epochs:
        return cfg
    augment = cfg.augment.model_copy(update={"crop": cfg.augment.final_crop or cfg.augment.crop})
    loss = MSE_ALONE if cfg.train.final_loss == "mse" else cfg.loss
    return cfg.model_copy(update={"augment": augment, "loss": loss})


def predict_size(cfg: Config, trained_size: int | None = None) -> int:
    """Longer side in pixels at which the network sees whole images. trained_size: infer.size in a checkpoint's config.
    """
    return cfg.infer.size or cfg.data.size or trained_size or OFFICIAL_SIZE


def predict_sizes(cfg: Config) -> tuple[int, ...]:
    """The sizes in infer.tta, else predict_size()."""
    return cfg.infer.tta_sizes or (predict_size(cfg),)


def with_predict_size(cfg: Config) -> Config:
    """infer.size filled in, unless infer.tta has sizes, so that a checkpoint with this config is used as validated."""
    return cfg if cfg.infer.tta_sizes else with_infer(cfg, size=predict_size(cfg))


def _follow(cfg: Config) -> Config:
    """Fills in null values that follow from other keys."""
    data, model, infer = cfg.data, cfg.model, cfg.infer
    if data.fold is not None and data.fold >= (data.folds or 0):
        raise UserError(f"data.fold={data.fold}: " + (f"should be 0 to {data.folds - 1}, as data.folds={data.folds}"
                                                      if data.folds else "needs data.folds, the number of folds"))
    if infer.size and infer.tta_sizes:
        raise UserError(f"infer.size={infer.size}: infer.tta has sizes of its own; set infer.size=null, or leave them "
                        "out of infer.tta")
    if infer.shares and len(infer.shares) != len(infer.checkpoints):
        raise UserError(f"infer.shares: {len(infer.shares)} shares for {len(infer.checkpoints)} of infer.weights; give "
                        "one for each checkpoint or folder of folds, or null")
    test_set = data.root / "test_dataset"
    data = data.model_copy(update={
        "train_csv": data.train_csv or data.root / "splits/train.csv",
        "val_csv": data.val_csv or data.root / "splits/val.csv",
        "test_dir": data.test_dir or test_set / "orig_1024",
        "solution_csv": data.solution_csv or test_set / "solution.csv",
    })
    model = model.model_copy(update={"weights": named_weights(model.weights, model.variant)})
    recipe = RECIPES["weights" if model.weights else "nothing"]
    train = cfg.train.model_copy(update={
        key: value for key, value in recipe.items() if getattr(cfg.train, key) == "auto"})
    infer = infer.model_copy(update={
        "images": infer.images or data.test_dir,
        "weights": _resolved_weights(infer, model.variant) or cfg.train.out_dir / "best.pth",
        "submission": infer.submission or cfg.train.out_dir / "submission.csv",
    })
    return cfg.model_copy(update={"data": data, "model": model, "train": train, "infer": infer})


def _resolved_weights(infer: Infer, variant: str) -> Path | tuple[Path, ...] | None:
    """A list of one is that one."""
    paths = tuple(named_weights(path, variant) for path in infer.checkpoints)
    return paths if len(paths) > 1 else paths[0]
