"""The kernel's bundle: what is in it and what is not, what lint refuses, what the kernel finds among its inputs."""
import ast
import base64
import hashlib
import io
import json
import re
import shutil
import sys
import tarfile
import time
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import pytest
import torch

import kernel
from conftest import ROOT, write_pairs
from core.config import Config, as_overrides, load_config
from core.errors import UserError
from core.files import file_sha256
from kaggle_kernel import bundle
from kaggle_kernel.lint import dataset_problems, kernel_problems, problems
from on_kaggle import inputs as kernel_inputs
from on_kaggle import main as kernel_main

# What Kaggle's image has of what the sources need.
KAGGLE_HAS = {"torch", "numpy", "cv2", "PIL", "scipy", "tqdm", "yaml", "matplotlib", "pydantic"}


def imports(path: Path, top_level: bool) -> set[str]:
    """Dotted names that are imported; at top level: those that importing the module needs."""
    tree = ast.parse(path.read_text())
    found = set()
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
    return found


def first_parts(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


ROOTS = bundle.BOOT, bundle.CELLS, ROOT / "scripts/on_kaggle/main.py"


def test_the_bundled_sources_are_whole_folders_and_all_that_is_imported():
    here = {".".join(path.relative_to(ROOT / folder).with_suffix("").parts): path
            for folder in ("src", "scripts") for path in (ROOT / folder).rglob("*.py")}
    needed, waiting = set(), [*ROOTS]
    while waiting:
        new = {here[name] for name in imports(waiting.pop(), top_level=False) & here.keys()} - needed
        needed |= new
        waiting += new
    folders = {path for folder in ("src", "scripts/on_kaggle") for path in (ROOT / folder).rglob("*.py")}
    assert set(bundle.SOURCES) == folders | {ROOT / "scripts/launch.py"} >= needed | {ROOTS[-1]}


@pytest.mark.parametrize("path", [bundle.BOOT, *bundle.SOURCES], ids=lambda path: path.name)
def test_a_bundled_source_loads_with_what_kaggles_image_has(path):
    own = {source.relative_to(ROOT).with_suffix("").parts[1] for source in bundle.SOURCES}  # below src/ or scripts/
    assert first_parts(imports(path, top_level=True)) <= KAGGLE_HAS | own | sys.stdlib_module_names


def build_in(folder: Path, run_dir: Path, *more: str) -> Path:
    """Builds as a user does in `folder`, with secrets and paths of this machine around -> folder/build."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("KAGGLE_USERNAME", "somebody")
        patch.setenv("KAGGLE_KEY", "s3cret")
        kernel.build(load_config(ROOT / "config.yaml", [
            "kaggle.competition=matting", f"train.out_dir={run_dir}", f"data.root={folder}/data",
            f"data.backgrounds_dir={folder}/backgrounds", "weights.url=https://user:s3cret@example.org/w", *more]))
    return folder / "build"


@pytest.fixture(scope="module")
def built(tmp_path_factory, run_dir):
    """Kernel and data set, built from a run folder; for reading only."""
    return build_in(tmp_path_factory.mktemp("built"), run_dir)


def contents(build: Path) -> dict[str, bytes]:
    """Every file of the build, and every source inside the script."""
    files = {str(path.relative_to(build)): path.read_bytes() for path in build.rglob("*") if path.is_file()}
    (code,) = (body for name, body in files.items() if name.startswith("kernel/kernel."))
    payload = re.search(rb'PAYLOAD = \\?"([^"\\]*)', code)[1]
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(payload))) as archive:
        return files | {f"payload/{name}": archive.extractfile(name).read() for name in archive.getnames()}


def test_the_bundle_holds_sources_weights_and_settings_within_kaggles_limits(built):
    files = contents(built)
    assert {name for name in files if name.startswith("payload/")} == {
        f"payload/{path.relative_to(ROOT).as_posix().partition('/')[2]}" for path in bundle.SOURCES}
    assert len(files["kernel/kernel.py"]) < 1_000_000
    assert sum(len(body) for name, body in files.items() if name.startswith("dataset/")) < 10_000_000
    assert set(torch.load(built / "dataset/weights.pth", weights_only=True)) == {
        "model_state", "config", "epoch", "metrics"}
    for line in files["dataset/SHA256SUMS"].decode().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256(files[f"dataset/{name}"]).hexdigest() == digest
    assert not problems(built / "kernel", built / "dataset")
    assert len(load_config(built / "dataset/config.yaml").model_dump_json()) > 1000


def test_each_setting_that_is_a_path_stays_on_this_machine():
    kernels_own = {"data.root", "train.out_dir"}  # portable() sets them
    paths = {f"{section}.{name}" for section, field in Config.model_fields.items()
             for name, each in getattr(field.annotation, "model_fields", {}).items()
             if "Path" in str(each.annotation) or Path in get_args(each.annotation)}
    assert {"data.train_csv", "infer.png_dir", *kernels_own} <= paths
    assert paths - kernels_own <= {f"{section}.{name}" for section, names in bundle.LOCAL.items() for name in names}


def test_nothing_secret_and_no_path_of_this_machine_is_in_the_bundle(built, run_dir):
    local = [b"s3cret", *(str(path).encode() for path in (ROOT, run_dir, built.parent, Path.home() / ".kaggle"))]
    for name, body in contents(built).items():
        assert not [word for word in local if word in body], name


def test_the_same_input_gives_the_same_bytes(built, run_dir, tmp_path):
    assert contents(build_in(tmp_path, run_dir)) == contents(built)


def test_a_build_replaces_what_was_there(run_dir, tmp_path):
    build_in(tmp_path, run_dir)
    build = build_in(tmp_path, run_dir, "kernel.mode=train", "model.weights=null")
    assert not (build / "dataset/weights.pth").exists()


@pytest.mark.parametrize("setting", ["infer.postprocess=tuned", "augment.background_p=0.5", "train.compile=true"])
def test_what_would_end_a_run_on_kaggle_is_refused_at_once(run_dir, tmp_path, setting):
    with pytest.raises(UserError, match=setting.partition("=")[0]):
        build_in(tmp_path, run_dir, "kernel.mode=train", "model.weights=null", setting)


def test_the_template_in_the_repository_is_private_offline_and_on_a_t4():
    metadata = json.loads((ROOT / "kernel-metadata.json").read_text())
    assert (metadata["is_private"], metadata["enable_internet"], metadata["machine_shape"]) == (
        True, False, "NvidiaTeslaT4")


@pytest.mark.parametrize("change, words", [
    ({"enable_internet": True}, "enable_internet"), ({"is_private": False}, "is_private"),
    ({"enable_intrenet": False}, "enable_intrenet is not a key that Kaggle knows"), ({"title": "Four"}, "4 characters"),
    ({"title": "Something else"}, "something-else"), ({"code_file": "other.py"}, "other.py does not exist"),
    ({"machine_shape": ""}, "P100"), ({"competition_sources": []}, "kaggle.competition"),
    ({"dataset_sources": ["weights"]}, "'weights' is not owner/slug"), ({"id": "nobody/dense-alpha-matting"}, "owner"),
    ({"kernel_type": "notebook"}, "kernel_type do not fit kernel.py")])
def test_lint_of_the_kernel(built, change, words):
    metadata = json.loads((built / "kernel/kernel-metadata.json").read_text())
    assert not list(kernel_problems(metadata, built / "kernel"))
    assert [problem for problem in kernel_problems(metadata | change, built / "kernel") if words in problem]


@pytest.mark.parametrize("change, words", [
    ({"id": "a/short"}, "5 characters instead of 6"), ({"title": "x" * 51}, "51 characters"),
    ({"licenses": []}, "licence")])
def test_lint_of_the_data_set(built, change, words):
    data = json.loads((built / "dataset/dataset-metadata.json").read_text())
    kernel_data = {"dataset_sources": [data["id"]]}
    assert not list(dataset_problems(data, kernel_data))
    assert [problem for problem in dataset_problems(data | change, kernel_data) if words in problem]


# Inside the kernel

@pytest.fixture
def inputs(tmp_path, built):
    """/kaggle/input with the bundle's data set alone."""
    shutil.copytree(built / "dataset", tmp_path / "input/weights", ignore=shutil.ignore_patterns("*-metadata.json"))
    return tmp_path / "input"


def settings(inputs: Path) -> dict:
    return {"dataset": "somebody/weights", "sums": file_sha256(inputs / "weights/SHA256SUMS")}


def write_image(path: Path, side: int = 1024) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.zeros((side, side, 3), np.uint8))


