"""Cross-validation: groups stay together, no network predicts what it has seen, nothing is trained twice."""
import csv
import json
import re
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import folds
from conftest import call, tiny, write_csv, write_pairs
from core.config import DEFAULTS, as_overrides, load_config
from core.errors import UserError
from core.folds import fold_weights
from imaging.images import read_rgb
from imaging.pairs import Pair, all_pairs, configured_pairs, fold_of
from inference.predictor import load_predictor
from submission.submission_csv import encode_alpha, read_rows
from train import train

NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1).filter(
    lambda name: name not in (".", ".."))


def pair(name: str, group: str = "", folder: str = "") -> Pair:
    return Pair(Path(folder, f"{name}.png"), Path("alpha.png"), "p.csv line 2", group=group)


@given(st.lists(st.tuples(NAMES, st.sampled_from(["", "a", "b", "é", "e\u0301"]))), st.integers(2, 100))
def test_a_group_is_never_in_two_folds(rows, count):
    found = defaultdict(set)
    for name, group in rows:
        found[group.replace("e\u0301", "é") or f"alone {name}"].add(fold_of(pair(name, group), count))
        found[group.replace("e\u0301", "é") or f"alone {name}"].add(fold_of(pair(name, group, "elsewhere"), count))
    assert all(len(each) == 1 and each <= set(range(count)) for each in found.values())


def test_folds_are_about_equal_and_never_change():
    counts = np.bincount([fold_of(pair(f"image{i}"), 5) for i in range(2000)])
    assert counts.min() > 350
    assert [fold_of(pair(str(i)), 5) for i in range(8)] == KEPT  # a new hash would mix training and validation


KEPT = [3, 4, 4, 4, 3, 3, 2, 3]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """4 pairs in one CSV, 2 of them again with 2 more in another: in 3 groups -> their folder."""
    folder = tmp_path_factory.mktemp("folds")
    write_pairs(folder, 6, 64)
    rows = [(f"rgb_{i}.png", f"alpha_{i}.png", f"object {i // 2}") for i in range(6)]
    header = ("image_path", "alpha_path", "group")
    write_csv(folder / "train.csv", rows[:4], header)
    write_csv(folder / "val.csv", rows[2:], header)
    return folder


def options(pairs: Path, *more: str) -> list[str]:
    return [*tiny(pairs / "train.csv", pairs / "out"), f"data.val_csv={pairs / 'val.csv'}", f"data.root={pairs}",
            "train.epochs=1", "data.folds=2", *more]


def test_each_fold_is_validated_on_what_the_others_train_on(pairs, tmp_path):
    split = [[{p.image_path.name for p in configured_pairs(load_config(DEFAULTS, options(pairs, f"data.fold={fold}")),
                                                           part)} for part in ("train", "val")] for fold in range(2)]
    names = {f"rgb_{i}.png" for i in range(6)}
    assert split[0] == split[1][::-1] and split[0][0] | split[0][1] == names and not split[0][0] & split[0][1]
    write_csv(pairs / "more.csv", [("rgb_0.png", "alpha_0.png", "object 0")], ("image_path", "alpha_path", "group"))
    assert len(all_pairs(load_config(DEFAULTS, options(pairs, f"data.val_csv={pairs / 'more.csv'}")))) == 4
    write_csv(pairs / "other.csv", [("rgb_0.png", "alpha_0.png", "object 9")], ("image_path", "alpha_path", "group"))
    with pytest.raises(UserError, match=r"other.csv line 2: rgb_0.png is in group 'object 9', but in 'object 0' at"):
        all_pairs(load_config(DEFAULTS, options(pairs, f"data.val_csv={pairs / 'other.csv'}")))


@pytest.mark.parametrize("settings, words", [
    (["data.folds=null", "data.fold=1"], "data.fold=1: needs data.folds"),
    (["data.fold=2"], "data.fold=2: should be 0 to 1"), (["data.folds=1"], "data.folds=1: "),
    (["data.folds=null"], "data.folds is not set"), (["data.folds=50"], "fold 0 would be empty, with 3 groups"),
    (["data.val_csv={pairs}/moved.csv"], "another picture is also named rgb_0"),
])
def test_what_cannot_work_is_refused_before_training(pairs, tmp_path, settings, words):
    write_csv(pairs / "moved.csv", [("elsewhere/rgb_0.png", "alpha_0.png")])
    given = [setting.format(pairs=pairs) for setting in settings]
    code, _, err = call(folds.main, *options(pairs, f"train.out_dir={tmp_path}/run", *given))
    assert code == 2 and words in err and not (tmp_path / "run").exists()


def test_one_process_per_gpu():
    assert folds.devices(0) == folds.devices(1, "3") == [None]
    assert folds.devices(3) == ["0", "1", "2"] and folds.devices(2, "5,7") == ["5", "7"]


