"""A pretrained run -> models/u2netp_dense.pth, the half-precision weights in this repository, and their model card.

    python scripts/embed.py train.out_dir=outputs/pretrain data.root=data/pretrain
    python scripts/embed.py train.out_dir=outputs/pretrain data.root=data/pretrain --photographs a/val.csv,b/val.csv

The card's scores are measured with the written file, at the images' own size, against dense alphas made with
config.yaml's settings: on the procedural test set of data.root and on the pairs of each CSV of --photographs.
"""
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

import numpy as np
import torch
from tqdm import tqdm

from core import checkpoint, cli
from core.config import DEFAULTS, EMBEDDED, Config, load_config, load_run
from core.device import hardware
from core.errors import UserError
from core.files import written_whole
from core.outputs import may_write, no_input
from dataset import ValidationSet
from imaging.images import list_images, read_rgb
from imaging.pairs import read_pairs
from inference.half import half_state
from inference.predictor import Predictor, load_predictor
from inference.weights import refuse_several, with_weights
from submission.check import baselines
from submission.submission_csv import read_alphas
from training.metrics import mse
from training.validation import Validator, reference_levels
from u2net import U2Net

LIMIT = 2_500_000  # bytes: small enough to be kept in a repository


@dataclass(frozen=True)
class Score:
    """MSE on [0,1] against dense alphas, of the network and of the best constant; and against the files' alphas."""
    images: str
    value: float
    constant: float
    raw: float | None = None

    @property
    def gain(self) -> float:
        return self.constant / self.value


def embed(run: Config, cfg: Config, out: Path, photographs: Sequence[Path]) -> None:
    """run: whose weights go into the file `out`. cfg: what they are then measured with, config.yaml's own settings."""
    refuse_several(run)
    card = out.with_suffix(".md")
    no_input("--out", out, [run.infer.weights])
    for target in (out, card):
        may_write(target)
    size = save_half(run, out)
    predict = load_predictor(cfg)
    scores = [score_test_set(predict, cfg), *(score_photographs(predict, cfg, each) for each in photographs)]
    with written_whole(card) as part:
        part.write_text(model_card(run, checkpoint.load(out), size, scores), encoding="utf-8")
    for score in scores:
        print(f"{score.images}: {score.value:.5f}, {score.gain:.2f} times better than the best constant "
              f"({score.constant:.5f})")
    print(f"{out}: {size:,} bytes; {card}")


def save_half(run: Config, path: Path) -> int:
    """Writes the network of run.infer.weights in half precision -> size of the file in bytes."""
    model = U2Net(run.model.variant)
    state = checkpoint.load_weights(model, run.infer.weights)
    half = half_state(model)
    # float16 overflows above 65504
    if lost := [name for name, value in half.items() if not value.isfinite().all()]:
        raise UserError(f"{run.infer.weights}: {lost[0]} does not fit half precision; train again")
    kept = {"config": state["config"], "metrics": state["metrics"], "parts": state.get("parts", 1)}
    checkpoint.save(path, {"model_state": in_one_piece(half), **kept})
    size = path.stat().st_size
    if size > LIMIT:
        raise UserError(f"{path}: {size:,} bytes, but at most {LIMIT:,} may go into the repository; use "
                        "model.variant=u2netp, which is small enough")
    return size


