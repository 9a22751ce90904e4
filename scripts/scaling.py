"""How training scales on this machine: images/s of 1, 2, … processes, and of reading the pairs.

    python scripts/scaling.py --processes 1,2 model.weights=null data.limit=64 augment.crop=256

Every process has one thread and the same number of images per step: at 100 % n processes do n times the work of one.
Each number is a training of its own in outputs/scaling/; they take turns, and the fastest of each counts.
"""
import csv
import os
import subprocess
import sys
import time
from pathlib import Path

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from core import cli
from core.config import Config, load_config
from core.device import usable_cores
from core.errors import OperationError, UserError
from dataset import TrainSet
from imaging.pairs import read_pair, read_pairs

LAUNCH = Path(__file__).resolve().parent / "launch.py"


def main() -> None:
    args = cli.parse(__doc__, options={"processes": ("1,2", "numbers of processes, separated by commas"),
                                       "repeats": (3, "trainings of each number"),
                                       "out": ("outputs/scaling", "folder for the trainings")})
    settings = ["--config", args.config, *args.overrides]
    cfg = load_config(args.config, args.overrides)
    sizes = process_counts(args.processes)
    print("reading  {:.1f} pairs/s decoded, {:.1f} augmented, per core".format(*reading_rates(cfg)))
    rates = dict.fromkeys(sizes, 0.0)
    for _ in tqdm(range(args.repeats), "scaling", disable=None, leave=False):
        for size in sizes:
            rate = training_rate(size, cfg.train.batch_size * size, Path(args.out) / str(size), settings)
            rates[size] = max(rates[size], rate)
    print(f"{usable_cores()} cores, {cfg.train.batch_size} images per step and process, crop {cfg.augment.crop}")
    for size, rate in rates.items():
        share = rate / size / (rates[sizes[0]] / sizes[0])
        print(f"{size:3d} processes  {rate:7.2f} images/s  efficiency {share:.0%}")


def process_counts(text: str) -> list[int]:
    try:
        sizes = [int(size) for size in text.split(",")]
    except ValueError:
        raise UserError(f"--processes {text}: must be numbers separated by commas") from None
    cores = usable_cores()
    if max(sizes) > cores:
        raise UserError(f"--processes {text}: this machine has {cores} usable core(s); processes that share one say "
                        "nothing about scaling")
    return sizes


def training_rate(size: int, batch_size: int, out_dir: Path, settings: list[str]) -> float:
    """images/s of `size` processes in the second of two epochs: the first one warms up."""
    command = [sys.executable, LAUNCH, "train", "--gpus", str(size), *settings,
               f"train.batch_size={batch_size}", "train.epochs=2", "train.resume=never", "train.samples=0",
               "train.workers=0", f"train.out_dir={out_dir}"]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if result.returncode:
        raise OperationError(f"{size} processes: {result.stderr.strip().splitlines()[-1].removeprefix('error: ')}")
    with (out_dir / "metrics.csv").open() as file:
        return float(list(csv.DictReader(file))[-1]["images_per_s"])


def reading_rates(cfg: Config) -> tuple[float, float]:
    """Pairs per second of one core's time: decoded, and decoded and augmented as in training."""
    pairs = read_pairs(cfg.data.train_csv, min(cfg.data.limit or 32, 32), cfg.data.on_error)
    samples = TrainSet(pairs, cfg)

    def rate(work) -> float:
        started = time.process_time()
        for index in range(len(pairs)):
            work(index)
        return len(pairs) / (time.process_time() - started)

    return rate(lambda index: read_pair(pairs[index])), rate(lambda index: samples[0, index])


if __name__ == "__main__":
    cli.run(main)
