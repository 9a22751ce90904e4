"""Builds docker/Dockerfile without a daemon and uses the image as its users will.

    python tests/image/check_image.py                             # runs a part of the test suite inside
    python tests/image/check_image.py --full                      # all of it
    python tests/image/check_image.py --storage /srv/image        # keeps base and layers for the next time
    python tests/image/check_image.py --behind-mirror             # packages from where this machine gets its own

Needs root and `apt-get install buildah iproute2`; skips where something is missing, and says what. The base is
debian:12 with the torch of TORCH_INDEX (default: the one without CUDA). With --behind-mirror the base is this machine's
own release (needs debootstrap, and Debian or Ubuntu), and its apt and pip settings are mounted during the build.
Everything else is in one temporary folder, which is removed. key=value: settings of the demo.
"""
import contextlib
import json
import mmap
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

sys.path.extend(str(Path(__file__).resolve().parents[2] / folder) for folder in ("src", "scripts", "tests"))

from core import cli
from core.errors import OperationError
from image.machine_sources import BASE, bootstrap, lent_sources, public_sources, torch_index

REPOSITORY = Path(__file__).resolve().parents[2]
TOOLS = ("buildah", "ip", "unshare", "git")
DISK = {"overlay": 8, "vfs": 30}  # GB that the build needs; without overlay each layer is a full copy
CALLER = 12345, 54321  # uid and gid without an account, here and in the image
SMALL_DEMO = ("data.synthetic.train=8", "data.synthetic.val=2", "data.synthetic.test=2")
# Tests of what a container can break: processes, signals, folders, fonts, compiled code, the Makefile.
PART = "tests/test_project.py tests/test_docker.py tests/test_train.py tests/test_infer.py tests/test_kernel_offline.py"
CANARY = "canary-3f9c1b7e"  # in place of each secret, followed by where it is
WARM = """
import os, pathlib, time
import numpy as np
count = lambda: sum(path.is_file() for path in pathlib.Path(os.environ["NUMBA_CACHE_DIR"]).rglob("*"))
before, start = count(), time.perf_counter()
from pymatting import estimate_foreground_ml
estimate_foreground_ml(np.zeros((64, 64, 3)), np.full((64, 64), 0.5))
assert count() == before > 0, "compiled again"
print(f"{time.perf_counter() - start:.1f} s")
"""


def check(storage: str, behind_mirror: bool, full: bool, overrides: Sequence[str]) -> None:
    """Prints each check that holds; OperationError at the first one that does not."""
    with temporary_root() as root:
        buildah = Buildah(Path(storage).resolve() if storage else root / "storage", root)
        context = copy_of_repository(root / "context")
        plant_secrets(context, root)
        build_twice(buildah, context, sources_behind_mirror(buildah, root) if behind_mirror else sources(buildah))
        scan_layers(buildah, root)
        check_messages(buildah, root)
        check_demo(buildah, root, overrides)
        check_tests(buildah, full)


def sources(buildah: "Buildah") -> list[str]:
    """Arguments of `buildah build`: the public sources, if this machine reaches them."""
    if torch_index():
        try:
            urllib.request.urlopen(f"{torch_index()}/torch/", timeout=30).close()
        except OSError as error:
            skip(f"no torch from {torch_index()} ({error}); set TORCH_INDEX, or use --behind-mirror")
    if (pulled := buildah.pull(BASE)).returncode:
        skip(f"no {BASE} ({tail(pulled.stderr, 1).strip()}); use --behind-mirror")
    return public_sources()


def sources_behind_mirror(buildah: "Buildah", root: Path) -> list[str]:
    """Arguments of `buildah build`: a base made here, and this machine's apt and pip settings."""
    if not buildah.has_base():
        started = time.perf_counter()
        buildah.import_base(bootstrap(root))
        say(f"base made and imported in {time.perf_counter() - started:.0f} s")
    return ["--build-arg=BASE_IMAGE=localhost/base", *lent_sources(root, f"# {CANARY} sources")]


def build_twice(buildah: "Buildah", context: Path, sources: Sequence[str]) -> None:
    print(f"built in {buildah.build(context, sources):.0f} s; end of the log:")
    print(tail(buildah.log))
    with (context / "src/train.py").open("a") as file:
        file.write("# one more line\n")
    say(f"rebuilt in {buildah.build(context, sources):.1f} s after a change of one line in src/train.py")


