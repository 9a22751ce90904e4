"""No file of the user's is overwritten or removed: one test per kind of loss, and one for the single guard."""
import ast
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import clean
import get_data
import kernel
from conftest import ROOT, call, scene, tiny
from core import checkpoint
from core.config import EMBEDDED, load_config
from core.errors import UserError
from core.files import alone_in, list_path, move, remove, written_folder, written_whole
from core.outputs import may_write
from core.ownership import is_ours
from imaging.alphas import read_alpha
from imaging.images import write_image
from imaging.pictures import save_picture
from infer import main as infer_main
from sources import archive, competition, synthetic
from train import main as train_main


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in "ab":
        save_picture(tmp_path / "drawn.png", scene(64)[0])
        # as a camera writes it, without this program's name
        (folder / f"{name}.png").write_bytes(unsigned((tmp_path / "drawn.png").read_bytes()))
    return folder


def unsigned(png: bytes) -> bytes:
    start = png.index(b"tEXt") - 4
    return png[:start] + png[start + 12 + int.from_bytes(png[start:start + 4]):]


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def refused(result, words: str) -> None:
    code, _, err = result
    assert code == 2 and err.count("\n") == 1 and err.startswith("error: ") and words in err, err


def small(photos: Path, tmp_path: Path, *more: str) -> list[str]:
    return [f"infer.images={photos}", "infer.weights=embedded", "infer.size=64", f"train.out_dir={tmp_path}/none",
            f"infer.submission={tmp_path}/s.csv", *more]


SYNTHETIC = ["data.source=synthetic", "data.synthetic.train=2", "data.synthetic.val=2", "data.synthetic.test=1",
             "data.synthetic.size=64"]


def test_making_synthetic_data_again_keeps_the_users_photographs(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "SHEET_SIDE", 16)
    monkeypatch.setattr(synthetic, "TEST_SHAPE", (64, 64))
    arguments = [*SYNTHETIC, f"data.root={tmp_path}/data"]
    assert call(get_data.main, *arguments)[0] == 0
    for name in ("1.png", "2.png"):  # names that the test set uses
        (photos / name).write_bytes(b"mine")
    before = content(photos)
    refused(call(get_data.main, *arguments, f"data.test_dir={photos}"), "photos/")
    assert content(photos) == before

    assert call(get_data.main, *arguments)[0] == 0  # it may replace its own files
    mine = tmp_path / "data/test_dataset/orig_1024/mine.png"
    mine.write_bytes(b"mine")
    refused(call(get_data.main, *arguments), "mine.png")
    assert mine.read_bytes() == b"mine"
    mine.unlink()
    for folder in ("test_dataset/orig_1024", "synthetic/train", "synthetic/val"):  # as earlier versions left them
        list_path(tmp_path / "data" / folder).unlink()
    assert call(get_data.main, *arguments)[0] == 0


def test_splits_written_by_hand_stay(tmp_path):
    splits = tmp_path / "data/splits"
    splits.mkdir(parents=True)
    (splits / "train.csv").write_text("image_path,alpha_path\na.png,b.png\n")
    refused(call(get_data.main, *SYNTHETIC, f"data.root={tmp_path}/data"), "train.csv")
    assert not (tmp_path / "data/synthetic").exists()


@pytest.mark.parametrize("solution", ["solution.csv", "data/test_dataset/orig_1024/solution.csv"])
def test_a_solution_of_the_users_stays(tmp_path, solution):
    path = tmp_path / solution
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("filename,image_utf\nx,\n")
    arguments = [*SYNTHETIC, f"data.root={tmp_path}/data", f"data.solution_csv={path}"]
    refused(call(get_data.main, *arguments), "solution.csv")
    assert path.read_text() == "filename,image_utf\nx,\n"


def test_an_archive_replaces_only_unpacked_files(tmp_path):
    with zipfile.ZipFile(tmp_path / "titanic.zip", "w") as file:
        file.writestr("a/1.png", b"one")
    folder = tmp_path / "titanic"
    (folder / "a").mkdir(parents=True)
    (folder / "a/1.png").write_bytes(b"one")  # unpacked by hand: the same file
    archive.unpack(tmp_path / "titanic.zip", folder)
    for name, body in (("a/1.png", b"own"), ("notes.txt", b"x")):
        shutil.rmtree(folder)
        (folder / "a").mkdir(parents=True)
        (folder / name).write_bytes(body)
        with pytest.raises(UserError, match=name):
            archive.unpack(tmp_path / "titanic.zip", folder)
        assert (folder / name).read_bytes() == body
    (tmp_path / "own.zip").write_bytes(b"PK no zip")
    with pytest.raises(archive.OperationError, match="not removed"):
        archive.unpack(tmp_path / "own.zip", folder, fetched=False)
    assert (tmp_path / "own.zip").exists()


