"""What is each augmentation, loss term and option worth? One change at a time, the same budget, several seeds.

    python scripts/ablate.py --budget 300 --seeds 3 data.size=256 augment.crop=128
    python scripts/ablate.py --budget 300 --factors edge,ema

Each cell (change × seed) is a training of its own in outputs/ablate/. Finished cells are skipped, so after an
interruption the same command resumes. Results: ablation.csv, ablation.png and a line per factor.
"""
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import SymmetricalLogLocator
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from core import cli
from core.config import Config, load_config
from core.errors import OperationError, UserError
from core.files import written_whole
from core.outputs import check_folder, may_write
from core.redact import without_secrets
from core.seeds import Purpose, generator
from imaging.pairs import configured_pairs

TRAIN = Path(__file__).resolve().parent.parent / "src/train.py"
BASELINE = "baseline"
RESAMPLES = 10_000
LINEAR = 10  # percent; the picture's scale is linear up to this


@dataclass(frozen=True)
class Factor:
    """One thing under test: overrides that remove it from the baseline, or add it."""
    name: str
    change: tuple[str, ...]
    adds: bool = False


@dataclass(frozen=True)
class Effect:
    """MSE with the factor minus MSE without it, negative if it helps: mean and 95 % interval over seeds × images."""
    factor: str
    mean: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        return "helps" if self.high < 0 else "hurts" if self.low > 0 else "no evidence"


