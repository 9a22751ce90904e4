"""What `kernel.py build` writes, as pure functions: the kernel's code, its data set, and the metadata of both.

    files = kernel_files(cfg, dataset_files(cfg))       # {name: bytes}; the same input gives the same bytes
"""
import base64
import hashlib
import io
import json
import os
import re
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from slugify import slugify  # as the Kaggle client and Kaggle itself make an address from a title

from core import checkpoint
from core.config import Config
from core.errors import UserError
from core.folds import weighted_checkpoints, weights_identity
from inference.tuned import NOT_TUNED, load_tuned, tuned_path, tuned_text, with_tuned
from submission.kaggle_client import config_dir
from u2net import U2Net

ROOT = Path(__file__).resolve().parents[2]
BOOT, CELLS = ROOT / "scripts/kaggle_kernel/boot.py", ROOT / "scripts/kaggle_kernel/cells.py"
# All of src/ and on_kaggle/, and launch.py, which starts several processes there.
SOURCES = tuple(sorted([*(ROOT / "src").rglob("*.py"), *(ROOT / "scripts/on_kaggle").glob("*.py"),
                        ROOT / "scripts/launch.py"]))
CODE_FILES = {"script": "kernel.py", "notebook": "kernel.ipynb"}  # by kernel.format, which is Kaggle's kernel_type
SCRIPT_LIMIT = 1_000_000  # bytes of code that Kaggle accepts
TITLE_LINE = "bundle  "  # a run's log begins with this, then the build's hash
# Settings that name files on this machine. On Kaggle the kernel finds its own.
LOCAL = {
    "data": ("train_csv", "val_csv", "test_dir", "solution_csv", "sample_submission", "backgrounds_dir", "images_dir",
             "alphas_dir", "rgba_dir"),
    "model": ("weights",), "weights": ("url",), "kernel": ("versions",),
    "infer": ("images", "weights", "shares", "submission", "png_dir", "cutout_dir")}
LICENCE = "other"  # of the data set, which is private: the choice is the user's


def kernel_files(cfg: Config, dataset: Mapping[str, bytes]) -> dict[str, bytes]:
    """kernel.py or kernel.ipynb, and kernel-metadata.json, for the data set built beside them."""
    cells = CELLS.read_text(encoding="utf-8")
    boot = render_boot(cells, pack(SOURCES), dataset["SHA256SUMS"], dataset_id(cfg))
    if cfg.kernel.format == "notebook":
        from kaggle_kernel.notebook import render_notebook  # loads jupytext, which is slow
        text = render_notebook(cells, boot, cfg)
    else:
        text = f"{boot}\nfrom on_kaggle.main import main\n\nmain(SETTINGS)\n"
    metadata = kernel_metadata(cfg)
    return {metadata["code_file"]: text.encode(), "kernel-metadata.json": as_json(metadata)}


def dataset_files(cfg: Config) -> dict[str, bytes]:
    """The weights (unless training starts from nothing), config.yaml, SHA256SUMS, dataset-metadata.json.

    Also postprocess.yaml if inference needs it, and the metrics.csv of the weights' run for the notebook to show.
    """
    refuse_unfit(cfg)
    values = portable(cfg.model_dump(mode="json"))
    if cfg.kernel.mode == "infer":
        files = inference_files(cfg, values)
    else:
        files = {"weights.pth": slim_checkpoint(cfg.model.weights, cfg.model.variant)} if cfg.model.weights else {}
    files["config.yaml"] = yaml.safe_dump(values, sort_keys=False).encode()
    sums = "".join(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files))
    title = dataset_slug(cfg).replace("-", " ").capitalize()
    return {**files, "SHA256SUMS": sums.encode(), "dataset-metadata.json": as_json(
        {"id": dataset_id(cfg), "title": title, "licenses": [{"name": LICENCE}]})}


def inference_files(cfg: Config, values: dict) -> dict[str, bytes]:
    """weights.pth, or of an ensemble weights_0.pth, …; names and shares go into the config's `values`."""
    tuned = load_tuned(cfg) if cfg.infer.postprocess == "tuned" else NOT_TUNED  # fails if it is for other weights
    paths, shares = zip(*weighted_checkpoints(with_tuned(cfg, tuned).infer), strict=True)
    several = len(paths) > 1
    names = [f"weights_{number}.pth" for number in range(len(paths))] if several else ["weights.pth"]
    values["infer"] |= {"weights": names, "shares": list(shares) if several else None}
    files = {name: slim_checkpoint(path, cfg.model.variant) for name, path in zip(names, paths, strict=True)}
    if cfg.infer.postprocess == "tuned":
        files["postprocess.yaml"] = (tuned_text(weights_identity(paths), tuned._replace(shares=None), {}).encode()
                                     if several else tuned_path(cfg).read_bytes())
    history = paths[0].parent / "metrics.csv"
    if cfg.kernel.format == "notebook" and not several and history.exists():
        files[history.name] = history.read_bytes()
    return files