def test_a_competitions_images_do_not_replace_photographs_of_the_same_name(tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "photos").mkdir()
    (tmp_path / "source/1.png").write_bytes(b"theirs")
    (tmp_path / "photos/1.png").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"photos/1\.png"):
        competition.lay_out([tmp_path / "source/1.png"], tmp_path / "photos")
    for _ in range(2):
        competition.lay_out([tmp_path / "source/1.png"], tmp_path / "test")
    assert (tmp_path / "photos/1.png").read_bytes() == b"mine" and (tmp_path / "test/1.png").read_bytes() == b"theirs"


def test_a_new_run_removes_only_what_a_run_wrote(pairs_csv, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    start = shutil.copy(EMBEDDED, run / "start.pth")
    (run / "old.pth").write_bytes(b"mine")
    arguments = tiny(pairs_csv, run, "train.epochs=1", "train.samples=1")
    assert call(train_main, *arguments, f"model.weights={start}")[0] == 0
    (run / "notes.md").write_text("mine")
    assert call(train_main, *arguments, "train.resume=never")[0] == 0
    assert (run / "old.pth").read_bytes() == b"mine" and (run / "notes.md").exists() and Path(start).exists()

    before = content(run)
    refused(call(train_main, *arguments, "train.resume=never", f"model.weights={run}/best.pth"), "best.pth")
    link = tmp_path / "link.pth"
    link.symlink_to(run / "last.pth")
    refused(call(train_main, *arguments, "train.resume=never", f"model.weights={link}"), "last.pth")
    assert content(run) == before


@pytest.mark.parametrize("name", ["best.pth", "last.damaged.pth", "metrics.csv", "config.yaml", "curves.png", "lock",
                                  "levels.json", "samples/epoch_001.png"])
def test_a_run_overwrites_no_file_of_the_users(pairs_csv, tmp_path, name):
    path = tmp_path / "run" / name
    path.parent.mkdir(parents=True)
    if path.suffix == ".pth":
        torch.save({"weight": torch.zeros(3)}, path)
    else:
        path.write_text("mine: 1\n")
    before = path.read_bytes()
    refused(call(train_main, *tiny(pairs_csv, tmp_path / "run", "train.resume=never")), Path(name).name)
    assert path.read_bytes() == before


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "pickle"])
def test_other_weights_put_into_a_run_as_best_pth_stay(run_dir, pairs_csv, tmp_path, zipped):
    run = Path(shutil.copytree(run_dir, tmp_path / "run"))
    torch.save({"weight": torch.zeros(3)}, run / "best.pth", _use_new_zipfile_serialization=zipped)
    before = (run / "best.pth").read_bytes()
    refused(call(train_main, *tiny(pairs_csv, run, "train.resume=never")), "best.pth")
    assert (run / "best.pth").read_bytes() == before and (run / "last.pth").exists()


