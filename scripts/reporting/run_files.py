"""A run folder's measurements, read and checked."""
import io
import json
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import BaseModel, Field, FiniteFloat

from core import checkpoint
from core.config import Config
from core.errors import UserError, brief

CURVES = ["epoch", "train_mse", "val_mse", "val_mse_dense"]
PER_LEVEL = Field(min_length=256, max_length=256)  # one value per 8-bit level


class Image(BaseModel):
    image: str
    family: str = ""
    val_mse: FiniteFloat
    val_mse_dense: FiniteFloat


class Validation(BaseModel):
    """What the pages need of validation.json; it holds more."""
    epoch: int
    images: list[Image]
    histograms: dict[str, Annotated[list[int], PER_LEVEL]]
    target_sums: Annotated[list[FiniteFloat], PER_LEVEL]


class Levels(BaseModel):
    floor: FiniteFloat
    constant: FiniteFloat
    zero: FiniteFloat


def read_run(out_dir: Path) -> dict:
    """What training wrote: `history` (metrics.csv, a row per epoch), `validation` of the best epoch, `levels`."""
    try:
        # as text first, so that nan and inf become numbers and an empty cell is an error
        history = pd.read_csv(io.StringIO(run_file(out_dir / "metrics.csv")), dtype=str, na_filter=False,
                              index_col=False).astype(float)
        check_history(history)
        run = {"history": history, "validation": json.loads(run_file(out_dir / "validation.json")),
               "levels": json.loads(run_file(out_dir / "levels.json"))}
        if (out_dir / "levels_official.json").exists():
            run["levels"] |= json.loads(run_file(out_dir / "levels_official.json"))
        Validation.model_validate(run["validation"])
        Levels.model_validate(run["levels"])
    except (ValueError, TypeError) as error:
        raise UserError(f"{out_dir}: metrics.csv, validation.json or levels.json is damaged ({brief(error)}); train "
                        "again") from None
    if history.empty or not run["validation"]["images"]:
        raise UserError(f"{out_dir}: no epoch is finished yet; continue with `make train`")
    return run


def check_history(history: pd.DataFrame) -> None:
    """ValueError if a column is missing or an epoch is not a number; errors may be NaN."""
    missing = [name for name in CURVES if name not in history]
    if missing:
        raise ValueError(f"metrics.csv has no {', '.join(missing)}")
    if not np.isfinite(history["epoch"]).all():
        raise ValueError("metrics.csv has a row without an epoch")


def run_file(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path}: no such file; `make train` writes it after each epoch") from None


def check_weights(validation: dict, cfg: Config) -> None:
    """UserError if the numbers were measured with other weights than those that the page is about."""
    if validation.get("weights") not in (None, *checkpoint.identity(cfg.infer.weights).values()):
        raise UserError(f"{cfg.train.out_dir / 'validation.json'}: was measured with other weights, not "
                        f"{cfg.infer.weights}; run the same training command again, which validates best.pth, or leave "
                        "infer.weights out")
