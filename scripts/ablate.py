"""What does each augmentation, loss term and option bring? One change at a time, the same budget, several seeds.

    python scripts/ablate.py --budget 300 --seeds 3 data.size=256 augment.crop=128
    python scripts/ablate.py --budget 300 --factors edge,ema

Each cell (change × seed) is a training of its own in outputs/ablate/, skipped when it is there: interrupted, the same
command goes on. The answers are ablation.csv, ablation.png and a sentence per factor.
"""
import csv
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
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
LINEAR = 10  # percent; the picture's scale is linear up to here


@dataclass(frozen=True)
class Factor:
    """One thing under test: the overrides that take it away from the baseline, or add it."""
    name: str
    change: tuple[str, ...]
    adds: bool = False


@dataclass(frozen=True)
class Effect:
    """MSE with the factor minus MSE without it: below 0 it helps. Mean and 95 % interval over seeds × images."""
    factor: str
    mean: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        return "helps" if self.high < 0 else "hurts" if self.low > 0 else "no evidence"


def factors(cfg: Config) -> list[Factor]:
    """The matrix; sizes follow the configured crop, phases the configured epochs."""
    final = max(1, cfg.train.epochs // 4)
    larger = f"augment.final_crop={cfg.augment.crop * 3 // 2}"
    return [
        Factor("xray", ("augment.xray_p=0",)),
        Factor("xray_at_times", ("augment.xray_p=0.9",), adds=True),
        Factor("scale", ("augment.scale=[1,1]",)),
        Factor("rotate", ("augment.rotate_p=0",)),
        Factor("colour", ("augment.color_p=0",)),
        Factor("background", ("augment.background_p=0.3",), adds=True),
        *(Factor(term, (f"loss.{term}=0",)) for term in ("object", "thin", "edge")),
        Factor("background_term", ("loss.background=0",)),
        Factor("sides", ("loss.sides=0",)),
        Factor("ema", ("train.ema=0.99",), adds=True),
        Factor("larger_crop_at_end", (f"train.final_epochs={final}", larger), adds=True),
        Factor("mse_at_end", (f"train.final_epochs={final}", "train.final_loss=mse"), adds=True),
    ]


def ablate(args) -> None:
    cfg = load_config(args.config, args.overrides)
    check_folder(Path(args.out), "choose another --out")
    pairs = configured_pairs(cfg, "train")
    epochs = max(1, round(args.budget / max(1, len(pairs) // cfg.train.batch_size)))
    cfg = load_config(args.config, [*args.overrides, f"train.epochs={epochs}"])
    tested = [factor for factor in factors(cfg) if not args.factors or factor.name in args.factors.split(",")]
    unknown = set(filter(None, args.factors.split(","))) - {factor.name for factor in tested}
    if unknown:
        raise UserError(f"--factors: no {', '.join(sorted(unknown))}; known: "
                        f"{', '.join(factor.name for factor in factors(cfg))}")
    out_dir = Path(args.out)
    for name in ("ablation.csv", "ablation.png"):
        may_write(out_dir / name)
    common = ["--config", args.config, *args.overrides, f"train.epochs={epochs}", "train.select_by=val_mse_dense"]
    cells = [(name, change, seed) for seed in range(cfg.seed, cfg.seed + args.seeds)
             for name, change in [(BASELINE, ()), *((factor.name, factor.change) for factor in tested)]]
    print(f"{len(cells)} trainings of {epochs} epochs on {len(pairs)} pairs, into {out_dir}")
    errors = {}
    for name, change, seed in tqdm(cells, "ablation", unit="cell", disable=None):
        errors[name, seed] = train_cell(out_dir / f"{name}-{seed}", [*common, *change, f"seed={seed}"])

    effects = [effect_of(factor, errors, args.seeds, cfg.seed) for factor in tested]
    baseline = np.mean([list(errors[name, seed].values()) for name, seed in errors if name == BASELINE])
    write_csv(out_dir / "ablation.csv", errors)
    draw(out_dir / "ablation.png", effects, baseline, f"{epochs} epochs, {args.seeds} seeds")
    print(f"baseline val_mse_dense {baseline:.4f}")
    for effect in sorted(effects, key=lambda effect: effect.mean):
        print(f"{effect.factor:<20} {effect.verdict:<12} {effect.mean:+.5f}  [{effect.low:+.5f}, {effect.high:+.5f}]")
    print(f"{out_dir}/ablation.csv, {out_dir}/ablation.png")


def train_cell(folder: Path, arguments: list[str]) -> dict[str, float]:
    """Trains unless that is done, or goes on -> {image: val_mse_dense} of its best epoch."""
    command = [*arguments, f"train.out_dir={folder}", "train.samples=0"]
    known = [without_secrets(word) for word in command]  # it is kept in a file
    done = folder / "cell.json"  # written after the last epoch, with what it was trained with
    if not done.exists() or json.loads(done.read_text(encoding="utf-8")) != known:
        result = subprocess.run([sys.executable, TRAIN, *command], stdout=subprocess.DEVNULL,
                                stderr=subprocess.PIPE, text=True)
        if result.returncode:
            raise OperationError(f"{folder}: {result.stderr.strip().splitlines()[-1].removeprefix('error: ')}")
        with written_whole(done) as part:
            part.write_text(json.dumps(known), encoding="utf-8")
    images = json.loads((folder / "validation.json").read_text(encoding="utf-8"))["images"]
    return {row["image"]: row["val_mse_dense"] for row in images}


def effect_of(factor: Factor, errors: dict, seeds: int, first_seed: int) -> Effect:
    """Paired by seed and image; the interval by resampling both (a bootstrap over two crossed factors)."""
    pairs = [(errors[factor.name, seed], errors[BASELINE, seed]) for seed in range(first_seed, first_seed + seeds)]
    gain = np.array([[changed[image] - base[image] for image in base] for changed, base in pairs])
    gain = gain if factor.adds else -gain
    rng = generator(first_seed, Purpose.ABLATION)
    drawn_seeds = rng.integers(gain.shape[0], size=(RESAMPLES, gain.shape[0], 1))
    drawn_images = rng.integers(gain.shape[1], size=(RESAMPLES, 1, gain.shape[1]))
    low, high = np.quantile(gain[drawn_seeds, drawn_images].mean((1, 2)), (0.025, 0.975))
    return Effect(factor.name, float(gain.mean()), float(low), float(high))


def write_csv(path: Path, errors: dict) -> None:
    with written_whole(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["cell", "seed", "image", "val_mse_dense"])
        for (name, seed), row in errors.items():
            rows.writerows((name, seed, image, value) for image, value in row.items())


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
    axes.set_xscale("symlog", linthresh=LINEAR)  # one factor that is worth far more must not hide what others are
    axes.xaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=LINEAR, subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set(title=f"effects on val_mse_dense, 95 % intervals ({title})",
             xlabel=f"% of the baseline's {baseline:.4f}, logarithmic beyond ±{LINEAR}; left of 0 the factor helps")
    axes.grid(alpha=0.25)
    with written_whole(path) as part:
        figure.savefig(part, dpi=110)


def main() -> None:
    ablate(cli.parse(__doc__, options={
        "budget": (300, "optimiser steps of each training"),
        "out": ("outputs/ablate", "folder of the cells and the answers"),
        "seeds": (3, "trainings of each change"),
        "factors": ("", "names joined by commas; all when left out")}))


if __name__ == "__main__":
    cli.run(main)
