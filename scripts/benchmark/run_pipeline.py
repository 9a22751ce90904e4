"""Our side of `make bench`: what the commands run, on the inputs of each row, with a remark on each result."""
import contextlib
import copy
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch

import infer
import train
from augment import sample_xray_params, xray_alpha_dense
from benchmark.inputs import Forward, drawn_images, embedded_network, noisy_matte, on_cores, squares, training_batch
from benchmark.roofline import BytesMoved, copy_bandwidth, forward_operations, matrix_rate
from core.config import EMBEDDED, Config
from core.device import DTYPES, pick_device, pick_precision
from core.distributed import ALONE
from core.errors import UserError
from imaging.images import to_levels, write_image
from imaging.pairs import write_pairs_csv
from inference.int8 import Ranges, measure_ranges, save_ranges
from inference.matte_net import MatteNet
from inference.openvino_backend import OpenvinoNetwork
from inference.postprocess import ORIGINAL, apply
from inference.predictor import Network, load_network
from scenes.scene import draw_pair
from training.run_state import Run

# Runs a script and prints its peak memory in KiB. On Linux a child's ru_maxrss starts at its parent's value.
WITH_PEAK = r"""import pathlib, re, resource, runpy, sys
sys.argv = sys.argv[1:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
status = pathlib.Path("/proc/self/status")
print(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1] if status.exists() else
      resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)  # macOS: bytes
"""
Side = Iterator[tuple[Callable, Callable[[float], str]]]


def network_of(cfg: Config, folder: str, given: np.ndarray, precision: str, backend: str = "auto") -> Network:
    """The embedded weights in a backend, for squares as `given`; compiled files go to `folder`."""
    model, weights = embedded_network(), Path(shutil.copy(EMBEDDED, folder))
    wanted = cfg.infer.model_copy(update={"weights": weights, "precision": precision, "backend": backend,
                                          "tta": "none"})
    if precision == "int8":
        return OpenvinoNetwork(model, given.shape[1], wanted, embedded_ranges(given))
    return load_network(cfg.model_copy(update={"infer": wanted}), model, given.shape[1])


def embedded_ranges(given: np.ndarray) -> Ranges:
    return measure_ranges(MatteNet(embedded_network()), torch.from_numpy(given).split(1))


@contextlib.contextmanager
def forward(cfg: Config, case: Forward) -> Side:
    given, precision = squares(cfg, case.size, case.images), case.precision
    with tempfile.TemporaryDirectory() as folder, on_cores(case.threads):
        network = network_of(cfg, folder, given, precision, case.backend)

        def note(seconds: float) -> str:
            if precision not in DTYPES:
                return network.description
            operations = case.images * forward_operations(case.size)
            return f"{network.description}; {matrix_share(operations, seconds, precision)}"

        yield partial(in_batches, network, given), note


@contextlib.contextmanager
def gpu_forward(cfg: Config, size: int, images: int) -> Side:
    """From squares in memory to alphas in memory."""
    given = squares(cfg, size, images)
    with tempfile.TemporaryDirectory() as folder:
        network = network_of(cfg, folder, given, "auto")
        yield (partial(in_batches, network, given),
               lambda seconds: f"{network.description}; {images / seconds:.1f} images/s, {peak_gpu_memory()}")


def in_batches(network: Network, given: np.ndarray) -> np.ndarray:
    step = network.batch_size
    return np.concatenate([network(given[start:start + step]) for start in range(0, len(given), step)])


def matrix_share(operations: int, seconds: float, precision: str) -> str:
    rate = matrix_rate(precision)
    return f"{operations / seconds / rate:.0%} of the {rate / 1e9:.0f} GFLOP/s of a matrix product"


@contextlib.contextmanager
def training(cfg: Config, size: int, images: int) -> Side:
    device = pick_device()
    rgb, target = training_batch(cfg, size, images, device)
    with our_run(cfg, images, device) as run:
        precision, side = run.precision, partial(our_step, run, rgb, target)
        start = copy.deepcopy(run.model.state_dict())
        for _ in range(5):  # the first steps are slower: they get the step's memory from the system
            side()
        run.model.load_state_dict(start)

        def note(seconds: float) -> str:
            if device.type == "cpu":
                return f"{precision}; {matrix_share(3 * images * forward_operations(size), seconds, precision)}"
            with BytesMoved() as moved:
                side()
            return (f"{precision}, {images / seconds:.1f} images/s, "
                    f"{moved.bytes / seconds / copy_bandwidth():.0%} of the copy bandwidth, {peak_gpu_memory()}")

        yield side, note


def peak_gpu_memory() -> str:
    return f"peak {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"


def losses(theirs: float, ours: float) -> str:
    return f"loss {ours:.4f} against {theirs:.4f}"