def check_messages(buildah: "Buildah", root: Path) -> None:
    """What a user without an account or a network is told."""
    foreign = root / "foreign"
    foreign.mkdir()
    for where, folders, named in (("without data", {}, "/app/data"),
                                  ("into another user's folder", {"outputs": foreign}, "/app/outputs")):
        message = buildah.make("train", folders=folders, expect=2).stderr.strip()
        require(named in message and "\n" not in message, f"`train` {where} says: {message}")
        say(f"`train` {where}: {message}")
    require("Nothing to be done" in buildah.make("setup").stdout, "`setup` has something to do")
    say("`setup` has nothing to do")
    say(f"pymatting is compiled: imported and run in {buildah.run('/opt/venv/bin/python', '-c', WARM).stdout.strip()}")


def check_demo(buildah: "Buildah", root: Path, overrides: Sequence[str]) -> None:
    """The demo leaves its files in the mounted folders, and they belong to the caller."""
    folders = {name: root / "mounted" / name for name in ("data", "weights", "outputs")}
    for folder in folders.values():
        folder.mkdir(parents=True)
        os.chown(folder, *CALLER)
    started = time.perf_counter()
    result = buildah.make("demo", f"ARGS={' '.join([*SMALL_DEMO, *overrides])}", folders=folders)
    print(tail(result.stdout, 8))
    made = [path for folder in folders.values() for path in folder.rglob("*")]
    owners = {(path.stat().st_uid, path.stat().st_gid) for path in made}
    require((folders["outputs"] / "demo/report.html").is_file() and owners == {CALLER},
            f"the demo's {len(made)} files belong to {owners}")
    say(f"`demo` in {time.perf_counter() - started:.0f} s: {len(made)} files in the mounted folders, the caller's own")


def check_tests(buildah: "Buildah", full: bool) -> None:
    started = time.perf_counter()
    result = buildah.make("test", *([] if full else [f"ARGS={PART}"]))
    print(tail(result.stdout, 12))
    say(f"`test` ({'the whole suite' if full else PART}) in {time.perf_counter() - started:.0f} s")


