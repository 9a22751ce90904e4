"""Trains and infers over and over at a small size, and fails if memory or the number of open files grows.

    python tests/stress/soak.py --minutes 60    # -> outputs/soak/soak.json and soak.png; exit code 1 on growth

Each round: a training of a few epochs from nothing, then inference on a folder, both in this process.
"""
import contextlib
import gc
import io
import json
import os
import sys
import time
from pathlib import Path

sys.path.extend(str(Path(__file__).resolve().parents[2] / folder) for folder in ("src", "scripts", "tests"))

import numpy as np
from matplotlib.figure import Figure

from core import cli
from core.config import Config, load_config, with_predict_size
from core.errors import OperationError, UserError
from core.files import written_whole
from imaging.images import to_levels, write_image
from imaging.pairs import write_pairs_csv
from infer import infer
from scenes.scene import draw_pair
from train import train

PAIRS, SIDE = 6, 64
WARM_UP = 0.25     # share of the time in which caches may fill
MOST_GROWTH = 1.0  # MB per hour after the warm-up
MB = 2**20
SMALL = ["augment.crop=64", "infer.size=64", "model.weights=null", "train.epochs=3", "train.batch_size=2",
         "train.workers=1", "train.samples=2", "train.resume=never", "train.save_minutes=0.001"]


def prepare(folder: Path, config: str, overrides: list[str]) -> Config:
    """Draws a few pairs into `folder` -> the config that trains on them."""
    rows = []
    for i in range(PAIRS):
        rgb, alpha, _ = draw_pair(0, i, SIDE)
        rows.append((folder / f"images/{i}.png", folder / f"alphas/{i}.png"))
        for path, image in zip(rows[-1], (rgb, to_levels(alpha)), strict=True):
            if not path.exists():
                write_image(path, image)
    write_pairs_csv(folder / "pairs.csv", rows, folder)
    return with_predict_size(load_config(config, [
        f"data.train_csv={folder}/pairs.csv", f"data.val_csv={folder}/pairs.csv", f"train.out_dir={folder}/run",
        f"infer.images={folder}/images", f"infer.png_dir={folder}/png", *SMALL, *overrides]))


def sample(started: float, rounds: int) -> dict[str, float]:
    """Memory that this process has written (mapped libraries come and go, so they do not count), and its open files."""
    gc.collect()
    status = Path("/proc/self/smaps_rollup").read_text()
    written = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("Private_Dirty"))
    return {"seconds": time.monotonic() - started, "rounds": rounds, "memory_mb": written * 1024 / MB,
            "descriptors": len(os.listdir("/proc/self/fd"))}


def growth(samples: list[dict], name: str) -> float:
    """Slope per hour of the least-squares line after the warm-up."""
    late = [row for row in samples if row["seconds"] >= WARM_UP * samples[-1]["seconds"]]
    return float(np.polyfit([row["seconds"] / 3600 for row in late], [row[name] for row in late], 1)[0])


def picture(path: Path, samples: list[dict], title: str) -> None:
    figure = Figure(figsize=(9, 4), layout="constrained")
    memory = figure.subplots()
    minutes = [row["seconds"] / 60 for row in samples]
    memory.plot(minutes, [row["memory_mb"] for row in samples], marker=".", color="tab:blue")
    memory.axvspan(0, WARM_UP * minutes[-1], color="0.92", label="warm-up")
    memory.set(title=title, xlabel="minutes", ylabel="memory written, MB",
               ylim=(0, 1.2 * max(row["memory_mb"] for row in samples)))
    files = memory.twinx()
    files.plot(minutes, [row["descriptors"] for row in samples], marker=".", color="tab:orange")
    files.set(ylabel="open files (orange)", ylim=(0, 2 * max(row["descriptors"] for row in samples)))
    memory.legend(loc="lower right")
    with written_whole(path) as part:
        figure.savefig(part, dpi=110)


def measure(cfg: Config, seconds: float) -> tuple[int, list[dict[str, float]]]:
    """Trains and infers for `seconds` -> (rounds, samples), one sample a minute or 20 in all, at least 8."""
    started, rounds, samples = time.monotonic(), 0, []
    while time.monotonic() - started < seconds or len(samples) < 8:
        with contextlib.redirect_stdout(io.StringIO()):
            train(cfg)
            infer(cfg)
        rounds += 1
        if time.monotonic() - started >= len(samples) * min(60, seconds / 20):
            samples.append(sample(started, rounds))
            last = samples[-1]
            print(f"{last['seconds']:7.0f} s  round {rounds:5}  {last['memory_mb']:8.2f} MB  {last['descriptors']:3} "
                  "open files", flush=True)
    return rounds, samples


def main() -> None:
    args = cli.parse(__doc__, options={"minutes": (60.0, "how long to run")})
    if not Path("/proc/self/smaps_rollup").exists():
        raise UserError("soak: needs Linux's /proc/self/smaps_rollup; run it on Linux or in the container")
    folder = Path("outputs/soak")
    rounds, samples = measure(prepare(folder, args.config, args.overrides), args.minutes * 60)
    slope, files = growth(samples, "memory_mb"), samples[-1]["descriptors"] - samples[len(samples) // 4]["descriptors"]
    verdict = (f"{rounds} rounds in {samples[-1]['seconds'] / 60:.0f} minutes: {slope:+.2f} MB per hour, "
               f"{files:+d} open files")
    with written_whole(folder / "soak.json") as part:
        part.write_text(json.dumps({"verdict": verdict, "mb_per_hour": slope, "descriptors": files,
                                    "samples": samples}, indent=1))
    picture(folder / "soak.png", samples, verdict)
    print(f"{verdict}; {folder}/soak.png")
    if slope > MOST_GROWTH or files > 0:
        raise OperationError(f"memory or open files grow: {verdict}")


if __name__ == "__main__":
    cli.run(main)
