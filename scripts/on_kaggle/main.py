"""The kernel's run on Kaggle: finds its inputs, trains if asked to, predicts, checks submission.csv.

    job = start(SETTINGS)               # the notebook's cells call these one by one, main() all of them
    predict(job, job.weights)           # or [train(job)]
    finish(job)
"""
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from core import cli
from core.config import Config, as_overrides, load_config
from core.errors import UserError
from core.redact import without_secrets
from imaging.images import read_shapes
from infer import infer, ordered_images
from on_kaggle.inputs import find_bundle, find_splits, find_test_set
from on_kaggle.training import best_checkpoint, process_count, run_training, train_to_the_end
from submission.check import validate

# A GPU may be present but unusable: Kaggle's P100s are too old for its image's torch.
GPU_TRIAL = ("import torch; x = torch.ones(1, 1, 8, 8, device='cuda'); "
             "torch.nn.functional.conv2d(x, x[..., :3, :3]).sum().item()")
# Time reserved for inference when training stops: seconds per image, and a share of kernel.max_hours.
SECONDS_PER_IMAGE = {"cuda": 1, "cpu": 20}
SPARE = 0.1
TIMING = "timing.json"  # in the scratch folder, for `kernel.py test`: how long an image took


@dataclass(frozen=True)
class Job:
    """One run and the inputs that it found."""
    bundle: Path              # the data set built with the kernel
    inputs: Path              # everything attached, read-only
    scratch: Path             # for files that are not results
    overrides: tuple[str, ...]  # this machine's paths, and the notebook's changes
    device: str               # cuda | cpu
    started: float            # time.monotonic() at the beginning

    def config(self, changes: Mapping[str, object] = MappingProxyType({})) -> Config:
        """The settings; `changes`: {"section.key": value}."""
        return load_config(self.bundle / "config.yaml", [*self.overrides, *as_overrides(changes)])

    @property
    def weights(self) -> list[Path]:
        """The data set's checkpoints to infer with."""
        return [self.bundle / name for name in load_config(self.bundle / "config.yaml").infer.checkpoints]


def main(settings: dict) -> None:
    """A whole run, with the exit codes and error lines of the project's other commands."""
    cli.run(lambda: run(settings))


def run(settings: dict) -> None:
    job = start(settings)
    predict(job, [train(job)] if job.config().kernel.mode == "train" else job.weights)
    finish(job)


def start(settings: dict, changes: Mapping[str, object] = MappingProxyType({})) -> Job:
    """Finds device, data set and test images; UserError lists what is attached if something is missing.

    `settings`: bundle (this build's hash), dataset (owner/slug), sums (SHA-256 of that data set's SHA256SUMS).
    `changes`: settings that differ from the data set's, as `section.key`.
    """
    started = time.monotonic()
    screen()
    print(f"bundle  {settings['bundle']}", flush=True)
    device = usable_device()
    root = Path(os.environ.get("KERNEL_ROOT", "/kaggle"))
    inputs, working, scratch = root / "input", root / "working", Path(tempfile.mkdtemp())
    bundle = find_bundle(inputs, settings)
    cfg = load_config(bundle / "config.yaml")
    images, sample = find_test_set(inputs, cfg.kaggle.competition, bundle)
    run = working / "run" if cfg.kernel.mode == "train" else bundle  # an ensemble's postprocess.yaml is read there
    job = Job(bundle, inputs, scratch, tuple(as_overrides({
        "infer.images": images, "data.sample_submission": sample, "data.root": scratch,
        "infer.submission": working / "submission.csv", "train.out_dir": run, **changes})),
        device, started)
    order = f"order of {sample.name}" if sample else "natural order"
    print(f"found   {len(ordered_images(job.config()))} test images in {images}, {order}", flush=True)
    return job


def screen() -> None:
    """From here on nothing that the cells print holds a credential; nor do their tracebacks, which Jupyter sends."""
    cli.screen()
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell:
        send = shell._showtraceback
        shell._showtraceback = lambda kind, error, lines: send(kind, without_secrets(str(error)),
                                                               [without_secrets(line) for line in lines])


def usable_device() -> str:
    """cuda or cpu; tried in a child process, before this one touches CUDA."""
    trial = subprocess.run([sys.executable, "-c", GPU_TRIAL], capture_output=True, text=True)
    if trial.returncode == 0:
        return "cuda"
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    reason = (trial.stderr.strip() or "no message").splitlines()[-1]
    print(f"{'!' * 20} NO USABLE GPU: running on the CPU, which takes many times longer ({reason})", flush=True)
    return "cpu"


def train(job: Job) -> Path:
    """Trains on the attached pairs, on all GPUs, leaving time for inference -> the checkpoint to infer with.

    A training that fails or is killed is restarted once; if it fails again, its best epoch so far is used.
    """
    cfg = job.config()
    limit = cfg.kernel.max_hours * 3600
    reserve = len(ordered_images(cfg)) * SECONDS_PER_IMAGE[job.device] + SPARE * limit
    seconds = limit - (time.monotonic() - job.started) - reserve
    if seconds <= 0:
        raise UserError("kernel.max_hours leaves no time for training before inference; raise it, or set "
                        "kernel.mode=infer")
    seconds = min(seconds, (cfg.train.max_hours or limit) * 3600)
    train_csv, val_csv = find_splits(job.inputs, job.scratch, cfg.data.val_share)
    weights = job.bundle / "weights.pth"
    places = as_overrides({"data.train_csv": train_csv, "data.val_csv": val_csv,
                           "model.weights": weights if weights.exists() else None})
    processes = process_count(cfg.kernel.processes, job.device)
    end = time.monotonic() + seconds

    def attempt(more: list[str]) -> None:
        left = end - time.monotonic()
        settings = [*job.overrides, *places, *as_overrides({"train.max_hours": left / 3600}), *more]
        run_training(processes, job.bundle / "config.yaml", settings, cfg.train.out_dir, left + SPARE / 2 * limit)

    train_to_the_end(attempt, cfg.train.out_dir, end)
    return best_checkpoint(cfg.train.out_dir)


def predict(job: Job, weights: Sequence[Path]) -> None:
    """The test images -> submission.csv, on one GPU: reading and encoding images take as long as the network."""
    seconds = infer(job.config({"infer.weights": weights}))
    (job.scratch / TIMING).write_text(json.dumps({"device": job.device, "seconds_per_image": seconds}))


def finish(job: Job) -> None:
    """Checks the finished submission against the test images."""
    cfg = job.config()
    shapes = read_shapes(ordered_images(cfg))
    rows = validate(cfg.infer.submission, list(shapes), shapes)
    print(f"done    {cfg.infer.submission}: {rows} rows, valid, after {time.monotonic() - job.started:.0f} s")
