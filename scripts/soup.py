"""A soup: one network from several, the mean of their weights.

    python scripts/soup.py infer.weights=[outputs/a/best.pth,outputs/b/best.pth] --out outputs/soup.pth
    python scripts/soup.py infer.weights=[outputs/a/best.pth,outputs/b/best.pth] --all

All are validated on data.val_csv. From the best one on, each is added where the mean is then better than before (greedy
soup, Wortsman et al., 2022); with --all each is, which suits validation images of another kind than the test images.
infer.weights takes the result like any other network, at the cost of one. The statistics of BatchNorm are averaged like
the weights.
"""
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

import torch

from core import checkpoint, cli
from core.config import Config, load_config, select_metric, with_infer, with_predict_size
from core.device import pick_device
from core.errors import UserError
from core.files import written_whole
from core.foreign_weights import bare_weights
from core.outputs import check_file, may_write, no_input
from dataset import ValidationSet
from imaging.pairs import configured_pairs, pairs_source
from inference.ensemble import ensemble
from inference.predictor import Loaded, Predictor, load_model
from inference.torch_backend import live_network
from training.validation import Validator
from training.workers import loader_options

Weights = dict[str, torch.Tensor]


class Soup(NamedTuple):
    """A mean of checkpoints and its measurements."""
    kept: list[Path]
    means: dict[str, float]  # Validation.means()


def soup(cfg: Config, out: Path, keep_all: bool) -> None:
    """Writes the soup of cfg.infer.weights to the file `out`: of all of them, or only of those that lower the error."""
    check_file(out, "--out")
    no_input("--out", out, cfg.infer.checkpoints)
    may_write(out)
    loaded = alike(cfg)
    val_set, metric = ValidationSet(configured_pairs(cfg, "val"), cfg), select_metric(cfg)
    print(f"val     {len(val_set)} images of {pairs_source(cfg, 'val')}; {metric} decides")
    validator = prepare_validator(cfg, loaded, val_set)

    def measured(paths: Sequence[Path]) -> Soup:
        loaded.model.load_state_dict(mean_weights(paths))
        return Soup(list(paths), validator.validate()[0].means())

    singles = sorted((measured([path]) for path in cfg.infer.checkpoints), key=lambda single: single.means[metric])
    best = singles[0]
    print(f"{best.means[metric]:.5f}  {best.kept[0]}, the best alone")
    for single in singles[1:]:
        tried = measured([*best.kept, *single.kept])
        keep = keep_all or tried.means[metric] < best.means[metric]
        print(f"{single.means[metric]:.5f}  {single.kept[0]}: {'kept' if keep else 'left out'}, with it "
              f"{tried.means[metric]:.5f}", flush=True)
        best = tried if keep else best
    save(cfg, best, out)
    print(f"{best.means[metric]:.5f}  {out}: " + (
        f"the mean of {len(best.kept)} of {len(singles)}" if len(best.kept) > 1 else
        f"no mean is better than {best.kept[0]} alone, so it has the weights of that one"))


def alike(cfg: Config) -> Loaded:
    """The first network. UserError unless all are of one architecture, predict the same and see images at one size."""
    paths = cfg.infer.checkpoints
    for path in paths:
        refuse_folds(path)
    if len(paths) < 2:
        raise UserError("infer.weights: a soup needs two checkpoints or more, infer.weights=[a.pth,b.pth]")
    if cfg.infer.shares:
        raise UserError("infer.shares: all checkpoints in a soup count the same; set it to null")
    found = {}
    for path in paths:
        loaded = load_model(with_infer(cfg, weights=path))
        parameters = sum(value.numel() for value in loaded.model.parameters())
        own = found.setdefault((parameters, loaded.density, cfg.infer.tta_sizes or loaded.size), (path, loaded))
        if len(found) > 1:
            raise UserError(f"{path}: differs from {next(iter(found.values()))[0]} in model.variant, model.predicts or "
                            "input size, so their weights have no useful mean; average their alphas instead: `make "
                            "infer` with the same infer.weights")
    return own[1]


def refuse_folds(path: Path) -> None:
    trained = {} if path.is_dir() else checkpoint.load(path).get("config") or {}
    if path.is_dir() or trained.get("data", {}).get("folds"):
        raise UserError(f"{path}: each network of a cross-validation has seen the pictures that the others are "
                        "validated on, so no validation can choose among them; average their alphas instead: "
                        "infer.weights=<the folder of folds>")


def prepare_validator(cfg: Config, loaded: Loaded, val_set: ValidationSet) -> Validator:
    """Of the weights that the network has at each call, in fp32."""
    device = pick_device()
    network = live_network(loaded.model.to(device), cfg.infer.flips, device, "fp32")
    sizes = cfg.infer.tta_sizes or (loaded.size,)
    predict = ensemble([Predictor(network, size, cfg.infer.tile_over, loaded.density) for size in sizes])
    return Validator(predict, val_set, loader_options(cfg, device))


def mean_weights(paths: Sequence[Path]) -> Weights:
    """The mean of checkpoints that fit the same network, one in memory at a time; summed in float64."""
    sums, kinds = {}, {}
    for path in paths:
        for name, value in bare_weights(checkpoint.load(path)).items():
            sums[name] = sums.get(name, 0) + value.double()
            kinds[name] = value.dtype if value.dtype == torch.int64 else torch.float32
    return {name: (total / len(paths)).to(kinds[name]) for name, total in sums.items()}


def save(cfg: Config, best: Soup, out: Path) -> None:
    """With the config of its best checkpoint, whose variant, outputs and size apply."""
    config = checkpoint.load(best.kept[0]).get("config") or with_predict_size(cfg).model_dump(mode="json")
    state = {"model_state": mean_weights(best.kept), "config": config, "metrics": best.means, "parts": len(best.kept)}
    with written_whole(out) as part:
        part.write_bytes(checkpoint.to_bytes(state))


def main() -> None:
    args = cli.parse(__doc__, options={"out": ("", "checkpoint to write; default: soup.pth in train.out_dir"),
                                       "all": (False, "the mean of all, whether it is better or not")})
    cfg = load_config(args.config, args.overrides)
    soup(cfg, Path(args.out) if args.out else cfg.train.out_dir / "soup.pth", args.all)


if __name__ == "__main__":
    cli.run(main)
