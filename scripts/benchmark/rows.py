"""The rows of `make bench`: for each piece of work its reference, our side, and how well the results agree."""
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmark import run_baseline, run_pipeline
from benchmark.inputs import Forward, difference, difference_inside
from core.config import Config
from core.device import usable_cores


@dataclass(frozen=True)
class Work:
    """Both sides are prepared (networks, pictures) before the clock starts, each in its own process."""
    group: str
    name: str
    reference: Callable[[], AbstractContextManager[Callable]] | None  # None: nothing to compare with
    # yields the function to time and note(median seconds), a remark that is asked for before the block ends
    ours: Callable[[], AbstractContextManager[tuple[Callable, Callable[[float], str]]]]
    ask: str = ""
    agreement: Callable[[Any, Any], str] = difference  # of the results: (reference's, ours)
    most_repeats: int = 100  # fewer for slow rows


def cpu_works(cfg: Config) -> list[Work]:
    return [*forward_works(cfg), training_work(cfg, 512, 4, "≥ 3×"), *xray_works(cfg),
            Work("components", "component post-processing, noisy matte 1024²", run_baseline.components,
                 run_pipeline.components, "≥ 100×", most_repeats=2),
            *submission_works(cfg), *ensemble_works(cfg), *memory_works()]


def gpu_works(cfg: Config) -> list[Work]:
    return [
        Work("forward", "inference 4×1024²", partial(run_baseline.gpu_forward, cfg, 1024, 4),
             partial(run_pipeline.gpu_forward, cfg, 1024, 4), "≥ 5×"),
        *(training_work(cfg, size, images, "≥ 50 % of the copy bandwidth") for size, images in ((512, 16), (1024, 4))),
    ]


def forward_works(cfg: Config) -> list[Work]:
    cores = usable_cores()
    return [
        forward_work(cfg, "forward", Forward(1024, precision="fp32"), "≥ 4×"),
        forward_work(cfg, "forward", Forward(1024, precision="bf16"), "≥ 7.5×"),
        forward_work(cfg, "forward", Forward(1024, precision="int8"), "≥ 12×, if the MSE allows"),
        forward_work(cfg, "forward", Forward(1024, precision="bf16", backend="torch")),
        *(forward_work(cfg, "size", Forward(size)) for size in (512, 2048)),
        *(forward_work(cfg, "images", Forward(512, images)) for images in (4, 16)),
        *(forward_work(cfg, "threads", Forward(1024, threads=threads)) for threads in (1, 2) if threads <= cores),
    ]


def forward_work(cfg: Config, group: str, case: Forward, ask: str = "") -> Work:
    without = "" if case.backend == "auto" else ", without openvino"
    threads = f", {case.threads} thread{'s' if case.threads > 1 else ''}" if case.threads else ""
    return Work(group, f"forward {case.images}×{case.size}², {case.precision}{without}{threads}",
                partial(run_baseline.forward, cfg, case), partial(run_pipeline.forward, cfg, case), ask,
                most_repeats=2 if case.precision == "auto" else 100)


def training_work(cfg: Config, size: int, images: int, ask: str) -> Work:
    return Work("train", f"training step {images}×{size}², loss included",
                partial(run_baseline.training, cfg, size, images), partial(run_pipeline.training, cfg, size, images),
                ask, run_pipeline.losses, 3)


def xray_works(cfg: Config) -> list[Work]:
    return [Work("xray", f"xray_alpha_dense {size}²", partial(run_baseline.xray, cfg, size),
                 partial(run_pipeline.xray, cfg, size), ask, partial(difference_inside, cfg, size))
            for size, ask in ((1024, "≥ 8×"), (512, ""))]


def submission_works(cfg: Config) -> list[Work]:
    return [Work("submission", f"4 images 1024² → submission.csv, flip TTA, {precision}",
                 partial(run_baseline.submission, cfg, 4), partial(run_pipeline.submission, cfg, 4, precision), ask,
                 run_baseline.squared_error, 1)
            for precision, ask in (("auto", "≥ 7×"), ("int8", ""))]


def ensemble_works(cfg: Config) -> list[Work]:
    """No reference: three networks are to cost three passes and nothing else."""
    submissions = [Work("ensemble", f"4 images 1024² → submission.csv, flip TTA, {networks} of the same network", None,
                        partial(run_pipeline.submission, cfg, 4, "auto", networks), "≥ 95 % in the networks",
                        most_repeats=3) for networks in (1, 3)]
    return [*submissions,
            Work("ensemble", "submission of 1000 images 1024², 3 networks at 128 px", None,
                 partial(run_pipeline.submission_memory, 1000, 3), "as one network, plus its weights", most_repeats=1)]


def memory_works() -> list[Work]:
    submissions = [Work("memory", f"submission of {images} images 1024², network at 128 px", None,
                        partial(run_pipeline.submission_memory, images), "≤ 1.6 GiB, the same", most_repeats=1)
                   for images in (10, 1000)]
    return [*submissions, Work("memory", "training of 6 steps of 4×512², from data to best.pth", None,
                               partial(run_pipeline.training_memory, 512, 4), most_repeats=1)]
