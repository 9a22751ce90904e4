"""What each backend and number format costs a run: MSE on the validation set, distance from fp32, time.

    python scripts/precision.py train.out_dir=outputs/u2netp

Also measures int8's ranges on training images, and keeps them beside the weights for infer.precision=int8 if the MSE
rises by less than 1 %. Writes the table to precision.json in the run folder.
"""
import json
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

import numpy as np
import torch
from tqdm import tqdm

from core import checkpoint, cli
from core.config import Config, select_metric, with_infer
from core.device import hardware, pick_device
from core.files import remove, written_whole
from core.outputs import check_folder, may_write
from dataset import ValidationSet
from imaging.pairs import configured_pairs, pairs_source, read_pair
from inference.int8 import Ranges, measure_ranges, ranges_path, save_ranges
from inference.matte_net import MatteNet
from inference.openvino_backend import CAPABILITIES, OpenvinoNetwork, available, capabilities
from inference.predictor import Loaded, Predictor, load_model, single_predictor
from inference.squares import to_square
from inference.torch_backend import live_network
from inference.weights import refuse_several, run_with_weights
from training import metrics
from u2net import U2Net

CALIBRATION = 8     # training images that the ranges are measured on
MOST_GROWTH = 0.01  # int8 is kept if the MSE grows by less
EXACT, INT8 = "fp32, as trained", "int8, openvino"


def compare(cfg: Config) -> None:
    """cfg: the run's."""
    refuse_several(cfg)
    path = cfg.train.out_dir / "precision.json"
    for target in (path, ranges_path(cfg.infer.weights)):
        check_folder(target.parent, "make it writable, or work on a copy of it")
        may_write(target)
    val_set = ValidationSet(configured_pairs(cfg, "val"), cfg)
    identity = checkpoint.identity(cfg.infer.weights)  # first, because a running training may replace the file
    model, size, density = loaded = load_model(cfg)
    device, metric = pick_device(), select_metric(cfg)
    machine = hardware()
    print(f"val     {len(val_set)} images of {pairs_source(cfg, 'val')} with {cfg.infer.weights}: {size} px, tta "
          f"{cfg.infer.flips}, {machine}")
    ranges = int8_ranges(cfg, model, size) if computes("int8", device) else None
    exact = Predictor(live_network(model.to(device), cfg.infer.flips, device, "fp32"), size, cfg.infer.tile_over,
                      density)
    rows = measure({EXACT: exact, **backends(cfg, loaded, device, ranges)}, val_set, metric)
    print("\n".join(table(rows, metric)))
    if ranges is not None:
        keep_or_drop(cfg, identity, ranges, rows[INT8]["change"])
    with written_whole(path) as part:
        part.write_text(json.dumps({"machine": machine, "metric": metric, "images": len(val_set), "size": size,
                                    "tta": cfg.infer.flips, "rows": rows}, indent=1))
    print(path)


def backends(cfg: Config, loaded: Loaded, device: torch.device, ranges: Ranges | None) -> dict[str, Predictor]:
    """A predictor for each backend and number format that this machine computes in."""
    wanted = [("torch", precision) for precision in ("fp32", "bf16", "fp16") if computes(precision, device)]
    if device.type == "cpu" and available():
        wanted += [("openvino", precision) for precision in CAPABILITIES if computes(precision, device)]
    model, size, density = loaded
    found = {}
    for backend, precision in wanted:
        own = with_infer(cfg, backend=backend, precision=precision)
        found[f"{precision}, {backend}"] = single_predictor(own, loaded) if precision != "int8" else Predictor(
            OpenvinoNetwork(model, size, own.infer, ranges), size, own.infer.tile_over, density)
    return found


def computes(precision: str, device: torch.device) -> bool:
    """Whether the hardware computes in it, without emulation."""
    if device.type == "cuda":
        return precision in ("fp32", "fp16") or (
            precision == "bf16" and torch.cuda.is_bf16_supported(including_emulation=False))
    return precision == "fp32" or (available() and CAPABILITIES[precision] in capabilities())