@pytest.fixture(scope="module")
def finished(pairs, tmp_path_factory):
    """The folder of two trained folds, and the arguments that trained them."""
    arguments = options(pairs, f"train.out_dir={tmp_path_factory.mktemp('cv')}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["folds.py", *arguments])
        folds.main()
    return Path(arguments[-1].split("=")[1]), arguments


def table(folder: Path) -> list[dict]:
    with (folder / "folds.csv").open() as file:
        return list(csv.DictReader(file))


def test_predictions_are_what_inference_gives_and_scores_those_of_validation(finished):
    folder, arguments = finished
    texts = {name: text for _, name, text in read_rows(folder / "oof.csv")}
    assert sorted(texts) == [f"rgb_{i}" for i in range(6)]
    rows = table(folder)
    assert [row["fold"] for row in rows] == ["0", "1", "all"] and rows[2]["images"] == "6"
    for fold in range(2):
        cfg = load_config(DEFAULTS, [*arguments, f"data.fold={fold}", f"train.out_dir={folder}/fold_{fold}"])
        predict = load_predictor(cfg)
        for each in configured_pairs(cfg, "val"):
            assert texts[each.image_path.stem] == encode_alpha(predict([read_rgb(each.image_path)])[0])
        images = json.loads((folder / f"fold_{fold}/validation.json").read_text())["images"]
        validated = np.mean([row["val_mse_dense"] for row in images])
        assert float(rows[fold]["mse_dense"]) == pytest.approx(validated, rel=0.02)  # 8 bits, perhaps another backend


def test_finished_folds_are_not_trained_again_and_a_lost_one_is(finished, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "cv")
    arguments = [*finished[1], f"train.out_dir={folder}"]
    before = {name: (folder / name).read_bytes() for name in ("oof.csv", "folds.csv")}
    shutil.rmtree(folder / "fold_1")
    (folder / "oof.csv").unlink()
    code, out, err = call(folds.main, *arguments)
    assert code == 0, err
    assert f"{folder}/fold_0 is finished" in out and f"into {folder}/fold_1" in out
    assert before == {name: (folder / name).read_bytes() for name in before}


def test_folds_of_other_pairs_are_neither_resumed_nor_predicted(finished, pairs):
    folder, arguments = finished
    code, _, err = call(folds.main, *arguments, f"data.val_csv={pairs / 'train.csv'}")
    assert code == 2 and "fold_0: was trained on other pairs" in err
    with pytest.raises(UserError, match=r"trained with data.fold=0, not 1; set data.fold=0 to resume it"):
        train(load_config(DEFAULTS, [*arguments, "data.fold=1", f"train.out_dir={folder}/fold_0"]))


def test_a_missing_or_unfinished_fold_is_named_with_its_command(finished, tmp_path):
    assert fold_weights(finished[0]) == [finished[0] / f"fold_{fold}/best.pth" for fold in range(2)]
    folder = shutil.copytree(finished[0], tmp_path / "cv")
    text = (folder / "fold_0/config.yaml").read_text()
    command = re.escape(f"finish it with: python scripts/folds.py --config {folder}/fold_0/config.yaml "
                        f"train.out_dir={folder}")
    (folder / "fold_0/config.yaml").write_text(re.sub(r"epochs: 1\b", "epochs: 3", text))
    with pytest.raises(UserError, match=f"fold_0: is unfinished, 1 of 3 epochs are trained; {command}"):
        fold_weights(folder)
    (folder / "fold_0/config.yaml").write_text(text)
    shutil.rmtree(folder / "fold_1")
    with pytest.raises(UserError, match=f"fold_1: is missing; {command}"):
        fold_weights(folder)
    with pytest.raises(UserError, match="holds no folds"):
        fold_weights(tmp_path / "nowhere")


def test_the_folder_of_folds_as_weights_predicts_the_mean(finished, pairs):
    folder, arguments = finished
    rgb = read_rgb(pairs / "rgb_0.png")
    configs = [load_config(DEFAULTS, [*arguments, f"infer.weights={path}"]) for path in (*fold_weights(folder), folder)]
    *alphas, mean = [load_predictor(cfg).predictions([rgb])[0].alpha for cfg in configs]
    np.testing.assert_allclose(mean, (alphas[0] + alphas[1]) / 2, atol=1e-6)
    listed = load_predictor(load_config(DEFAULTS, [
        *arguments, *as_overrides({"infer.weights": [folder, fold_weights(folder)[0]]}), "infer.shares=[2,1]"]))
    assert [share for _, share in listed.members] == pytest.approx([1 / 3] * 3)  # a folder is one entry
    np.testing.assert_allclose(listed.predictions([rgb])[0].alpha, (2 * alphas[0] + alphas[1]) / 3, atol=1e-6)
