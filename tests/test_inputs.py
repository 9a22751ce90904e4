"""Every file of a large corpus is read correctly or refused in one line; a run continues without bad ones."""
import contextlib
import csv
import os
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest

import get_data
from conftest import call, tiny, write_csv
from core.errors import UserError
from fakes import corpus
from imaging.alphas import read_alpha
from imaging.images import list_images, read_rgb, read_shape
from imaging.pairs import read_pairs
from infer import main as infer_main
from submission.submission_csv import read_rows
from train import main as train_main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    for file in corpus.files():
        (folder / file.name).write_bytes(file.content)
    return folder


def outcome(read, path):
    """The array that a reader returns, or its error message."""
    try:
        return read(path)
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error).replace(str(path), "")
        return str(error)


def is_alpha_or_refused(alpha, shape, refused: bool) -> bool:
    """refused: whether it was refused as a photograph. A good photograph may still not be an alpha."""
    if isinstance(alpha, str):
        return refused or any(reason in alpha for reason in ("has colours", "class map", "largest value"))
    return not refused and alpha.shape == shape and alpha.dtype == np.float32 and 0 <= alpha.min() <= alpha.max() <= 1


def test_each_file_is_read_right_or_refused_in_one_line(folder, monkeypatch):
    monkeypatch.chdir(folder)
    count, wrong = 0, []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for file in corpus.files():
            path = folder / file.name
            rgb, alpha, shape = (outcome(read, path) for read in (read_rgb, read_alpha, read_shape))
            refused = isinstance(rgb, str)
            expected = file.rgb if file.rgb is not None and not refused else rgb
            fine = (file.good is None or file.good != refused) and (refused or (
                shape == rgb.shape[:2] and rgb.dtype == np.uint8 and rgb.shape == expected.shape
                and np.abs(rgb.astype(int) - expected).max() <= file.tolerance))
            fine = fine and is_alpha_or_refused(alpha, shape, refused)
            count += 1
            wrong += [] if fine else [(file.name, rgb if refused else rgb.shape)]
    assert not wrong and count >= 300
    assert not (folder / "canary").exists()


def test_folders_pipes_and_broken_links_are_refused_without_waiting(tmp_path):
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    for name, words in (("folder", "not a file"), ("pipe", "not a file"), ("loop", "too many levels"),
                        ("gone", "nowhere.png, which does not exist"), ("nothing", "no such file"),
                        ("a\0b", "null byte")):
        assert words in outcome(read_rgb, tmp_path / f"{name}.png")
    assert "not a file" in outcome(read_rgb, "/dev/zero")
    with pytest.raises(UserError, match=r"points to .* \(2 broken links in"):
        list_images(tmp_path)


@pytest.mark.parametrize("mode, words", [(0o000, "Permission denied"), (0o444, "")])
def test_a_file_that_may_not_be_read_is_refused(mode, words):
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to others
        path = Path(folder) / "a.png"
        path.write_bytes(corpus.encoded(corpus.RGB, "png"))
        path.chmod(mode)
        os.chmod(folder, 0o755)
        child = os.fork()
        if not child:  # root may read everything, so a process without its rights tries
            code = 1
            with contextlib.suppress(Exception):
                if not os.getuid():
                    os.setgid(65534)
                    os.setuid(65534)
                said = outcome(read_rgb, path)
                code = 0 if (words in said if words else np.array_equal(said, corpus.RGB)) else 1
            os._exit(code)
        assert os.waitpid(child, 0)[1] == 0


def test_all_pairs_of_the_corpus_are_checked_and_bad_ones_listed(folder, tmp_path, capsys):
    names = [file.name for file in corpus.files()]
    table = write_csv(tmp_path / "all.csv", [(folder / name, matte(folder / name, tmp_path)) for name in names])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pairs = read_pairs(table, on_error="skip")
        with pytest.raises(UserError, match=r"all\.csv line \d+: .* \(\d+ of \d+ pairs are bad; data\.on_error=skip"):
            read_pairs(table)
    said = capsys.readouterr().out
    kept = {pair.image_path.name for pair in pairs}
    assert kept >= {file.name for file in corpus.files() if file.good}
    assert not kept & {file.name for file in corpus.files() if file.good is False}
    assert f"skipped {len(names) - len(kept)} of {len(names)} pairs" in said
    assert all(str(folder / name) in said for name in set(names) - kept)