def factors(cfg: Config) -> list[Factor]:
    """All factors; sizes follow augment.crop, the final phase follows train.epochs."""
    final = max(1, cfg.train.epochs // 4)
    larger = f"augment.final_crop={cfg.augment.crop * 3 // 2}"
    return [
        Factor("composed", ("model.predicts=dense",)),
        Factor("frozen_batchnorm", ("train.batchnorm=trained",)),
        Factor("scale", ("augment.scale=[1,1]",)),
        Factor("rotate", ("augment.rotate_p=0",)),
        Factor("colour", ("augment.color_p=0",)),
        Factor("background", ("augment.background_p=0.3",), adds=True),
        *(Factor(term, (f"loss.{term}=0",)) for term in ("object", "thin", "edge")),
        Factor("background_term", ("loss.background=0",)),
        Factor("mse_alone", tuple(f"loss.{term}=0" for term in ("object", "thin", "edge", "background")), adds=True),
        Factor("sides", ("loss.sides=0",)),
        Factor("ema", ("train.ema=0.99",), adds=True),
        Factor("larger_crop_at_end", (f"train.final_epochs={final}", larger), adds=True),
        Factor("mse_at_end", (f"train.final_epochs={final}", "train.final_loss=mse"), adds=True),
    ]


@dataclass(frozen=True)
class Study:
    """A baseline and the factors under test, each trained once per seed."""
    arguments: list[str]  # of train.py, the same for every training
    cfg: Config           # what they amount to
    pairs: int
    factors: list[Factor]
    seeds: range

    def cells(self) -> list[tuple[str, tuple[str, ...], int]]:
        """(name, change, seed) of each training."""
        changes = [(BASELINE, ()), *((factor.name, factor.change) for factor in self.factors)]
        return [(name, change, seed) for seed in self.seeds for name, change in changes]


def plan(config: str, overrides: list[str], steps: int, wanted: set[str], seeds: int) -> Study:
    """steps: of each training. wanted: names of factors; empty: all."""
    cfg = load_config(config, overrides)
    pairs = len(configured_pairs(cfg, "train"))
    overrides = [*overrides, f"train.epochs={max(1, round(steps / max(1, pairs // cfg.train.batch_size)))}"]
    cfg = load_config(config, overrides)
    arguments = ["--config", config, *overrides, "train.select_by=val_mse_dense"]
    return Study(arguments, cfg, pairs, chosen_factors(cfg, wanted), range(cfg.seed, cfg.seed + seeds))


def chosen_factors(cfg: Config, wanted: set[str]) -> list[Factor]:
    known = factors(cfg)
    if unknown := wanted - {factor.name for factor in known}:
        raise UserError(f"--factors: no {', '.join(sorted(unknown))}; known: "
                        f"{', '.join(factor.name for factor in known)}")
    return [factor for factor in known if not wanted or factor.name in wanted]


def ablate(study: Study, out_dir: Path) -> None:
    """Trains what is missing in out_dir; writes ablation.csv and ablation.png and prints the effects."""
    table, picture, epochs = out_dir / "ablation.csv", out_dir / "ablation.png", study.cfg.train.epochs
    for target in (table, picture):
        may_write(target)
    cells = study.cells()
    print(f"{len(cells)} trainings of {epochs} epochs on {study.pairs} pairs, into {out_dir}")
    errors = {(name, seed): train_cell(out_dir / f"{name}-{seed}", [*study.arguments, *change, f"seed={seed}"])
              for name, change, seed in tqdm(cells, "ablation", unit="cell", disable=None)}

    effects = [effect_of(factor, errors, study.seeds) for factor in study.factors]
    baseline = np.mean([list(errors[name, seed].values()) for name, seed in errors if name == BASELINE])
    write_csv(table, errors)
    draw(picture, effects, baseline, f"{epochs} epochs, {len(study.seeds)} seeds")
    print(f"baseline val_mse_dense {baseline:.4f}")
    for effect in sorted(effects, key=lambda effect: effect.mean):
        print(f"{effect.factor:<20} {effect.verdict:<12} {effect.mean:+.5f}  [{effect.low:+.5f}, {effect.high:+.5f}]")
    print(f"{table}, {picture}")


def train_cell(folder: Path, arguments: list[str]) -> dict[str, float]:
    """Trains, resumes or, if it is finished, only reads -> {image: val_mse_dense} of the best epoch."""
    command = [*arguments, f"train.out_dir={folder}", "train.samples=0"]
    known = [without_secrets(word) for word in command]  # written to a file below
    done = folder / "cell.json"  # the arguments, written after the last epoch
    if not done.exists() or json.loads(done.read_text(encoding="utf-8")) != known:
        result = subprocess.run([sys.executable, TRAIN, *command], stdout=subprocess.DEVNULL,
                                stderr=subprocess.PIPE, text=True)
        if result.returncode:
            raise OperationError(f"{folder}: {result.stderr.strip().splitlines()[-1].removeprefix('error: ')}")
        with written_whole(done) as part:
            part.write_text(json.dumps(known), encoding="utf-8")
    images = json.loads((folder / "validation.json").read_text(encoding="utf-8"))["images"]
    return {row["image"]: row["val_mse_dense"] for row in images}


def effect_of(factor: Factor, errors: dict, seeds: range) -> Effect:
    """Paired by seed and image; the interval by resampling both (a bootstrap over two crossed factors).

    errors: {(name, seed): {image: MSE}}.
    """
    pairs = [(errors[factor.name, seed], errors[BASELINE, seed]) for seed in seeds]
    gain = np.array([[changed[image] - base[image] for image in base] for changed, base in pairs])
    gain = gain if factor.adds else -gain
    rng = generator(seeds[0], Purpose.ABLATION)
    drawn_seeds = rng.integers(gain.shape[0], size=(RESAMPLES, gain.shape[0], 1))
    drawn_images = rng.integers(gain.shape[1], size=(RESAMPLES, 1, gain.shape[1]))
    low, high = np.quantile(gain[drawn_seeds, drawn_images].mean((1, 2)), (0.025, 0.975))
    return Effect(factor.name, float(gain.mean()), float(low), float(high))


def write_csv(path: Path, errors: dict) -> None:
    """One row per training and image."""
    rows = [(name, seed, image, value) for (name, seed), row in errors.items() for image, value in row.items()]
    with written_whole(path) as part:
        pd.DataFrame(rows, columns=["cell", "seed", "image", "val_mse_dense"]).to_csv(
            part, index=False, lineterminator="\n")


def draw(path: Path, effects: list[Effect], baseline: float, title: str) -> None:
    """The effects with their intervals, best first, in percent of the baseline's error."""
    ranked = sorted(effects, key=lambda effect: -effect.mean)
    colors = {"helps": "tab:green", "hurts": "tab:red", "no evidence": "tab:gray"}
    figure = Figure(figsize=(8, 1.2 + 0.36 * len(ranked)), layout="constrained")
    axes = figure.subplots()
    for row, effect in enumerate(ranked):
        low, mean, high = (100 * value / baseline for value in (effect.low, effect.mean, effect.high))
        axes.plot([low, high], [row, row], color=colors[effect.verdict], linewidth=2.5)
        axes.plot(mean, row, "o", color=colors[effect.verdict])
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(ranked)), [f"{effect.factor} ({effect.verdict})" for effect in ranked])
    axes.set_xscale("symlog", linthresh=LINEAR)  # a factor that matters far more must not hide the others
    axes.xaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=LINEAR, subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set(title=f"effects on val_mse_dense, 95 % intervals ({title})",
             xlabel=f"% of the baseline's {baseline:.4f}, logarithmic beyond ±{LINEAR}; left of 0 the factor helps")
    axes.grid(alpha=0.25)
    with written_whole(path) as part:
        figure.savefig(part, dpi=110)


def main() -> None:
    args = cli.parse(__doc__, options={
        "budget": (300, "optimiser steps per training"),
        "out": ("outputs/ablate", "folder of the trainings and the results"),
        "seeds": (3, "trainings per change"),
        "factors": ("", "names separated by commas; default: all")})
    out_dir, wanted = Path(args.out), set(filter(None, args.factors.split(",")))
    check_folder(out_dir, "choose another --out")
    ablate(plan(args.config, args.overrides, args.budget, wanted, args.seeds), out_dir)


if __name__ == "__main__":
    cli.run(main)
