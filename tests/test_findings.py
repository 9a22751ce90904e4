"""Which of a competition's folders holds the test images, as the kernel and `make data` find it."""
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from core.errors import OperationError
from on_kaggle import inputs as kernel_inputs
from submission import competition_files as findings
from submission.competition_files import find_pairs, find_test_images, pairs_tables, sample_kind


def draw(folder: Path, names: str, side: int = 1024) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names.split():
        cv2.imwrite(str(folder / name), np.zeros((side, side), np.uint8))
    return folder


def empty(folder: Path, names: str) -> Path:
    """Files that no decoder can read."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names.split():
        (folder / name).write_bytes(b"")
    return folder


def sample(path: Path, names: str, header: str = "filename,image_utf") -> Path:
    path.write_text(f"{header}\n" + "".join(f"{name}{',x' * header.count(',')}\n" for name in names.split()))
    return path


@pytest.fixture
def opens(monkeypatch):
    """The images that were opened."""
    opened = []
    for module in (findings, findings.is_readable.__globals__):
        values = module if isinstance(module, dict) else vars(module)
        look = values["read_shape"]
        monkeypatch.setitem(values, "read_shape", lambda path, look=look: opened.append(path) or look(path))
    return opened


def test_names_decide_without_a_look_into_any_image(tmp_path, opens):
    draw(tmp_path / "train", "9.png 8.png")
    empty(tmp_path / "extra/thumbs", "7.png 1.png")
    wanted = empty(tmp_path / "a/b", " ".join(f"{i}.PNG" for i in range(2000)))
    path = sample(tmp_path / "stage1_sample_submission.csv", " ".join(map(str, reversed(range(2000)))))
    images, found = find_test_images(tmp_path)
    assert (images[0].parent, len(images), found, opens) == (wanted, 2000, path, [])


@pytest.mark.parametrize("header, names", [
    ("filename,image_utf", "1 2"), ("id,image_utf,Usage", "2 1"), ("Id;image_utf", "1 2"), ("image", "1.png 2.png"),
    ("filename,image_utf", "test/1.jpg test/2.jpg")])
def test_a_sample_submission_may_be_written_as_hosts_do(tmp_path, header, names):
    for folder in ("train", "test", "other"):
        empty(tmp_path / folder, "1.png 2.png" if folder != "other" else "3.png")
    lines = [f"\ufeff{header}", *(f"{name}{';' * header.count(';')}" for name in names.split()), "", "", ""]
    (tmp_path / "sampleSubmission.csv").write_bytes("\r\n".join(lines).encode())
    images, found = find_test_images(tmp_path)
    assert images[0].parent == tmp_path / "test" and found.name == "sampleSubmission.csv"


def test_sizes_are_read_of_a_few_images_of_what_still_competes(tmp_path, opens):
    draw(tmp_path / "test/large", " ".join(f"{i}.png" for i in range(12)), 1024)
    draw(tmp_path / "test/small", " ".join(f"{i}.png" for i in range(12)), 64)
    empty(tmp_path / "train", "0.png 1.png")
    sample(tmp_path / "sample_submission.csv", " ".join(map(str, range(12))))
    assert find_test_images(tmp_path)[0][0].parent == tmp_path / "test/large"
    assert len(set(opens)) == 2 * findings.LOOKS and not [path for path in opens if "train" in str(path)]


@pytest.mark.parametrize("folders, wanted", [
    (["train/images", "test/images"], "test/images"), (["images", "masks", "test"], "test"),
    (["matting_train_test/train", "matting_train_test/test"], "matting_train_test/test"),
    (["latest", "stage1_test"], "stage1_test"), (["TrainSet", "TestSet"], "TestSet"),
    (["test/preview", "test/orig_1024"], "test/orig_1024")])
def test_without_a_sample_submission_the_folders_names_decide(tmp_path, folders, wanted):
    for folder in folders:
        draw(tmp_path / folder, "1.png 2.png", 32)
    assert find_test_images(tmp_path)[0] == [tmp_path / wanted / name for name in ("1.png", "2.png")]


def test_a_training_set_alone_is_no_test_set(tmp_path):
    draw(tmp_path / "train", "1.png", 32)
    with pytest.raises(OperationError, match=r"cannot tell which.*train \(1\)"):
        find_test_images(tmp_path)


def test_what_cannot_be_read_is_no_candidate(tmp_path, capsys):
    test = draw(tmp_path / "test", "1.png 2.png", 32)
    empty(tmp_path / "test", "broken.png")
    (tmp_path / "gone.png").symlink_to("nowhere")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "mac.csv").write_bytes(b"a,b\rc,d\re,f")
    (tmp_path / "example_submission.csv").write_bytes(b"\xff\xfe\x00filename")
    path = sample(tmp_path / "sample_submission.csv", "2 1")
    images, found = find_test_images(tmp_path)
    assert images[0].parent == test and found == path
    assert pairs_tables(tmp_path) == find_pairs(tmp_path) == []


def test_a_sample_that_names_other_images_is_told(tmp_path, capsys):
    test = empty(tmp_path / "test", "1.png 2.png")
    sample(tmp_path / "example_submission.csv", "a b c")
    assert find_test_images(tmp_path) == ([test / "1.png", test / "2.png"], None)
    assert "does not match the images in" in capsys.readouterr().out


@pytest.mark.parametrize("name, kind", [
    ("sample_submission.csv", "sample"), ("sampleSubmission.csv", "sample"), ("example_submission.csv", "example"),
    ("stage1_sample.csv", "sample"), ("submission_example.csv", "example"), ("sample_sub.csv", "sample"),
    ("submission.csv", None), ("train_subset_samples.csv", None), ("sampled_pairs.csv", None)])
def test_sample_submissions_are_known_by_their_names(name, kind):
    assert sample_kind(Path(name)) == kind


@pytest.mark.parametrize("linked", [True, False], ids=["a link", "mounted twice"])
def test_a_source_that_is_seen_in_both_places_counts_once(tmp_path, linked):
    inputs = tmp_path / "input"
    for name in ("competitions/matting", "datasets/me/weights"):
        empty(inputs / name / "test", "1.png")
        alias = inputs / Path(name).name
        alias.symlink_to(inputs / name) if linked else shutil.copytree(inputs / name, alias)
    (inputs / "datasets/me/weights/SHA256SUMS").write_text("")
    found = kernel_inputs.find_test_set(inputs, "matting", inputs / "datasets/me/weights")
    assert found == (inputs / "competitions/matting/test", None)
    if linked:
        assert kernel_inputs.mounted(inputs) == [inputs / "competitions/matting", inputs / "datasets/me/weights"]
        assert kernel_inputs.find_test_set(inputs, None, inputs / "weights") == found


def test_sources_that_are_links_are_looked_into(tmp_path):
    elsewhere = empty(tmp_path / "elsewhere/test", "1.png").parent
    (elsewhere / "train.csv").write_text("image_path,alpha_path\n")
    (elsewhere / "val.csv").write_text("image_path,alpha_path\n")
    inputs = tmp_path / "input"
    inputs.mkdir()
    (inputs / "pairs").symlink_to(elsewhere)
    assert kernel_inputs.find_splits(inputs, tmp_path, 0.2) == (inputs / "pairs/train.csv", inputs / "pairs/val.csv")
