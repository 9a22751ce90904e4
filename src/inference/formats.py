"""infer.precision=auto: a reduced number format only where it was measured for these weights.

The first time, the network runs in the reduced formats, the fastest first, and in fp32 on a few photographs, until one
is exact enough; the mean difference of their alphas is remembered in formats.yaml beside the weights. Measured in
torch, also for OpenVINO: with the official U2NETP both give the same difference to 1 % (docs/benchmarks.md).
"""
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import yaml

from core import ROOT, checkpoint
from core.config import Config
from core.device import DTYPES
from core.errors import OperationError, UserError
from core.files import written_whole
from imaging.images import list_images, read_rgb
from inference.matte_net import MatteNet
from inference.squares import to_square
from u2net import U2Net

GREATEST = 0.001  # mean |difference of alpha| up to which auto uses a format
PICTURES = 4
RULES = 2         # a new number when MatteNet computes differently: all is measured again
LARGEST = 512     # side, pixels, at which a larger network input is measured: a first use should not take minutes
PHOTOGRAPHS = ROOT / "docs/photographs"


def measured_format(cfg: Config, model: U2Net, size: int, fast: Sequence[str], device: torch.device) -> tuple[str, str]:
    """(precision for cfg.infer, note for the description). fast: what the hardware computes in, the fastest first."""
    wanted, side = cfg.infer.precision, min(size, LARGEST)
    if wanted in ("fp32", "int8"):
        return wanted, ""
    if wanted == "auto" and not fast:
        return "fp32", ""
    known = read_measured(cfg.infer.weights)  # hashes the checkpoint
    if wanted != "auto":
        value = known.get(f"{wanted} at {side} px")
        return wanted, f" (measured: {distance(value)})" if value is not None else ""
    refused = []
    for precision in fast:
        key = f"{precision} at {side} px"
        if key not in known:
            rgbs = photographs(cfg)
            if not rgbs:
                return "fp32", f" ({precision} not measured: no images in {PHOTOGRAPHS} or infer.images)"
            known[key] = difference(model, [to_square(rgb, side) for rgb in rgbs], precision, device)
            remember(cfg.infer.weights, known)
        if known[key] <= GREATEST:
            return precision, f" (measured: {'; '.join([distance(known[key]), *refused])})"
        refused.append(f"{precision} {distance(known[key])}, over {GREATEST}")
    return "fp32", f" (measured: {'; '.join(refused)})"


def distance(value: float) -> str:
    return f"mean |Δalpha| {value:.4f}"


def photographs(cfg: Config) -> list[np.ndarray]:
    """The repository's, or where those are absent, as on Kaggle, the first images to predict."""
    folder = PHOTOGRAPHS if PHOTOGRAPHS.is_dir() else cfg.infer.images
    try:
        return [read_rgb(path) for path in list_images(folder)[0][:PICTURES]]
    except UserError:  # infer.py says what is wrong with its images
        return []


@torch.inference_mode()
def difference(model: U2Net, squares: list[np.ndarray], precision: str, device: torch.device) -> float:
    """Mean |alpha in `precision` - alpha in fp32|; infinite if one is not finite."""
    exact, reduced = (MatteNet(model, DTYPES[name]).to(device) for name in ("fp32", precision))
    errors = []
    for square in squares:
        rgb = torch.from_numpy(square)[None].to(device)
        errors.append((exact(rgb) - reduced(rgb)).abs().mean().item())
    mean = float(np.mean(errors))
    return round(mean, 6) if np.isfinite(mean) else float("inf")


def measured_path(weights: Path) -> Path:
    return weights.parent / "formats.yaml"


def read_measured(weights: Path) -> dict[str, float]:
    """What is remembered for this checkpoint; nothing if the file is missing, damaged or another checkpoint's."""
    try:
        values = yaml.safe_load(measured_path(weights).read_text(encoding="utf-8"))
        if values["weights"] == checkpoint.identity(weights) and values["rules"] == RULES:
            return {str(name): float(value) for name, value in values["measured"].items()}
    except (yaml.YAMLError, OSError, KeyError, TypeError, ValueError, AttributeError):
        pass
    return {}


def remember(weights: Path, measured: dict[str, float]) -> None:
    """Writes formats.yaml; without it, if the folder cannot be written to, the next start measures again."""
    try:
        with written_whole(measured_path(weights)) as part:
            values = {"weights": checkpoint.identity(weights), "rules": RULES, "measured": measured}
            part.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    except (OSError, OperationError, UserError):
        pass
