"""What `make tune` chose, in postprocess.yaml: post-processing, sizes, mirroring, and the shares of an ensemble.

    cfg = with_tuned(cfg, load_tuned(cfg))      # infer.postprocess=tuned
"""
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import yaml

from core.config import Config, with_infer
from core.errors import UserError, brief
from core.files import written_whole
from core.folds import weights_identity
from core.schema import Infer
from inference.postprocess import NONE, Setting, apply

KEYS = ("size", "tile_over", "shares")  # of infer, in postprocess.yaml; null: as configured


class Tuned(NamedTuple):
    """What `make tune` chose for these weights. None: as configured."""
    setting: Setting
    size: int | None = None       # longer side of the network's input; None: as trained
    tile_over: int | None = None  # tiles add detail to images over this size
    tta: str | tuple[str | int, ...] | None = None  # as infer.tta
    shares: tuple[float, ...] | None = None         # as infer.shares


NOT_TUNED = Tuned(NONE)


def tuned_path(cfg: Config) -> Path:
    """postprocess.yaml beside a checkpoint; in a folder of folds; for several of them in train.out_dir."""
    first, *more = cfg.infer.checkpoints
    return (cfg.train.out_dir if more else first if first.is_dir() else first.parent) / "postprocess.yaml"


def load_tuned(cfg: Config) -> Tuned:
    """What `make tune` chose for infer.weights. UserError if there is nothing, or it is for other weights."""
    path, weights = tuned_path(cfg), cfg.infer.named_weights
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        setting = Setting(values["name"], values["parameters"])
        trial = apply(setting, np.zeros((8, 8, 3), np.uint8), np.full((8, 8), 0.5, np.float32))
        if not np.isfinite(trial).all():
            raise ValueError("its parameters are not finite")
        infer = Infer.model_validate({**cfg.infer.model_dump(), **{key: values.get(key) for key in KEYS},
                                      "tta": values.get("tta") or "none"})
        if infer.shares and len(infer.shares) != len(infer.checkpoints):
            raise ValueError("it has not one share for each of infer.weights")
        tuned_for = values["weights"]
    except FileNotFoundError:
        raise UserError(f"{path}: no tuned post-processing for {weights}; run `make tune`, or set "
                        "infer.postprocess=none") from None
    except (yaml.YAMLError, OSError, KeyError, TypeError, ValueError, AttributeError, cv2.error) as error:
        raise UserError(f"{path}: holds no valid post-processing ({brief(error)}); run `make tune` again") from None
    if tuned_for != weights_identity(cfg.infer.checkpoints):
        raise UserError(f"{path}: was tuned for another checkpoint, not {weights}; run `make tune` again, or set "
                        "infer.postprocess=none")
    return Tuned(setting, infer.size, infer.tile_over, infer.tta if values.get("tta") else None, infer.shares)


def save_tuned(path: Path, identity: dict | list, tuned: Tuned, evidence: dict) -> None:
    with written_whole(path) as part:
        part.write_text(tuned_text(identity, tuned, evidence), encoding="utf-8")


def tuned_text(identity: dict | list, tuned: Tuned, evidence: dict) -> str:
    """What load_tuned() reads. identity: weights_identity() of what it was chosen for."""
    setting, *ways = tuned
    values = {"name": setting.name, "parameters": setting.parameters,
              **{key: list(value) if isinstance(value, tuple) else value
                 for key, value in zip(tuned._fields[1:], ways, strict=True)},
              "weights": identity, "evidence": evidence}
    return yaml.safe_dump(values, sort_keys=False)


def with_tuned(cfg: Config, tuned: Tuned) -> Config:
    """The sizes and mirroring that were tuned, unless a size is set; the shares, unless they are set."""
    if tuned.shares and not cfg.infer.shares:
        cfg = with_infer(cfg, shares=tuned.shares)
    if cfg.infer.size or cfg.infer.tta_sizes:
        return cfg
    return with_infer(cfg, size=tuned.size, tile_over=tuned.tile_over or cfg.infer.tile_over,
                      tta=tuned.tta or cfg.infer.tta)