def test_the_folder_of_the_official_weights_and_the_repository_are_no_run_folders(pairs_csv, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/u2netp.pth").write_bytes(b"official")
    refused(call(train_main, f"--config={ROOT}/config.yaml", *tiny(pairs_csv, Path("weights"))), "train.out_dir")
    assert content(tmp_path / "weights") == {"u2netp.pth": b"official"}
    shutil.copy(ROOT / "config.yaml", tmp_path)
    refused(call(train_main, *tiny(pairs_csv, Path("."))), "config.yaml")
    assert (tmp_path / "config.yaml").read_bytes() == (ROOT / "config.yaml").read_bytes()


def test_mattes_never_overwrite_photographs(photos, tmp_path):
    before = content(photos)
    (tmp_path / "link").symlink_to(photos)
    for folder in (photos, tmp_path / "link", tmp_path / "link/../photos"):
        for key in ("png_dir", "cutout_dir"):
            refused(call(infer_main, *small(photos, tmp_path, f"infer.{key}={folder}")), f"infer.{key}")
    other = tmp_path / "other"  # links to the photographs
    other.mkdir()
    (other / "a.png").symlink_to(photos / "a.png")
    refused(call(infer_main, *small(other, tmp_path, f"infer.png_dir={photos}")), "a.png")
    assert content(photos) == before and not (tmp_path / "s.csv").exists()


def test_mattes_and_cutouts_need_two_folders(photos, tmp_path):
    refused(call(infer_main, *small(photos, tmp_path, f"infer.png_dir={tmp_path}/out",
                                       f"infer.cutout_dir={tmp_path}/photos/../out")), "infer.png_dir")


def test_the_users_mattes_stay_and_our_own_are_replaced(photos, tmp_path):
    truth = tmp_path / "truth"
    truth.mkdir()
    write_image(tmp_path / "x.png", np.full((64, 64), 7, np.uint8))
    (truth / "b.png").write_bytes(unsigned((tmp_path / "x.png").read_bytes()))
    refused(call(infer_main, *small(photos, tmp_path, f"infer.png_dir={truth}")), "truth/b.png")
    assert [path.name for path in truth.iterdir()] == ["b.png"] and read_alpha(truth / "b.png").max() < 0.1
    for _ in range(2):
        code, _, err = call(infer_main, *small(photos, tmp_path, f"infer.png_dir={tmp_path}/out"))
        assert code == 0, err
    assert is_ours(tmp_path / "out/a.png") and read_alpha(tmp_path / "out/a.png").shape == (64, 64)


@pytest.mark.parametrize("name", ["photos/a.png", "table.csv", "weights.pth", "photos"])
def test_a_submission_replaces_nothing_else(photos, tmp_path, name):
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    shutil.copy(EMBEDDED, tmp_path / "weights.pth")  # ours, but not a submission
    before = content(tmp_path)
    refused(call(infer_main, *small(photos, tmp_path, f"infer.submission={tmp_path}/{name}")), name)
    assert content(tmp_path) == before


@pytest.mark.parametrize("key", ["data.solution_csv", "data.sample_submission"])
def test_a_submission_does_not_overwrite_the_solution_or_the_sample(photos, tmp_path, key):
    (tmp_path / "s.csv").write_text("filename,image_utf\na,\nb,\n")
    refused(call(infer_main, *small(photos, tmp_path, f"{key}={tmp_path}/s.csv")), "s.csv")
    assert (tmp_path / "s.csv").read_text().endswith("b,\n")


def test_links_are_followed_and_their_targets_protected(tmp_path):
    (tmp_path / "disk").mkdir()
    link, real = tmp_path / "link.csv", tmp_path / "disk/real.csv"
    link.symlink_to(real)
    for text in ("filename,image_utf\n", "filename,image_utf\na,\n"):
        with written_whole(link) as part:
            part.write_text(text)
        assert link.is_symlink() and real.read_text() == text
    real.write_text("mine")
    hard = tmp_path / "hard.csv"
    os.link(real, hard)
    for path in (link, hard):
        with pytest.raises(UserError, match="was not written by this program"), written_whole(path) as part:
            part.write_text("ours")
    with pytest.raises(UserError):
        remove(link)
    with pytest.raises(UserError):
        move(tmp_path / "disk", real)
    assert real.read_text() == hard.read_text() == "mine" and sorted(os.listdir(tmp_path / "disk")) == ["real.csv"]


def test_a_device_or_a_folder_is_not_overwritten(tmp_path):
    for path in (Path("/dev/null"), tmp_path):
        with pytest.raises(UserError, match="name a file to write"):
            may_write(path)


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    for text in "xy":
        with written_folder(tmp_path / "a") as part:
            (part / "sub").mkdir()
            (part / "sub/1.txt").write_text(text)
    with pytest.raises(KeyError), written_folder(tmp_path / "a") as part:
        (part / "2.txt").write_text("z")
        raise KeyError
    (tmp_path / "a/.DS_Store").write_text("a file manager's")
    assert (tmp_path / "a/sub/1.txt").read_text() == "y" and not (tmp_path / "a/2.txt").exists()
    with written_folder(tmp_path / "a") as part:
        (part / "1.txt").write_text("ours")
    (tmp_path / "a/1.txt").write_text("mine now")  # under a name that we used
    with pytest.raises(UserError, match=r"1\.txt"), written_folder(tmp_path / "a"):
        pass
    (tmp_path / "a/1.txt").unlink()
    (tmp_path / "a/link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="a/link"), written_folder(tmp_path / "a"):
        pass
    assert sorted(os.listdir(tmp_path)) == [".a.written", "a"]


def test_a_users_file_named_lock_stays(tmp_path):
    (tmp_path / "lock").write_text("my diary")
    with pytest.raises(UserError, match="lock"):
        alone_in(tmp_path)
    assert (tmp_path / "lock").read_text() == "my diary"


def test_a_build_replaces_no_kernel_of_the_users(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "build/kernel/kernel.py"
    mine.parent.mkdir(parents=True)
    mine.write_text("print('mine')")
    arguments = ["build", f"--config={ROOT}/config.yaml", "infer.weights=embedded"]
    refused(call(kernel.main, *arguments), "build/kernel/kernel.py")
    assert mine.read_text() == "print('mine')"
    mine.unlink()
    assert call(kernel.main, *arguments)[0] == 0
    for name in ("kernel", "dataset"):
        list_path(tmp_path / "build" / name).unlink()  # as earlier versions left it
    assert call(kernel.main, *arguments)[0] == 0


def test_files_of_earlier_versions_are_recognised(run_dir, tmp_path):
    """By their content, even PNGs without the program's name."""
    run = Path(shutil.copytree(run_dir, tmp_path / "run"))
    sample = run / "samples/epoch_001.png"
    sample.write_bytes(unsigned(sample.read_bytes()))
    for path in (path for path in run.rglob("*") if path.is_file() and path.name != "lock"):
        assert is_ours(path), path


def test_checkpoints_are_recognised_by_their_config(tmp_path):
    checkpoint.save(tmp_path / "a.pth", {"model_state": {}, "config": {"train": {"out_dir": "x"}}})
    torch.save({"model_state": {"a": torch.zeros(2)}}, tmp_path / "b.pth")
    assert is_ours(tmp_path / "a.pth") and is_ours(EMBEDDED) and not is_ours(tmp_path / "b.pth")
    assert not is_ours(ROOT / "config.yaml")
    cfg = load_config(ROOT / "config.yaml")
    assert cfg.train.out_dir  # the repository's config can still be read


ACTS = {"rmtree", "unlink", "rename", "replace", "remove", "rmdir", "move", "truncate", "renames", "removedirs"}
ALLOWED = {  # file -> why it needs no guard
    "files.py": "the guard itself",
    "check_image.py": "a temporary folder of its own",
    "machine_sources.py": "a temporary folder of its own",
    "baseline.py": "what the bench measures against, in a temporary folder",
    "distributed.py": "/dev/null",
    "versions.py": "a virtual environment, which it looks at first",
}


def acts(tree: ast.AST):
    """Calls whose name says that they remove, rename or truncate files; str.replace has two arguments."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        module = isinstance(node.func, ast.Attribute) and getattr(node.func.value, "id", "") in ("os", "shutil")
        texts = name == "replace" and len(node.args) == 2 and not module
        # methods of files.py, lists and hooks; dataclasses.replace
        columns = name == "rename" and not node.args  # pandas'
        harmless = (name in ("remove", "move") and not module) or getattr(node.func, "id", "") == "replace" or columns
        if name in ACTS and not texts and not harmless:
            yield node
        on = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
        mode = next((word.value for word in [*node.args, *(key.value for key in node.keywords)]
                     if isinstance(word, ast.Constant) and word.value in ("w", "wb", "w+", "wb+")), None)
        if name == "open" and mode and not on.endswith(("part", "whole", "tarfile")):
            yield node


def test_files_are_removed_and_replaced_only_through_files_py():
    for folder in ("src", "scripts"):
        for path in (ROOT / folder).rglob("*.py"):
            if path.name not in ALLOWED:
                found = [f"{node.lineno}: {ast.unparse(node)}" for node in acts(ast.parse(path.read_text()))]
                assert not found, f"{path}: {found}"


def test_clean_removes_what_a_build_left_and_nothing_else(tmp_path):
    with written_folder(tmp_path / "build/kernel") as part:
        (part / "kernel.py").write_text("ours")
    (tmp_path / "build/output").mkdir()
    (tmp_path / "build/output/mine.txt").write_text("mine")
    clean.clean(tmp_path / "build")
    assert not (tmp_path / "build/kernel").exists() and (tmp_path / "build/output/mine.txt").read_text() == "mine"
    (tmp_path / "build/output/mine.txt").unlink()
    clean.clean(tmp_path / "build")
    assert not (tmp_path / "build").exists()