def write_sample(path: Path, names: str) -> None:
    path.write_text("filename,image_utf\n" + "".join(f"{name},\n" for name in names.split()))


def test_weights_of_another_build_damaged_or_missing_are_refused(inputs):
    wanted = settings(inputs)
    assert kernel_inputs.find_bundle(inputs, wanted) == inputs / "weights"
    with pytest.raises(UserError, match="in another version"):
        kernel_inputs.find_bundle(inputs, wanted | {"sums": "0"})
    (inputs / "weights/weights.pth").write_bytes(b"x")
    with pytest.raises(UserError, match="damaged"):
        kernel_inputs.find_bundle(inputs, wanted)
    shutil.rmtree(inputs / "weights")
    with pytest.raises(UserError, match=r"not attached; attached in .*: nothing"):
        kernel_inputs.find_bundle(inputs, wanted)


@pytest.mark.parametrize("place", ["matting", "competitions/matting", "competitions/matting-2026", "other-name"])
def test_the_test_set_is_found_wherever_the_competition_is_mounted(inputs, place):
    write_image(inputs / place / "test/orig_1024/1.png")
    write_image(inputs / place / "test/small/1.png", 64)
    write_pairs(inputs / "datasets/somebody/pairs", 2, 64)
    found = kernel_inputs.find_test_set(inputs, "matting", inputs / "weights")
    assert found == (inputs / place / "test/orig_1024", None)


