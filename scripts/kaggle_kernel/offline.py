"""Runs a built kernel as Kaggle would: /kaggle/input read-only, /kaggle/working, no network, a Python that can import
neither the repository nor packages that Kaggle's image lacks.

    run_offline(Path("build"), cfg, images=3)
"""
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from core.config import Config
from core.device import peak_bytes
from core.errors import OperationError, UserError
from core.files import written_whole
from imaging.images import TEST_SHAPE, list_images, read_shapes, to_levels, write_image
from imaging.pairs import write_pairs_csv
from kaggle_kernel.budget import save_measured
from kaggle_kernel.versions import python_for
from scenes.scene import draw_pair
from submission.check import validate
from submission.submission_csv import HEADER

REPOSITORY = Path(__file__).resolve().parents[2]
EXECUTED = "executed.ipynb"  # in the build folder: the notebook with its outputs
PAIRS = 6  # synthetic, to train on or to show; half as large as the test images
# Ways to isolate the kernel, best first: what is printed, and the command to put before the input's folder and the
# kernel's own command.
READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0"'
# torchrun and Jupyter need loopback, which is off in a new namespace; not every machine has `ip`.
SWITCH_ON = """
import fcntl, socket, struct
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
    name, flags = struct.unpack("16sH", fcntl.ioctl(any_socket, 0x8913, struct.pack("16sH", b"lo", 0)))
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sH", name, flags | 1))
"""
LOOPBACK = shlex.join([sys.executable, "-c", SWITCH_ON])
RUN = 'exec "$@"'
WALLS = (("unshare -n; the input is mounted read-only",
          ["unshare", "-rmn", "sh", "-c", f"{READ_ONLY} && {LOOPBACK} && {RUN}"]),
         ("unshare -n; the input is read-only by its permissions",
          ["unshare", "-rn", "sh", "-c", f"{LOOPBACK} && {RUN}"]),
         ("sockets are refused only in Python; the input is read-only by its permissions", ["sh", "-c", RUN]))


def run_offline(build: Path, cfg: Config, images: int) -> None:
    """Attaches a small test set, runs the kernel, validates its submission.csv; prints time and peak memory."""
    metadata = read_metadata(build)
    python = python_for(cfg.kernel.versions, build)
    with tempfile.TemporaryDirectory(prefix="kaggle-") as folder:
        root = Path(folder).resolve() / "kaggle"
        shapes = attach(root / "input", metadata, build, cfg, images)
        (root / "working").mkdir()
        (root / "src").mkdir()
        code = shutil.copyfile(build / "kernel" / metadata["code_file"], root / "src" / metadata["code_file"])
        wall, prefix = best_wall(root / "input")
        print(f"offline {wall}", flush=True)
        set_writable(root / "input", False)
        try:
            seconds, peak = run([*prefix, python, *program(code)], root)
        finally:
            set_writable(root / "input", True)
            if (root / "src" / EXECUTED).exists():
                with written_whole(build / EXECUTED) as part:
                    shutil.copyfile(root / "src" / EXECUTED, part)
        submission = root / "working/submission.csv"
        try:
            rows = validate(submission, list(shapes), shapes)
        except UserError as error:
            raise OperationError(f"the kernel's submission is not valid: {error}") from None
        print(f"kernel-test: {rows} rows, valid, {submission.stat().st_size / 1e6:.1f} MB; {seconds:.1f} s in all, "
              f"{save_measured(build, root / 'src')}, peak memory {peak / 1e9:.2f} GB")


def attach(inputs: Path, metadata: dict, build: Path, cfg: Config, count: int) -> dict[str, tuple[int, int]]:
    """Lays out the inputs as Kaggle mounts them -> (H,W) of each test image by name."""
    slug = next(iter(metadata["competition_sources"]), "competition")
    test_dir = inputs / "competitions" / slug / "test/orig_1024"
    test_dir.mkdir(parents=True)
    if cfg.data.test_dir.is_dir():
        for path in list_images(cfg.data.test_dir)[0][:count]:
            shutil.copyfile(path, test_dir / path.name)
    else:
        for index in range(count):
            write_image(test_dir / f"{index + 1:03}.png", draw_pair(cfg.seed, index, TEST_SHAPE[0])[0])
    shapes = read_shapes(list_images(test_dir)[0])
    (test_dir.parent.parent / "sample_submission.csv").write_text(
        "".join(f"{row}\n" for row in [",".join(HEADER), *(f"{name}," for name in shapes)]), encoding="utf-8")
    shutil.copytree(build / "dataset", inputs / dataset_name(build), ignore=shutil.ignore_patterns("*-metadata.json"))
    rows = []
    for index in range(PAIRS if cfg.kernel.mode == "train" or cfg.kernel.format == "notebook" else 0):
        rgb, alpha, _ = draw_pair(cfg.seed, index, TEST_SHAPE[0] // 2)
        files = inputs / f"pairs/rgb/{index}.png", inputs / f"pairs/alpha/{index}.png"
        write_image(files[0], rgb)
        write_image(files[1], to_levels(alpha))
        rows.append(files)
    if rows:
        write_pairs_csv(inputs / "pairs/pairs.csv", rows, inputs)
    return shapes


def program(code: Path) -> list[Path]:
    """The arguments for Python that run a kernel; an executed notebook is saved beside its source."""
    if code.suffix == ".py":
        return [code]
    runner = shutil.copyfile(Path(__file__).with_name("run_notebook.py"), code.with_name("run.py"))
    return [runner, code, code.with_name(EXECUTED)]


def run(command: Sequence[object], root: Path) -> tuple[float, int]:
    """Runs it, with the guard in every Python process -> (seconds, peak memory in bytes of its largest process).

    OperationError if it fails.
    """
    (root / "guard").mkdir()
    text = Path(__file__).with_name("guard.py").read_text(encoding="utf-8")
    call = f"guard({str(REPOSITORY)!r}, sys.prefix)"
    (root / "guard/sitecustomize.py").write_text(f"{text}\n\n{call}\n", encoding="utf-8")  # Python imports it by itself
    environment = {key: os.environ[key] for key in ("PATH", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
                   if key in os.environ}
    environment |= {"KERNEL_ROOT": str(root), "HOME": str(root / "src"), "TMPDIR": str(root / "src"),
                    "PYTHONPATH": str(root / "guard")}
    started = time.perf_counter()
    process = subprocess.Popen([str(word) for word in command], cwd=root / "working", env=environment,
                               stdin=subprocess.DEVNULL)
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        process.terminate()
        raise
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise OperationError(f"the kernel ended with exit code {process.returncode}; see its last lines above")
    return time.perf_counter() - started, peak_bytes(usage)


def best_wall(inputs: Path) -> tuple[str, list[str]]:
    """The first of WALLS that this machine permits, with the input's folder added to its command."""
    for words, prefix in WALLS:
        command = [*prefix, str(inputs)]
        if shutil.which(command[0]) and subprocess.run([*command, "true"], capture_output=True).returncode == 0:
            return words, command
    raise OperationError("cannot run `sh`; kernel-test needs it")


def set_writable(folder: Path, writable: bool) -> None:
    for path in (folder, *folder.rglob("*")):
        path.chmod((0o755 if path.is_dir() else 0o644) if writable else (0o555 if path.is_dir() else 0o444))


def read_metadata(build: Path) -> dict:
    try:
        return json.loads((build / "kernel/kernel-metadata.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{build}/kernel: is not built yet; run `make kernel-build`") from None


def dataset_name(build: Path) -> str:
    return json.loads((build / "dataset/dataset-metadata.json").read_text(encoding="utf-8"))["id"].split("/")[1]