@contextlib.contextmanager
def our_run(cfg: Config, images: int, device: torch.device) -> Iterator[Run]:
    """A run as train.py prepares it, in its own folder."""
    precision = pick_precision(cfg.train.amp, device)
    with tempfile.TemporaryDirectory() as folder:
        settings = cfg.train.model_copy(update={"out_dir": Path(folder), "batch_size": images})
        model = cfg.model.model_copy(update={"weights": EMBEDDED})
        with contextlib.redirect_stdout(io.StringIO()):
            cfg = cfg.model_copy(update={"train": settings, "model": model})
            run = train.prepare(cfg, device, precision, ALONE)
        run.model.train()
        yield run


def our_step(run: Run, rgb: torch.Tensor, target: torch.Tensor) -> float:
    """Returns the loss before the step."""
    run.optimizer.zero_grad()
    images = len(rgb)
    sums = train.accumulate(run, iter([(rgb, target, range(images))]), 1, images)
    run.scaler.step(run.optimizer)
    run.scaler.update()
    return sums["total"] / images


@contextlib.contextmanager
def xray(cfg: Config, size: int) -> Side:
    rgb, alpha, _ = draw_pair(cfg.seed, 0, size)
    params = sample_xray_params(cfg.augment.xray, np.random.default_rng(cfg.seed))
    yield lambda: xray_alpha_dense(rgb, alpha, params, np.random.default_rng(1)), lambda _: ""


@contextlib.contextmanager
def components() -> Side:
    pred = noisy_matte()
    parts = cv2.connectedComponents((pred > ORIGINAL.parameters["support"]).astype(np.uint8))[0] - 1
    rgb = np.zeros((*pred.shape, 3), np.uint8)
    yield lambda: apply(ORIGINAL, rgb, pred), lambda _: f"{parts} components"


@contextlib.contextmanager
def submission(cfg: Config, images: int, precision: str, networks: int = 1) -> Side:
    """Returns the bytes of the CSV."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        drawn_images(cfg, folder / "images", images)
        weights = copies(folder, networks)
        if precision == "int8":
            save_ranges(weights[0], embedded_ranges(squares(cfg, 1024, images)), change=0.0)
        wanted = {"images": folder / "images", "weights": weights, "size": 1024, "tta": "flip", "precision": precision,
                  "submission": folder / "submission.csv", "postprocess": "none"}
        said = io.StringIO()

        def side():
            with contextlib.redirect_stdout(said):
                infer.infer(cfg.model_copy(update={"infer": cfg.infer.model_copy(update=wanted)}))
            return (folder / "submission.csv").read_bytes()

        yield side, lambda _: re.findall(r"\d+% of the time in the network", said.getvalue())[-1]


def copies(folder: Path, count: int) -> tuple[Path, ...]:
    """The embedded weights as so many checkpoints, each in its own folder."""
    for number in range(count):
        (folder / f"network_{number}").mkdir()
    return tuple(Path(shutil.copy(EMBEDDED, folder / f"network_{number}")) for number in range(count))


@contextlib.contextmanager
def submission_memory(images: int, networks: int = 1) -> Side:
    """A submission in its own process; one picture under many names."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        write_image(folder / "images/0.png", draw_pair(0, 0, 1024)[0])
        for index in range(1, images):
            os.link(folder / "images/0.png", folder / f"images/{index}.png")
        weights = ",".join(map(str, copies(folder, networks)))
        yield peak_memory(infer.__file__, f"infer.images={folder}/images", "infer.size=128",
                          f"infer.weights=[{weights}]", f"infer.submission={folder}/submission.csv")


@contextlib.contextmanager
def training_memory(size: int, images: int) -> Side:
    """A training of six steps in its own process."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        rows = []
        for index in range(6 * images):
            rgb, alpha, _ = draw_pair(0, index % images, size)
            rows.append((folder / f"images/{index}.png", folder / f"alphas/{index}.png"))
            write_image(rows[-1][0], rgb)
            write_image(rows[-1][1], to_levels(alpha))
        write_pairs_csv(folder / "train.csv", rows, folder)
        write_pairs_csv(folder / "val.csv", rows[:1], folder)
        yield peak_memory(train.__file__, f"data.train_csv={folder}/train.csv", f"data.val_csv={folder}/val.csv",
                          f"data.size={size}", f"augment.crop={size}", f"train.batch_size={images}", "train.epochs=1",
                          "train.samples=0", "train.workers=0", "model.weights=embedded", "train.resume=never",
                          f"train.out_dir={folder}/run")


def peak_memory(script: str, *arguments: str) -> tuple[Callable, Callable[[float], str]]:
    peak = []

    def side():
        result = subprocess.run([sys.executable, "-c", WITH_PEAK, script, *arguments], capture_output=True, text=True)
        if result.returncode:
            raise UserError(result.stderr.strip().splitlines()[-1].removeprefix("error: "))
        peak.append(int(result.stdout.split()[-1]) / 2**20)

    return side, lambda _: f"peak {max(peak):.2f} GiB"