def in_one_piece(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tensors as views of one storage per type: hundreds of storages would make the file a tenth larger."""
    kinds = {value.dtype for value in state.values()}
    pieces = {kind: torch.cat([value.flatten() for value in state.values() if value.dtype == kind]) for kind in kinds}
    taken = dict.fromkeys(kinds, 0)
    views = {}
    for name, value in state.items():
        start = taken[value.dtype]
        taken[value.dtype] += value.numel()
        views[name] = pieces[value.dtype][start:taken[value.dtype]].view(value.shape)
    return views


def score_test_set(predict: Predictor, cfg: Config) -> Score:
    """On the procedural test set, whose solution is already dense."""
    truth = {name: alpha for _, name, alpha in read_alphas(cfg.data.solution_csv)}
    errors = [mse(predict([read_rgb(path)])[0], truth[path.stem] / np.float32(255))
              for path in tqdm(list_images(cfg.data.test_dir)[0], "test set", disable=None, leave=False)]
    return Score(f"procedural test set, {len(errors)} images of 1024²", float(np.mean(errors)),
                 baselines(cfg.data.solution_csv)["constant"])


def score_photographs(predict: Predictor, cfg: Config, pairs_csv: Path) -> Score:
    """val_mse_dense of pairs at their own size."""
    val_set = ValidationSet(read_pairs(pairs_csv), cfg)
    result, _ = Validator(predict, val_set).validate()
    constant = reference_levels(val_set, cfg, cfg.train.out_dir / "levels_photographs.json")["constant"]
    means = result.means()
    return Score(f"{len(val_set)} photographs of {pairs_csv.parent.name}/{pairs_csv.name}", means["val_mse_dense"],
                 constant, means["val_mse"])


def model_card(run: Config, state: dict, size: int, scores: list[Score]) -> str:
    facts = {
        "network": f"{run.model.variant}, {size:,} bytes in half precision, keys of the official checkpoints",
        "started from": run.model.weights or "random weights",
        **training_facts(run, state["parts"]),
        "hardware": f"{hardware()}, torch {torch.__version__}",
        "input size": f"{run.infer.size} px, the longer side; mattes are returned at the images' own size",
    }
    if validated := state["metrics"].get("val_mse_dense"):
        facts["checkpoint"] = f"val_mse_dense {validated:.5f} on the validation pairs of the same kinds"
    described = "\n".join(f"| {name} | {fact} |" for name, fact in facts.items())
    rows = "\n".join(f"| {score.images} | {score.value:.5f} | {score.constant:.5f} | {score.gain:.2f}× | "
                     f"{'' if score.raw is None else f'{score.raw:.4f}'} |" for score in scores)
    return f"""# u2netp_dense

Written by `make pretrain`. Every figure is read from the run or measured with the file.

| | |
|---|---|
{described}

MSE on [0,1] at the images' own size, against dense alphas and, last, of the alpha against the files' alphas:

| images | this network | best constant | gain | alpha |
|---|---|---|---|---|
{rows}

For mattes without a download (`infer.weights=embedded`), and to start a training from (`model.weights=embedded`). It
predicts the object's alpha, from which the dense alpha is composed (`model.predicts: alpha`).

The official U²-Net weights by Qin et al. (Apache-2.0), trained further on pictures that anyone may use: scenes
drawn by this repository (MIT), renders of objects (Fluent emoji by Microsoft, MIT, npm package
@lobehub/fluent-emoji-3d) and views of 18 panoramas (Poly Haven, CC0, npm package @pmndrs/assets). No photograph with a
matte was used.

Apache-2.0, like the official weights.
"""


def training_facts(run: Config, parts: int) -> dict[str, str]:
    """parts: of how many trainings' weights the network is the mean."""
    augment, train = run.augment, run.train
    pairs = len(read_pairs(run.data.train_csv, run.data.limit))
    learned = "the files' alphas" if run.model.predicts == "alpha" else "dense targets by xray_alpha_dense"
    loss = ", ".join(f"{name} {weight:g}" for name, weight in run.loss if weight)
    crops = f"{augment.crop} px"
    if augment.final_crop and train.final_epochs:
        crops += f" ({augment.final_crop} px in the last {train.final_epochs} of {train.epochs} epochs)"
    return {
        "data": f"{pairs} pairs of {run.data.size or run.data.synthetic.size} px from {run.data.source}; learns "
                f"{learned}",
        "training": f"{train.epochs * (pairs // train.batch_size)} steps of {train.batch_size} crops of {crops}, "
                    f"AdamW {train.lr:g}, {train.schedule}, EMA {train.ema:g}, loss {loss}, "
                    + (f"seed {run.seed}" if parts == 1 else f"mean of the weights of {parts} seeds"),
    }


def main() -> None:
    args = cli.parse(__doc__, options={"out": (str(EMBEDDED), "file to write; its model card goes beside it"),
                                       "photographs": ("", "pairs CSVs, separated by commas, to score on as well")})
    run = with_weights(load_run(args.config, args.overrides))
    cfg = load_config(DEFAULTS, [f"data.root={run.data.root}", *args.overrides, f"infer.weights={args.out}"])
    embed(run, cfg, Path(args.out), [Path(path) for path in args.photographs.split(",") if path])


if __name__ == "__main__":
    cli.run(main)