def refuse_unfit(cfg: Config) -> None:
    """UserError for settings that would make a run on Kaggle fail, perhaps after hours."""
    if cfg.kernel.mode == "train" and cfg.infer.postprocess == "tuned":
        raise UserError("infer.postprocess=tuned only fits the weights it was tuned with, but kernel.mode=train "
                        "makes new ones; set it to none")
    if cfg.kernel.mode == "train" and cfg.train.compile and cfg.train.sync_bn and cfg.kernel.processes != 1:
        raise UserError("train.compile and train.sync_bn cannot be combined on Kaggle's two GPUs; set one to false")
    if cfg.kernel.mode == "train" and cfg.data.folds and cfg.data.fold is None:
        raise UserError("data.folds needs data.fold for kernel.mode=train, which trains one network; set it")
    if cfg.kernel.mode == "train" and cfg.train.compile and cfg.train.checkpointing:
        raise UserError("train.compile and train.checkpointing cannot be combined; set one to false")
    if cfg.infer.backend == "openvino":
        raise UserError("infer.backend=openvino: Kaggle's image lacks it; set it to auto, which uses torch there")
    if cfg.kernel.mode == "train" and cfg.augment.background_p > 0:
        raise UserError("augment.background_p needs pymatting, which Kaggle's image does not have; set it to 0 for "
                        "kernel.mode=train")


def render_boot(cells: str, payload: bytes, sums: bytes, dataset: str) -> str:
    """boot.py, the build's settings, the packed sources, and the call that unpacks them."""
    boot = BOOT.read_text(encoding="utf-8")
    identity = (boot + cells).encode() + payload + sums
    settings = {"bundle": hashlib.sha256(identity).hexdigest()[:12], "dataset": dataset,
                "sums": hashlib.sha256(sums).hexdigest()}
    text = base64.b64encode(payload).decode()  # one line, so that a notebook shows little of it
    return f'{boot}\n\nSETTINGS = {settings}\nPAYLOAD = "{text}"\n\nunpack(PAYLOAD)\n'


def pack(paths: Sequence[Path]) -> bytes:
    """A compressed tar of the files, named relative to src/ or scripts/; depends only on names and contents."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, path in sorted((path.relative_to(ROOT).as_posix().partition("/")[2], path) for path in paths):
            body = path.read_bytes()
            member = tarfile.TarInfo(name)
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))
    # The gzip module would store the time. zlib writes the same format without one.
    packer = zlib.compressobj(9, wbits=31)
    return packer.compress(buffer.getvalue()) + packer.flush()


def slim_checkpoint(path: Path, variant: str) -> bytes:
    """The part of a checkpoint that inference and fine-tuning need: the weights, and where they come from."""
    state = checkpoint.load(path)
    trained = state.get("config") or {}
    model = U2Net(trained.get("model", {}).get("variant", variant))
    checkpoint.load_weights(model, path)
    kept = {"model_state": model.state_dict(), **{key: state[key] for key in ("epoch", "metrics") if key in state}}
    if trained:
        kept["config"] = portable(trained)
    return checkpoint.to_bytes(kept)


def portable(values: dict) -> dict:
    """A config's values without this machine's paths."""
    values = {section: dict(content) if isinstance(content, dict) else content for section, content in values.items()}
    for section, keys in LOCAL.items():
        values.setdefault(section, {}).update({key: None for key in keys if key in values.get(section, {})})
    values["data"]["root"], values["train"]["out_dir"] = "data", "outputs/run"
    return values


def kernel_metadata(cfg: Config, template: Path = ROOT / "kernel-metadata.json") -> dict:
    """kernel-metadata.json with owner, slugs and title filled in; empty sources are left out."""
    names = {"owner": owner(cfg), "slug": slugify(cfg.kernel.title), "title": cfg.kernel.title,
             "dataset": dataset_slug(cfg), "competition": cfg.kaggle.competition or "",
             "format": cfg.kernel.format, "code_file": CODE_FILES[cfg.kernel.format]}

    def fill(value):
        if isinstance(value, list):
            return [filled for filled in map(fill, value) if filled]
        return re.sub(r"\{(\w+)\}", lambda match: names[match[1]], value) if isinstance(value, str) else value

    try:
        return {key: fill(value) for key, value in json.loads(template.read_text(encoding="utf-8")).items()}
    except (json.JSONDecodeError, AttributeError) as error:
        raise UserError(f"{template.name}: is not a JSON object ({error})") from None
    except KeyError as error:
        raise UserError(f"{template.name}: {{{error.args[0]}}} is unknown; use one of {', '.join(names)}") from None


def owner(cfg: Config) -> str:
    """The Kaggle user name: kernel.owner, else the client's; NOBODY if neither is set."""
    if cfg.kernel.owner or os.environ.get("KAGGLE_USERNAME"):
        return cfg.kernel.owner or os.environ["KAGGLE_USERNAME"]
    try:
        return str(json.loads((config_dir() / "kaggle.json").read_bytes())["username"])  # in UTF-8 or UTF-16
    except (OSError, ValueError, KeyError, TypeError):
        return NOBODY


NOBODY = "nobody"  # good enough to build and test; lint refuses to push it


def dataset_slug(cfg: Config) -> str:
    return cfg.kaggle.dataset or f"{slugify(cfg.kernel.title)}-weights"


def dataset_id(cfg: Config) -> str:
    return f"{owner(cfg)}/{dataset_slug(cfg)}"


def as_json(values: dict) -> bytes:
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()