def int8_ranges(cfg: Config, model: U2Net, size: int) -> Ranges:
    pairs = configured_pairs(cfg, "train")
    chosen = np.linspace(0, len(pairs) - 1, min(CALIBRATION, len(pairs)), dtype=int)
    squares = (torch.from_numpy(to_square(read_pair(pairs[i])[0], size))[None]
               for i in tqdm(chosen, "ranges", disable=None, leave=False))
    return measure_ranges(MatteNet(model), squares)


def measure(predictors: dict[str, Predictor], val_set: ValidationSet, metric: str) -> dict[str, dict[str, float]]:
    """By predictor: distance from EXACT's alpha, MSE, its relative change, seconds per image.

    Each gets the same images in full batches of its own size, as in inference: a GPU takes as long for one image as for
    the batch that it was prepared for. Images are repeated to fill the last batches.
    """
    found = {name: [] for name in predictors}
    together = math.lcm(*(predict.batch_size for predict in predictors.values()))
    starts = range(0, len(val_set), together)
    warm_up(predictors, val_set[0][0])
    for start in tqdm(starts, "comparing", disable=None, leave=False):
        rgbs, alphas, denses = zip(*(val_set[i % len(val_set)] for i in range(start, start + together)), strict=True)
        truths = (denses if metric == "val_mse_dense" else alphas)[:len(val_set) - start]
        preds = {name: predict(list(rgbs)) for name, predict in predictors.items()}
        for name in predictors:
            for pred, exact, truth in zip(preds[name], preds[EXACT], truths, strict=False):  # drops the repeated ones
                error = np.abs(pred - exact)
                found[name].append((error.mean(), error.max(), metrics.mse(pred, truth)))
    images = len(starts) * together
    return {name: summary(np.array(values), np.array(found[EXACT]), predictors[name].seconds / images)
            for name, values in found.items()}


def summary(values: np.ndarray, exact: np.ndarray, seconds: float) -> dict[str, float]:
    """values, exact: (images,3), mean and greatest distance from EXACT's alpha, and MSE."""
    mean, _, mse = values.mean(0).tolist()
    return {"mean_error": mean, "max_error": float(values[:, 1].max()), "mse": mse,
            "change": float(mse / exact[:, 2].mean() - 1), "seconds": seconds}


def warm_up(predictors: dict[str, Predictor], rgb: np.ndarray) -> None:
    """Runs the first batch, which also pays for what a library chooses or allocates once."""
    for predict in predictors.values():
        predict([rgb] * predict.batch_size)
        predict.seconds = 0.0


def table(rows: dict[str, dict[str, float]], metric: str) -> list[str]:
    lines = [f"{'':18}{'mean |Δ|':>10}{'max |Δ|·255':>13}{metric:>15}{'change':>10}{'s/image':>9}"]
    return lines + [f"{name:18}{row['mean_error']:10.6f}{row['max_error'] * 255:13.2f}{row['mse']:15.6f}"
                    f"{row['change']:+10.3%}{row['seconds']:9.2f}" for name, row in rows.items()]


def keep_or_drop(cfg: Config, identity: dict[str, str], ranges: Ranges, change: float) -> None:
    path = ranges_path(cfg.infer.weights)
    if change >= MOST_GROWTH:
        remove(path)
        print(f"int8    raises the MSE by {change:.2%}, {MOST_GROWTH:.0%} or more: not made available as "
              "infer.precision=int8")
        return
    save_ranges(cfg.infer.weights, identity, ranges, change)
    print(f"int8    {path}; infer.precision=int8 applies it")


def main() -> None:
    args = cli.parse(__doc__)
    compare(run_with_weights(args.config, args.overrides))


if __name__ == "__main__":
    cli.run(main)
