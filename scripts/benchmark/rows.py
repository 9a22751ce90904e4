"""The rows of `make bench`: each work's reference, ours, and how far their results agree."""
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmark import run_baseline as reference
from benchmark import run_pipeline as ours
from benchmark.inputs import difference, difference_inside
from core.config import Config
from core.device import usable_cores


@dataclass(frozen=True)
class Work:
    """Both sides are prepared (networks, pictures) outside of what is timed, each in a process of its own."""
    group: str
    name: str
    reference: Callable[[], AbstractContextManager[Callable]] | None  # None: there is nothing to compare with
    # yields what is timed, and what to say of it: note(median seconds), evaluated before the block ends
    ours: Callable[[], AbstractContextManager[tuple[Callable, Callable[[float], str]]]]
    ask: str = ""
    agreement: Callable[[Any, Any], str] = difference  # of the results: (reference's, ours)
    most_repeats: int = 100  # of the slow ones


def cpu_works(cfg: Config) -> list[Work]:
    cores = usable_cores()
    forward = partial(forward_work, cfg)
    return [
        forward("forward", 1024, 1, "fp32", ask="≥ 4×"),
        forward("forward", 1024, 1, "bf16", ask="≥ 7.5×"),
        forward("forward", 1024, 1, "int8", ask="≥ 12×, if the MSE allows"),
        forward("forward", 1024, 1, "bf16", backend="torch"),
        *(forward("size", size, 1, "auto") for size in (512, 2048)),
        *(forward("images", 512, images, "auto") for images in (4, 16)),
        *(forward("threads", 1024, 1, "auto", threads=threads) for threads in (1, 2) if threads <= cores),
        training_work(cfg, 512, 4, "≥ 3×"),
        *(Work("xray", f"xray_alpha_dense {size}²", partial(reference.xray, cfg, size), partial(ours.xray, cfg, size),
               ask, partial(difference_inside, cfg, size)) for size, ask in ((1024, "≥ 8×"), (512, ""))),
        Work("components", "component post-processing, noisy matte 1024²", reference.components, ours.components,
             "≥ 100×", most_repeats=2),
        *(Work("submission", f"4 images 1024² → submission.csv, flip TTA, {precision}",
               partial(reference.submission, cfg, 4), partial(ours.submission, cfg, 4, precision), ask,
               reference.squared_error, 1) for precision, ask in (("auto", "≥ 7×"), ("int8", ""))),
        *(Work("memory", f"submission of {images} images 1024², network at 128 px", None,
               partial(ours.submission_memory, images), "≤ 1.6 GiB, the same", most_repeats=1)
          for images in (10, 1000)),
        Work("memory", "training of 6 steps of 4×512², from data to best.pth", None,
             partial(ours.training_memory, 512, 4), most_repeats=1),
    ]


def gpu_works(cfg: Config) -> list[Work]:
    return [
        Work("forward", "inference 4×1024²", partial(reference.gpu_forward, cfg, 1024, 4),
             partial(ours.gpu_forward, cfg, 1024, 4), "≥ 5×"),
        *(training_work(cfg, size, images, "≥ 50 % of the copy bandwidth") for size, images in ((512, 16), (1024, 4))),
    ]


def forward_work(cfg: Config, group: str, size: int, images: int, precision: str, backend: str = "auto",
                 threads: int | None = None, ask: str = "") -> Work:
    name = (f"forward {images}×{size}², {precision}{'' if backend == 'auto' else ', without openvino'}"
            f"{f', {threads} thread' if threads else ''}{'s' if threads and threads > 1 else ''}")
    return Work(group, name, partial(reference.forward, cfg, size, images, threads),
                partial(ours.forward, cfg, size, images, precision, backend, threads), ask,
                most_repeats=2 if precision == "auto" else 100)


def training_work(cfg: Config, size: int, images: int, ask: str) -> Work:
    return Work("train", f"training step {images}×{size}², loss included",
                partial(reference.training, cfg, size, images), partial(ours.training, cfg, size, images), ask,
                ours.losses, 3)