class Buildah:
    """One image in its own storage; commands in it see no network and nothing of this process's environment."""

    def __init__(self, storage: Path, root: Path):
        self.log = root / "build.log"
        # buildah keeps the Dockerfile's cache mounts in TMPDIR.
        self._environment = {**os.environ, "TMPDIR": str(storage / "tmp"), "HOME": str(root / "home"),
                             "BUILDAH_ISOLATION": "chroot", "KAGGLE_KEY": f"{CANARY} environment"}
        (storage / "tmp").mkdir(parents=True, exist_ok=True)
        for driver in DISK:
            self._command = ["buildah", "--root", storage / driver, "--runroot", storage / f"{driver}-run",
                             "--storage-driver", driver]
            if self._call("info", check=False).returncode == 0:
                break
        if shutil.disk_usage(storage).free < DISK[driver] * 1e9:
            skip(f"{storage}: less than {DISK[driver]} GB free, which buildah's {driver} storage needs")

    def _call(self, *arguments: object, check: bool = True, before: Sequence[str] = (),
              log: IO | None = None) -> subprocess.CompletedProcess:
        result = subprocess.run([*before, *self._command, *arguments], env=self._environment, cwd="/", text=True,
                                stdin=subprocess.DEVNULL, stdout=log or subprocess.PIPE,
                                stderr=subprocess.STDOUT if log else subprocess.PIPE)
        if check and result.returncode:
            raise OperationError(f"buildah {arguments[0]} failed with exit code {result.returncode}: "
                                 f"{result.stderr[-2000:]}")
        return result

    @contextlib.contextmanager
    def _container(self, image: str) -> Iterator[str]:
        name = self._call("from", image).stdout.strip()
        try:
            yield name
        finally:
            self._call("rm", name)

    def pull(self, image: str) -> subprocess.CompletedProcess:
        return self._call("pull", image, check=False)

    def has_base(self) -> bool:
        return self._call("inspect", "--type", "image", "localhost/base", check=False).returncode == 0

    def import_base(self, folder: Path) -> None:
        with self._container("scratch") as container:
            self._call("copy", "--quiet", container, folder, "/")
            self._call("commit", "--quiet", container, "base")

    def build(self, context: Path, sources: Sequence[str]) -> float:
        """Returns the seconds it took; its output goes to `log`."""
        started = time.perf_counter()
        with self.log.open("w") as log:
            result = self._call("build", "--layers", "--network", "host", "--file", context / "docker/Dockerfile",
                                "--tag", "matting", *sources, context, check=False, log=log)
        if result.returncode:
            print(tail(self.log, 40))
            raise OperationError(f"the build failed with exit code {result.returncode}; see its last lines above")
        return time.perf_counter() - started

    def run(self, *command: str, folders: dict[str, Path] | None = None,
            expect: int = 0) -> subprocess.CompletedProcess:
        """Runs a command in a new container, as CALLER, with only the loopback interface."""
        alone = ("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
        mounts = [f"--volume={path}:/app/{name}" for name, path in (folders or {}).items()]
        with self._container("localhost/matting") as container:
            result = self._call("run", "--user", "{}:{}".format(*CALLER), *mounts, container, "--", *command,
                                check=False, before=alone)
        # Without the lines that buildah adds.
        result.stderr = re.sub(r"(?m)^(subprocess exited with|Error: exit) status \d+\n", "", result.stderr)
        if result.returncode != expect:
            print(tail(result.stdout, 60), tail(result.stderr), sep="\n")
            raise OperationError(f"{command}: exit code {result.returncode}, not {expect}; see its last lines above")
        return result

    def make(self, *arguments: str, **how) -> subprocess.CompletedProcess:
        """As `docker run`: `buildah run` does not start the entry point by itself."""
        image = json.loads(self._call("inspect", "--type", "image", "localhost/matting").stdout)
        return self.run(*image["OCIv1"]["config"]["Entrypoint"], *arguments, **how)

    def export(self, folder: Path) -> list[Path]:
        """Writes the image as files, with uncompressed layers."""
        self._call("push", "--disable-compression", "localhost/matting", f"dir:{folder}")
        return sorted(folder.iterdir())


def copy_of_repository(target: Path) -> Path:
    """Copies the files that git tracks or would add."""
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=REPOSITORY,
                            capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (REPOSITORY / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, target / name)
    return target


def plant_secrets(context: Path, root: Path) -> None:
    """Puts secrets that must not enter the image where people have them."""
    for name in ("kaggle.json", ".kaggle/kaggle.json", "src/kaggle.json", ".env", "scripts/.env", "docker/key.pem",
                 ".git/config", ".venv/pip.conf", "data/splits/train.csv", "weights/u2netp.pth", "outputs/run/last.pth",
                 "build/dataset/best.pth", "notes.txt"):
        path = context / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{CANARY} {name}")
    (root / "home/.kaggle").mkdir(parents=True)
    (root / "home/.kaggle/kaggle.json").write_text(f'{{"username": "me", "key": "{CANARY} home"}}')


def scan_layers(buildah: Buildah, root: Path) -> None:
    """Searches every layer for CANARY, and for a line of the code to prove that the search works."""
    files = buildah.export(root / "export")
    seen, leaked = False, set()
    for path in files:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            seen |= content.find(b"def xray_alpha_dense(") >= 0
            leaked |= {match[0].decode() for match in re.finditer(CANARY.encode() + rb" [\w./]+", content)}
    require(seen, "the code itself is not found in the layers; are they compressed?")
    require(not leaked, f"in the layers: {', '.join(sorted(leaked))}")
    size = sum(path.stat().st_size for path in files)
    say(f"image {size / 1e9:.2f} GB uncompressed in {len(files)} files; none holds a planted secret")
    shutil.rmtree(root / "export")


@contextlib.contextmanager
def temporary_root() -> Iterator[Path]:
    root = Path(tempfile.mkdtemp(prefix="image-", dir="/var/tmp"))
    root.chmod(0o755)
    try:
        yield root
    finally:
        # An interrupted build leaves this machine's folders mounted here; they must not be deleted with the rest.
        mounted = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        for point in sorted((point for point in mounted if point.startswith(f"{root}/")), reverse=True):
            subprocess.run(["umount", point], check=True)
        shutil.rmtree(root)


def tail(text: str | Path, lines: int = 15) -> str:
    text = text.read_text() if isinstance(text, Path) else text
    return "\n".join(f"    {line}" for line in text.rstrip().splitlines()[-lines:])


def require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise OperationError(otherwise)


def say(what: str) -> None:
    print(f"ok      {what}", flush=True)


def skip(reason: str) -> None:
    print(f"skipped: {reason}")
    sys.exit()


def main() -> None:
    args = cli.parse(__doc__, options={"full": (False, "the whole test suite inside the image"),
                                       "storage": ("", "folder that keeps base and layers for the next time"),
                                       "behind-mirror": (False, "build with this machine's apt and pip settings")})
    tools = (*TOOLS, "debootstrap") if args.behind_mirror else TOOLS
    if missing := [tool for tool in tools if not shutil.which(tool)]:
        skip(f"no {', '.join(missing)} here (apt-get install buildah debootstrap iproute2)")
    if os.geteuid() != 0:
        skip("needs root")
    check(args.storage, args.behind_mirror, args.full, args.overrides)


if __name__ == "__main__":
    cli.run(main)
