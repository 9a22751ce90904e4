"""What the kernel does on Kaggle: finds what is attached, trains if asked to, infers, leaves a valid submission.csv.

`kernel.py build` puts this file, the project's sources and what build says about itself into one script. Nothing of
the repository is there when it runs: the sources come out of `payload`, weights and settings out of a data set.
"""
import base64
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

# A GPU may be there and yet compute nothing: Kaggle's P100s are too old for its image's torch.
GPU_TRIAL = ("import torch; x = torch.ones(1, 1, 8, 8, device='cuda'); "
             "torch.nn.functional.conv2d(x, x[..., :3, :3]).sum().item()")
# What inference may take, left free when training stops: seconds per image, and a share of kernel.max_hours.
SECONDS_PER_IMAGE = {"cuda": 1, "cpu": 20}
SPARE = 0.1


def main(settings: dict, payload: str) -> None:
    """`settings`: bundle (this build's name), dataset (owner/slug), sums (SHA-256 of that data set's SHA256SUMS)."""
    started = time.monotonic()
    print(f"bundle  {settings['bundle']}", flush=True)
    scratch = Path(tempfile.mkdtemp())
    sys.path.insert(0, str(unpack(payload, scratch / "src")))
    device = usable_device()

    import cli  # one of the sources just unpacked, as are all that are imported below

    root = Path(os.environ.get("KERNEL_ROOT", "/kaggle"))
    cli.run(lambda: run(settings, root / "input", root / "working", scratch, device, started))


def unpack(payload: str, folder: Path) -> Path:
    """The sources out of base64 of a compressed tar -> `folder`."""
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(payload))) as sources:
        sources.extractall(folder, filter="data")
    return folder


def usable_device() -> str:
    """cuda or cpu; tried in a process of its own, before torch is loaded here."""
    trial = subprocess.run([sys.executable, "-c", GPU_TRIAL], capture_output=True, text=True)
    if trial.returncode == 0:
        return "cuda"
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    reason = (trial.stderr.strip() or "no message").splitlines()[-1]
    print(f"{'!' * 20} NO USABLE GPU: running on the CPU, which takes many times longer ({reason})", flush=True)
    return "cpu"


def run(settings: dict, inputs: Path, working: Path, scratch: Path, device: str, started: float) -> None:
    """Fills working/submission.csv from what lies in `inputs`; UserError lists what is attached if anything lacks."""
    from config import load_config
    from infer import infer, ordered_images

    bundle = find_bundle(inputs, settings)
    settled = load_config(bundle / "config.yaml")
    images, sample = find_test_set(inputs, settled.kaggle.competition, bundle)
    places = overrides({"infer.images": images, "data.sample_submission": sample, "data.root": scratch,
                        "infer.submission": working / "submission.csv", "train.out_dir": working / "run"})
    cfg = load_config(bundle / "config.yaml", places)
    count = len(ordered_images(cfg))
    print(f"found   {count} test images in {images}, {f'order of {sample.name}' if sample else 'natural order'}")

    weights = bundle / "weights.pth"
    if cfg.kernel.mode == "train":
        reserve = count * SECONDS_PER_IMAGE[device] + SPARE * cfg.kernel.max_hours * 3600
        seconds = cfg.kernel.max_hours * 3600 - (time.monotonic() - started) - reserve
        weights = retrain(bundle, places, inputs, scratch, seconds)
    cfg = load_config(bundle / "config.yaml", places + overrides({"infer.weights": weights}))
    infer(cfg)
    check(cfg)
    print(f"done    {cfg.infer.submission}: {count} rows, valid, after {time.monotonic() - started:.0f} s")


def overrides(values: dict) -> list[str]:
    """key=value as load_config() takes them, whatever characters a path holds."""
    return [f"{key}={json.dumps(str(value) if isinstance(value, Path) else value)}" for key, value in values.items()]


def retrain(bundle: Path, places: list[str], inputs: Path, scratch: Path, seconds: float) -> Path:
    """Trains for `seconds` at most, on one device -> the checkpoint to infer with."""
    from cli import UserError
    from config import load_config, with_predict_size
    from train import train

    if seconds <= 0:
        raise UserError("kernel.max_hours leaves no time to train before inference; raise it, or set kernel.mode=infer")
    splits = find_splits(inputs, scratch, load_config(bundle / "config.yaml").data.val_share)
    start = bundle / "weights.pth"
    cfg = load_config(bundle / "config.yaml", places + overrides({
        "data.train_csv": splits[0], "data.val_csv": splits[1], "train.max_hours": seconds / 3600,
        "model.weights": start if start.exists() else None}))
    train(with_predict_size(cfg))
    best = cfg.train.out_dir / "best.pth"
    return best if best.exists() else cfg.train.out_dir / "last.pth"  # stopped before its first validation


