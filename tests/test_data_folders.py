"""Source csv, the splits, and what get_data.py says on its command line."""
import csv
import sys
from unicodedata import normalize

import cv2
import numpy as np
import pytest

import get_data
from conftest import ROOT, call, one_error_line, scene
from core.config import load_config
from core.errors import UserError
from fakes.loopback import Loopback, isolate
from imaging.pairs import read_pairs, split_by_name, write_splits
from sources import folders


@pytest.fixture
def own(tmp_path):
    """Ten good pairs: photos as JPEG, mattes as PNG of the same names."""
    for i in range(10):
        rgb, alpha = scene(48, i)
        for folder, name, image in (("photos", f"{i}.jpg", rgb), ("mattes", f"{i}.png", np.rint(alpha * 255))):
            (tmp_path / folder).mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / folder / name), image)
    return tmp_path


def spoil(own):
    """One pair of each kind of fault."""
    (own / "photos/0.jpg").unlink()
    (own / "mattes/1.png").unlink()
    (own / "photos/2.jpg").write_bytes(b"no image")
    cv2.imwrite(str(own / "mattes/3.png"), np.zeros((48, 40), np.uint8))
    cv2.imwrite(str(own / "mattes/4.tif"), np.zeros((48, 48), np.uint8))


def overrides(own, *more: str) -> list[str]:
    return [f"data.root={own}/data", "data.source=csv", f"data.images_dir={own}/photos",
            f"data.alphas_dir={own}/mattes", *more]


def config(own, *more: str):
    return load_config(ROOT / "config.yaml", overrides(own, *more))


def test_own_folders_become_splits_that_training_reads(own, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["get_data.py", *overrides(own)])
    get_data.main()
    cfg = config(own)
    train, val = read_pairs(cfg.data.train_csv), read_pairs(cfg.data.val_csv)
    assert len(train) + len(val) == 10 and val
    assert not {pair.image_path for pair in train} & {pair.image_path for pair in val}


def test_check_lists_every_problem_and_writes_nothing(own, monkeypatch, capsys):
    spoil(own)
    monkeypatch.setattr(sys, "argv", ["get_data.py", *overrides(own), "--check"])
    with pytest.raises(UserError, match="5 problems, listed above; 6 good pairs"):
        get_data.main()
    said = capsys.readouterr().out
    for words in ("1.jpg: has no alpha", "0.png: has no image", "2.jpg: cannot be read", "48×48, but", "4.tif: 4.png"):
        assert words in said
    assert not (own / "data").exists()


def test_bad_pairs_end_it_or_are_left_out(own, capsys):
    spoil(own)
    with pytest.raises(UserError, match=r"5 problems, 6 good pairs; --check lists all, data.on_error=skip leaves"):
        folders.fetch(config(own))
    split = folders.fetch(config(own, "data.on_error=skip"))
    assert len(split["train"]) + len(split["val"]) == 6
    assert "left out 5" in capsys.readouterr().out


def test_names_with_accents_written_in_two_ways_are_pairs(own):
    for number, name in enumerate(("é", "ぎ")):
        (own / f"photos/{number}.jpg").rename(own / f"photos/{normalize('NFC', name)}.jpg")
        (own / f"mattes/{number}.png").rename(own / f"mattes/{normalize('NFD', name)}.png")
    good, _, problems = folders.examine(config(own))
    assert len(good) == 10 and not problems


def test_dangling_links_and_masks_of_0_and_1_are_listed(own, monkeypatch, capsys):
    (own / "photos/0.jpg").unlink()
    (own / "photos/0.jpg").symlink_to("../blobs/0")
    cv2.imwrite(str(own / "mattes/1.png"), np.eye(48, dtype=np.uint8))
    (own / "photos/2 (1).jpg").write_bytes((own / "photos/2.jpg").read_bytes())
    (own / "mattes/2 (1).png").write_bytes((own / "mattes/2.png").read_bytes())
    monkeypatch.setattr(sys, "argv", ["get_data.py", *overrides(own), "--check"])
    with pytest.raises(UserError, match="2 problems, listed above; 9 good pairs"):
        get_data.main()
    said = capsys.readouterr().out
    for words in ("0.jpg: points to ../blobs/0, which does not exist", "1.png: its largest value is 1 of 255",
                  "1 photographs are there more than once (2 (1).jpg and 2.jpg"):
        assert words in said


@pytest.mark.parametrize("more, words", [
    ("data.images_dir=null", "data.images_dir is not set"), ("data.alphas_dir=nowhere", "nowhere: no such folder"),
])
def test_folders_that_are_not_there(own, more, words):
    with pytest.raises(UserError, match=words):
        folders.fetch(config(own, more))


def test_none_changes_sides_when_pairs_are_added(tmp_path):
    pairs = [(tmp_path / f"{i}.png", tmp_path / f"{i}.png") for i in range(500)]
    few, all_ = split_by_name(pairs[::5], 0.2), split_by_name(pairs, 0.2)
    assert set(few["train"]) <= set(all_["train"]) and set(few["val"]) <= set(all_["val"])
    assert 70 < len(all_["val"]) < 130
    assert all(split_by_name(pairs[i:i + 2], 0.2)[side] for i in range(9) for side in ("train", "val"))


def test_splits_are_the_union_and_move_with_the_root(tmp_path):
    inside, outside = tmp_path / "data/magick/a.png", tmp_path / "b.png"
    write_splits(tmp_path / "data", [{"train": [(inside, inside, "fur")], "val": []},
                                     {"train": [], "val": [(outside, outside)]}])
    rows = [list(csv.reader((tmp_path / f"data/splits/{side}.csv").open()))[1] for side in ("train", "val")]
    assert rows == [["../magick/a.png", "../magick/a.png", "fur", ""], [str(outside), str(outside), "", ""]]
    with pytest.raises(UserError, match=r"val.csv: would be empty"):
        write_splits(tmp_path / "data", [{"train": [(inside, inside)], "val": []}])


@pytest.mark.parametrize("source, exit_code, words", [
    ("competition,magick", 1, "source competition: Kaggle cannot be reached"),
    ("camera", 2, "unknown source 'camera'; choose from competition, magick, rgba, csv, synthetic"),
    ("competition,synthetic", 2, "each bring a test set; choose one"),
])
def test_what_the_command_says(tmp_path, monkeypatch, source, exit_code, words):
    with Loopback() as server:  # a proxy that lets nothing out
        isolate(monkeypatch, tmp_path, server)
        monkeypatch.setenv("KAGGLE_USERNAME", "somebody")
        monkeypatch.setenv("KAGGLE_KEY", "secret")
        result = call(get_data.main, f"data.root={tmp_path}/data", f"data.source={source}",
                        "kaggle.competition=matting")
    assert words in (line := one_error_line(result, exit_code))
    assert exit_code == 2 or line.endswith("SOURCE=synthetic needs no network")
    assert "secret" not in result.stdout + result.stderr
