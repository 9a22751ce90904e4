"""The Kaggle kernel: built from an explicit list of sources, run here as Kaggle would, pushed and followed to its end.

    python scripts/kernel.py build kernel.mode=infer kaggle.competition=<slug>    # build/kernel/ and build/dataset/
    python scripts/kernel.py test --images 3      # what was built, offline, in a tree like Kaggle's
    python scripts/kernel.py push                 # data set and kernel to Kaggle; waits for the result
    python scripts/kernel.py status               # of the kernel's last run
    python scripts/kernel.py output               # its log and submission.csv into build/output/
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from core import cli
from core.config import Config, load_config
from core.errors import UserError
from core.files import may_empty, remove_folder, written_folder
from core.outputs import check_folder
from inference.weights import with_weights
from kaggle_kernel.bundle import CODE_FILES, SCRIPT_LIMIT, dataset_files, kernel_files
from kaggle_kernel.lint import problems

BUILD = Path("build")


def build(cfg: Config) -> None:
    """Fills build/kernel/ and build/dataset/ anew; says what a push would still refuse."""
    check_folder(BUILD, "run the command in a folder that you can write to")
    if cfg.kernel.mode == "infer":
        cfg = with_weights(cfg)
    dataset = dataset_files(cfg)
    kernel = kernel_files(cfg, dataset)
    may_empty(BUILD / "dataset", earlier_dataset)
    # Killed at any moment, a folder is whole or not there: a push finds no half of one, nor halves of two builds.
    remove_folder(BUILD / "kernel", earlier_kernel)
    for name, files, earlier in (("dataset", dataset, earlier_dataset), ("kernel", kernel, earlier_kernel)):
        with written_folder(BUILD / name, earlier) as part:
            for file, body in files.items():
                (part / file).write_bytes(body)
    for name, files in (("kernel", kernel), ("dataset", dataset)):
        print(f"{BUILD / name}: {', '.join(f'{file} {len(body):,} B' for file, body in files.items())}")
    code_file = CODE_FILES[cfg.kernel.format]
    if len(kernel[code_file]) > SCRIPT_LIMIT:
        raise UserError(f"{BUILD}/kernel/{code_file}: {len(kernel[code_file]):,} bytes; Kaggle takes {SCRIPT_LIMIT:,}")
    for problem in problems(BUILD / "kernel", BUILD / "dataset"):
        print(f"before a push: {problem}")


def earlier_kernel(name: str) -> bool:
    """Whether build/kernel is of a version that left no list of its files: the text carries the sources along."""
    texts = [BUILD / "kernel" / code_file for code_file in CODE_FILES.values()]
    built = any(b"PAYLOAD = " in text.read_bytes() for text in texts if text.is_file())
    return built and name in (*CODE_FILES.values(), "kernel-metadata.json")


def earlier_dataset(name: str) -> bool:
    return (BUILD / "dataset/SHA256SUMS").is_file() and name in (
        "config.yaml", "weights.pth", "postprocess.yaml", "metrics.csv", "SHA256SUMS", "dataset-metadata.json")


def main() -> None:
    args = cli.parse(__doc__, ("build", "test", "push", "status", "output"), options={
        "images": (3, "test: how many test images to attach")})
    cfg = load_config(args.config, args.overrides)
    if args.action == "build":
        return build(cfg)
    if args.action == "test":
        from kaggle_kernel.offline import run_offline
        return run_offline(BUILD, cfg, args.images)
    from kaggle_kernel import push as kernel_push
    return {"push": kernel_push.push, "status": kernel_push.show_status, "output": kernel_push.show_output}[
        args.action](cfg, BUILD)


if __name__ == "__main__":
    cli.run(main)