def find_bundle(inputs: Path, settings: dict) -> Path:
    """The folder of this build's data set, every file held against SHA256SUMS."""
    from cli import UserError

    folders = [path.parent for path in sorted(inputs.rglob("SHA256SUMS"))]
    found = [folder for folder in folders if sha256(folder / "SHA256SUMS") == settings["sums"]]
    if not found:
        what = "is attached in another version than this kernel was built with" if folders else "is not attached"
        raise UserError(f"{settings['dataset']}: the data set of weights and settings {what}; {attached(inputs)}")
    for line in (found[0] / "SHA256SUMS").read_text(encoding="utf-8").splitlines():
        expected, name = line.split("  ", 1)
        if not (found[0] / name).is_file() or sha256(found[0] / name) != expected:
            raise UserError(f"{found[0] / name}: missing or damaged; upload the data set again (make kernel-push)")
    return found[0]


def find_test_set(inputs: Path, competition: str | None, bundle: Path) -> tuple[Path, Path | None]:
    """(folder of test images, sample submission or None), wherever the competition is mounted."""
    from cli import OperationError, UserError
    from findings import find_sample, find_test_images
    from images import TEST_SHAPE

    home = find_competition(inputs, competition, bundle)
    sample = find_sample(home)
    # A hidden test set may come with the public one's sample submission, or in other sizes.
    for order, shape in dict.fromkeys([(sample, TEST_SHAPE), (None, TEST_SHAPE), (sample, None), (None, None)]):
        try:
            folder = find_test_images(home, order, shape)[0].parent
        except OperationError as error:
            reason = error
            continue
        if sample and not order:
            print(f"note    {sample} names other images than {folder} holds: they go in natural order")
        return folder, order
    raise UserError(f"{reason}; {attached(inputs)}")


def find_competition(inputs: Path, competition: str | None, bundle: Path) -> Path:
    """The competition's folder: by its name; else the one with a sample submission; else the only one."""
    from cli import UserError
    from findings import find_sample, pairs_tables

    others = [folder for folder in mounted(inputs) if not bundle.is_relative_to(folder)]
    choices = ([folder for folder in others if folder.name == competition],
               [folder for folder in others if find_sample(folder)],
               [folder for folder in others if not pairs_tables(folder)])
    for folders in choices:
        if len(folders) == 1:
            return folders[0]
    raise UserError(f"the competition {competition or '(kaggle.competition is null)'} is not attached; "
                    f"add it to competition_sources; {attached(inputs)}")


def find_splits(inputs: Path, scratch: Path, val_share: float) -> tuple[Path, Path]:
    """(train.csv, val.csv): attached side by side; else the pairs of the one attached CSV, split by their names."""
    from cli import UserError
    from findings import find_pairs, pairs_tables
    from pairs import split_by_name, write_splits

    tables = pairs_tables(inputs)
    for path in tables:
        if path.name == "train.csv" and path.with_name("val.csv") in tables:
            return path, path.with_name("val.csv")
    if not tables:
        raise UserError("no CSV with the columns image_path,alpha_path to train on; add a data set of pairs to "
                        f"kernel-metadata.json's dataset_sources; {attached(inputs)}")
    write_splits(scratch, [split_by_name(find_pairs(inputs), val_share)])
    return scratch / "splits/train.csv", scratch / "splits/val.csv"


def check(cfg) -> None:
    """Holds the finished submission against the test images."""
    from images import read_shapes
    from infer import ordered_images
    from submission import validate

    shapes = read_shapes(ordered_images(cfg))
    validate(cfg.infer.submission, list(shapes), shapes)


def mounted(inputs: Path) -> list[Path]:
    """The attached sources' folders; Kaggle mounts them at the top or under competitions/ and datasets/<owner>/."""
    places = [*inputs.glob("*"), *inputs.glob("competitions/*"), *inputs.glob("datasets/*/*")]
    shelves = inputs / "competitions", inputs / "datasets"
    return sorted(path for path in places if path.is_dir() and path not in shelves)


def attached(inputs: Path) -> str:
    """What lies in `inputs`, for messages."""
    def size(folder: Path) -> str:
        return f"{folder.relative_to(inputs)} ({sum(path.is_file() for path in folder.rglob('*'))} files)"

    return f"attached in {inputs}: {', '.join(map(size, mounted(inputs))) or 'nothing'}"


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
