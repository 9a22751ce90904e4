"""Where an image that is built here gets its packages from: the public sources, or this machine's own settings.

    buildah("build", *public_sources(), …)
    buildah("build", *lent_sources(root, "# a mark"), …)    # behind a mirror; its base: bootstrap(root)
"""
import ast
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

from core.errors import OperationError

REPOSITORY = Path(__file__).resolve().parents[2]
BASE = "docker.io/library/debian:12"
CPU_TORCH = "https://download.pytorch.org/whl/cpu"
CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
# The settings of pip that say where packages come from; others (cache-dir, user, …) concern this machine only.
PIP_SOURCES = ("index-url", "extra-index-url", "find-links", "no-index", "trusted-host", "cert", "client-cert", "proxy",
               "timeout", "default-timeout", "retries")


def public_sources() -> list[str]:
    """Arguments of `buildah build`: Debian 12, and torch from TORCH_INDEX, without CUDA by default."""
    return [f"--build-arg=BASE_IMAGE={BASE}", f"--build-arg=TORCH_INDEX={torch_index()}"]


def torch_index() -> str:
    return os.environ.get("TORCH_INDEX", CPU_TORCH)


def bootstrap(root: Path) -> Path:
    """The smallest root file system of this machine's release, from its own package source."""
    uri, release, _ = next(source for source in apt_sources() if source[1] == codename() and source[2] == "main")
    components = sorted({source[2] for source in apt_sources() if source[1] == release})
    more = ["--include=ca-certificates"] if uri.startswith("https:") else []
    # In a mount namespace, so that nothing stays mounted if it is interrupted.
    result = subprocess.run(["unshare", "--mount", "debootstrap", "--variant=minbase", *more,
                             f"--components={','.join(components)}", release, root / "base", uri],
                            capture_output=True, text=True)
    if result.returncode:
        print(result.stdout[-2000:], result.stderr)
        raise OperationError(f"debootstrap failed with exit code {result.returncode}; see its last lines above")
    return root / "base"


def codename() -> str:
    return platform.freedesktop_os_release()["VERSION_CODENAME"]


def apt_sources() -> list[tuple[str, str, str]]:
    """(URI, release, component) of this release's sources, as apt resolves its own configuration."""
    listed = subprocess.run(["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)",
                             "Identifier: Packages"], capture_output=True, text=True, check=True).stdout
    found = dict.fromkeys(tuple(line.split()) for line in listed.splitlines())
    return [source for source in found if re.fullmatch(rf"{codename()}(-\w+)?", source[1])]


def lent_sources(root: Path, note: str) -> list[str]:
    """Arguments of `buildah build` that lend it this machine's apt and pip settings while it runs.

    The files with these settings are written to `root`, for its owner only, with `note` as first line. Local folders
    and certificates that pip's settings name are mounted below /mnt, an empty folder in every base.
    """
    apt = shutil.copytree("/etc/apt", root / "apt", ignore=shutil.ignore_patterns("sources.list*"))
    (apt / "sources.list.d").mkdir()
    write_private(apt / "sources.list", f"{note}\n" + "".join(
        f"deb {uri} {release} {component}\n" for uri, release, component in apt_sources()))
    mnt = root / "mnt"
    mnt.mkdir()
    lent = [f"--volume={apt}:/etc/apt:ro", f"--volume={mnt}:/mnt"]

    def lend(word: str, option: str) -> str:
        local = Path(word.removeprefix("file://"))
        if not local.is_absolute() or not local.exists():
            return word
        # An index's pages point to files beside the index.
        shared, rest = (local.parent, local.name) if option.endswith("index-url") else (local, "")
        point = mnt / str(len(lent))
        point.mkdir() if shared.is_dir() else point.touch()
        lent.append(f"--volume={shared}:/mnt/{point.name}:ro")
        return f"{'file://' if word.startswith('file://') else ''}{Path('/mnt', point.name, rest)}"

    lines = [f"{option} = {' '.join(lend(word, option) for word in value.split())}\n"
             for option, value in pip_settings().items()]
    write_private(root / "pip.conf", f"{note}\n[global]\n{''.join(lines)}")
    torch_index = [] if cpu_torch_is_default() else [f"--build-arg=TORCH_INDEX={CPU_TORCH}"]
    return [*lent, f"--secret=id=pip.conf,src={root / 'pip.conf'}", *torch_index]


def write_private(path: Path, text: str) -> None:
    """Settings may hold passwords: only the owner may read the file."""
    path.touch(0o600)
    path.write_text(text)


def pip_settings() -> dict[str, str]:
    """PIP_SOURCES as this Python's pip knows them, from files and environment."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True,
                            check=True).stdout
    settings = {"cert": CA_BUNDLE} if Path(CA_BUNDLE).exists() else {}
    # Settings of the environment (":env:.cert='…'") win, so they come last.
    for line in sorted(listed.splitlines(), key=lambda line: line.startswith(":env:")):
        name, value = line.split("=", 1)
        if (option := name.rsplit(".", 1)[-1]) in PIP_SOURCES:
            settings[option] = ast.literal_eval(value)
    return settings


def cpu_torch_is_default() -> bool:
    """Whether pip, as configured here, already installs the torch without CUDA."""
    pin = re.search(r"^torch==\S+", (REPOSITORY / "requirements.txt").read_text(), re.M)[0]
    found = subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed",
                            "--no-deps", "--report=-", pin], capture_output=True, text=True, check=True).stdout
    return json.loads(found)["install"][0]["metadata"]["version"].endswith("+cpu")
