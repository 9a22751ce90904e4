"""Will the kernel predict all test images in time? From the seconds per image that `kernel.py test` measured here.

    save_measured(build, scratch)       # `test`: into build/kernel-test.json
    check_time(cfg, build)              # `push`: UserError if kernel.max_hours is too short
"""
import json
from pathlib import Path

from core.config import Config, sample_submission
from core.device import hardware
from core.errors import UserError
from core.files import written_whole
from imaging.images import list_images
from on_kaggle.main import SPARE, TIMING
from submission.submission_csv import read_hosted

MEASURED = "kernel-test.json"  # in the build folder
# kernel.time_factor=auto, by the device that was measured. A CPU: 1, since Kaggle's T4 is faster, and its CPU is what
# the kernel falls back to. A GPU: by their data sheets an H100 computes 15 times as fast in fp16 as a T4 (990 and 65
# TFLOPS) and reads its memory 10 times as fast.
TIME_FACTORS = {"cpu": 1, "cuda": 15}


def bundle_name(build: Path) -> str:
    """The hash of the build, with which the kernel's log begins."""
    metadata = json.loads((build / "kernel/kernel-metadata.json").read_text(encoding="utf-8"))
    text = (build / "kernel" / metadata["code_file"]).read_text(encoding="utf-8")
    return text.rpartition("'bundle': '")[2].partition("'")[0]


def save_measured(build: Path, scratch: Path) -> str:
    """Keeps the time that the kernel left below `scratch` -> it in words."""
    (timing,) = scratch.rglob(TIMING)
    found = {"machine": hardware(), **json.loads(timing.read_text(encoding="utf-8")), "bundle": bundle_name(build)}
    with written_whole(build / MEASURED) as part:
        part.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return f"{found['seconds_per_image']:.3g} s per image on {found['device']} ({found['machine']})"


def check_time(cfg: Config, build: Path) -> None:
    """Prints how long the test images will take. UserError if that is too long; a note if this build is not measured.

    A tenth of kernel.max_hours is left for the start and for what is slower there.
    """
    try:
        found = json.loads((build / MEASURED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = {}
    if found.get("bundle") != bundle_name(build):
        print("note    this build's time per image is unknown; `make kernel-test` measures it")
        return
    factor = TIME_FACTORS[found["device"]] if cfg.kernel.time_factor == "auto" else cfg.kernel.time_factor
    seconds, limit = found["seconds_per_image"] * factor, cfg.kernel.max_hours * 3600 * (1 - SPARE)
    measured = f"{found['seconds_per_image']:.3g} s per image, measured on {found['device']}, × {factor:g} on Kaggle"
    count, source = test_images(cfg)
    if count * seconds > limit:
        raise UserError(f"kernel.max_hours={cfg.kernel.max_hours:g}: is enough for {int(limit / seconds)} of {count} "
                        f"images of {source} ({measured}, see kernel.time_factor); raise it, or use fewer networks or "
                        "sizes")
    taken = f"{count} images of {source} take {count * seconds / 3600:.2g} h" if count else (
        "the number of test images is unknown, assumed to be no more than that")
    print(f"time    {measured}: kernel.max_hours={cfg.kernel.max_hours:g} is enough for {int(limit / seconds)} images; "
          f"{taken}")


def test_images(cfg: Config) -> tuple[int, str]:
    """How many there are, by the local ones or the sample submission, and where they were counted; 0: unknown."""
    try:
        return len(list_images(cfg.infer.images)[0]), str(cfg.infer.images)
    except UserError:  # no such folder, or it is empty
        sample = sample_submission(cfg)
        return (sum(1 for _ in read_hosted(sample)), str(sample)) if sample else (0, "")