@pytest.mark.parametrize("names, side, order", [("1 2", 1024, True), ("1", 1024, False), ("1 2", 640, True)],
                         ids=["as listed", "hidden set is larger", "other size"])
def test_the_sample_submission_orders_the_test_set_where_it_fits(inputs, names, side, order):
    for name in ("1", "2"):
        write_image(inputs / f"matting/test/{name}.png", side)
    write_sample(inputs / "matting/sample_submission.csv", names)
    sample = inputs / "matting/sample_submission.csv" if order else None
    assert kernel_inputs.find_test_set(inputs, "matting", inputs / "weights") == (inputs / "matting/test", sample)


def test_what_is_missing_is_said_with_what_is_attached(inputs, tmp_path):
    with pytest.raises(UserError, match=r"matting is not attached.*attached in .*input: weights \(3 files\)"):
        kernel_inputs.find_test_set(inputs, "matting", inputs / "weights")
    with pytest.raises(UserError, match=r"to train on.*attached in .*: weights \(3 files\)"):
        kernel_inputs.find_splits(inputs, tmp_path, 0.2)


def test_training_pairs_are_taken_as_split_or_split_here(inputs, tmp_path):
    table = write_pairs(inputs / "pairs", 5, 64)
    train, val = kernel_inputs.find_splits(inputs, tmp_path, 0.2)
    assert len(train.read_text().splitlines()) + len(val.read_text().splitlines()) == 5 + 2
    for name in ("train.csv", "val.csv"):
        table.with_name(name).write_text(table.read_text())
    assert kernel_inputs.find_splits(inputs, tmp_path, 0.2) == (inputs / "pairs/train.csv", inputs / "pairs/val.csv")


def test_too_little_time_to_train_is_refused(inputs, tmp_path):
    write_image(inputs / "matting/1.png")
    images = as_overrides({"infer.images": inputs / "matting"})
    job = kernel_main.Job(inputs / "weights", inputs, tmp_path, images, "cpu", time.monotonic() - 9 * 3600)
    with pytest.raises(UserError, match=r"kernel\.max_hours leaves no time"):
        kernel_main.train(job)


@pytest.mark.parametrize("mode", ["infer", "train"])
def test_a_run_infers_with_the_weights_that_its_mode_gives(inputs, tmp_path, monkeypatch, mode):
    job = kernel_main.Job(inputs / "weights", inputs, tmp_path, (f"kernel.mode={mode}",), "cpu", 0)
    used = []
    for name, step in {"start": lambda settings: job, "train": lambda job: Path("run/best.pth"),
                       "predict": lambda job, weights: used.append(weights), "finish": used.append}.items():
        monkeypatch.setattr(kernel_main, name, step)
    kernel_main.run({})
    assert used == [[Path("run/best.pth") if mode == "train" else inputs / "weights/weights.pth"], job]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_the_fall_back_is_loud(capsys, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert kernel_main.usable_device() == "cpu"
    assert "NO USABLE GPU" in capsys.readouterr().out