def matte(image, folder):
    """The path of an alpha of the image's size with a transparent border; of any size if it is not an image."""
    shape = outcome(read_shape, image)
    height, width = (1, 1) if isinstance(shape, str) else shape
    path = folder / f"matte_{width}x{height}.png"
    if not path.exists():
        alpha = np.zeros((height, width), np.uint8)
        alpha[height // 4:, width // 4:] = 255
        path.write_bytes(corpus.encoded(alpha, "png"))
    return path


def test_training_and_inference_with_unusual_images(folder, tmp_path):
    """1×1 and 1×20000 pixels, turned, animated, CMYK, unusual names, and some bad files."""
    odd = ["1x1.png", "1x20000.png", "20000x1.png", "turned_6.png", "animated.webp", "cmyk.jpg", "wide.tiff",
           "float.tif", "palette_bytes.png", 'a"b.png', "line\nbreak.png", "\x1b[2Jansi.png"]
    bad = ["no_empty.png", "claims_20000.png", "cut5_rgb.png"]
    table = write_csv(tmp_path / "odd.csv", [(folder / name, matte(folder / name, tmp_path)) for name in (*bad, *odd)])
    run = tiny(table, tmp_path / "run", "train.epochs=1", "train.samples=0", "data.size=64")
    code, out, err = call(train_main, *run, "data.on_error=skip")
    assert code == 0, err
    assert out.count("skipped 3 of 15 pairs") == 2 and all(name in out for name in bad)
    code, _, err = call(train_main, *run)
    assert code == 2 and err.count("\n") == 1 and "no_empty.png" in err

    images = tmp_path / "images"
    images.mkdir()
    for name in odd:
        (images / name).write_bytes((folder / name).read_bytes())
    for name, shape in (("1x20000.png", (3000, 1)), ("20000x1.png", (1, 3000))):  # tiles too, but not hundreds of them
        (images / name).write_bytes(corpus.encoded(np.zeros(shape, np.uint8), "png"))
    code, _, err = call(infer_main, f"train.out_dir={tmp_path}/run", f"infer.images={images}",
                        f"infer.png_dir={tmp_path}/png", "infer.tta=none", "infer.backend=torch")
    assert code == 0, err
    assert sorted(name for _, name, _ in read_rows(tmp_path / "run/submission.csv")) == sorted(
        name.rsplit(".", 1)[0] for name in odd)


@pytest.mark.parametrize("name, words", [("no_empty.png", "no_empty.png"), (os.fsdecode(b"\xff\xfe.png"), r"\udcff")])
def test_a_bad_image_ends_inference_as_a_submission_needs_every_name(folder, run_dir, tmp_path, name, words):
    images = tmp_path / "images"
    images.mkdir()
    (images / "1x1.png").write_bytes((folder / "1x1.png").read_bytes())
    (images / name).write_bytes(b"")
    code, _, err = call(infer_main, f"train.out_dir={run_dir}", f"infer.images={images}",
                        f"infer.submission={tmp_path}/none.csv")
    assert code == 2 and err.count("\n") == 1 and words in err
    assert not (tmp_path / "none.csv").exists()


def test_folders_of_pairs_with_names_that_no_csv_can_hold(tmp_path):
    for side in ("rgb", "alpha"):
        (tmp_path / side).mkdir()
        for name in ("a,b.png", 'q"q.png', "line\nbreak.png", os.fsdecode(b"latin\xe9.png")):
            (tmp_path / side / name).write_bytes(corpus.encoded(corpus.GREY, "png"))
    options = [f"data.root={tmp_path}/data", "data.source=csv", f"data.images_dir={tmp_path}/rgb",
               f"data.alphas_dir={tmp_path}/alpha"]
    code, _, err = call(get_data.main, *options)
    assert code == 2 and err.count("\n") == 1 and "not valid UTF-8" in err
    code, _, err = call(get_data.main, *options, "data.on_error=skip")
    assert code == 0, err
    tables = [tmp_path / f"data/splits/{side}.csv" for side in ("train", "val")]
    rows = [row for table in tables for row in csv.DictReader(table.open(newline=""))]
    assert {os.path.basename(row["image_path"]) for row in rows} == {"a,b.png", 'q"q.png', "line\nbreak.png"}
