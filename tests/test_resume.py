"""Resuming with something changed: what is said is what is done, and nothing is compared that cannot be."""
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import torch

from conftest import ROOT, call, tiny, wait_for, write_csv
from core import checkpoint
from core.config import DEFAULTS, EMBEDDED, load_config
from core.errors import UserError
from dataset import TrainSet, ValidationSet
from imaging.pairs import read_pairs
from inference.predictor import Predictor, density_params
from inference.torch_backend import live_network
from train import main as train_main
from train import train
from training.batches import epoch_batches
from training.validation import Validator, reference_levels
from u2net import U2Net

STOP = "train.max_hours=1e-9"


@pytest.fixture
def pairs(pairs_csv, tmp_path):
    """A copy whose files a test may change -> folder with pairs.csv."""
    return shutil.copytree(pairs_csv.parent, tmp_path / "pairs")


@pytest.fixture
def run(pairs, tmp_path, capsys):
    """run(*overrides) trains in this process -> (what it said, last.pth)."""
    def run(*more):
        train(load_config(DEFAULTS, tiny(pairs / "pairs.csv", tmp_path / "run", *more)))
        return capsys.readouterr().out, checkpoint.load(tmp_path / "run/last.pth")
    return run


def repaint(pairs, name: str = "alpha_0.png") -> None:
    """Another alpha in the same file."""
    alpha = cv2.imread(str(pairs / name), cv2.IMREAD_GRAYSCALE)
    cv2.imwrite(str(pairs / name), 255 - alpha)


def rows(folder) -> list[dict]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def seen(monkeypatch) -> list[int]:
    """The images that training reads from here on."""
    indices, get = [], TrainSet.__getitem__
    monkeypatch.setattr(TrainSet, "__getitem__", lambda self, key: (indices.append(key[1]), get(self, key))[1])
    return indices


def test_what_was_changed_applies_and_the_run_folder_says_so(run, tmp_path):
    run("train.epochs=1")
    said, state = run("train.weight_decay=0.5", "train.select_by=val_mse")
    assert "changed train.weight_decay: 0.0001 -> 0.5" in said
    assert [group["weight_decay"] for group in state["optimizer"]["param_groups"]] == [0.5]
    config = load_config(tmp_path / "run/config.yaml").train
    assert (config.weight_decay, config.select_by, config.epochs) == (0.5, "val_mse", 2)


@pytest.mark.parametrize("first, then", [(1, 4), (2, 1), (3, 2)])
def test_a_change_of_batch_size_in_mid_epoch_neither_skips_nor_repeats_images(run, monkeypatch, first, then):
    indices = seen(monkeypatch)
    run(f"train.batch_size={first}", STOP)
    _, state = run(f"train.batch_size={then}", "train.epochs=1")
    assert sorted(indices) == [0, 1, 2, 3]
    assert state["progress"]["epoch"] == 1


def test_other_pairs_in_mid_epoch_begin_the_epoch_again(run, pairs, monkeypatch):
    run("train.batch_size=1", STOP)
    write_csv(pairs / "pairs.csv", [(f"rgb_{i}.png", f"alpha_{i}.png") for i in (3, 1, 0)])
    indices = seen(monkeypatch)
    said, _ = run("train.batch_size=1", "train.epochs=1")
    assert "changed data.train_csv: the files it names are different" in said and "epoch   1 starts again" in said
    assert sorted(indices) == [0, 1, 2]


@pytest.mark.parametrize("change", [["train.batch_size=4"], ["data.limit=2"]])
def test_the_schedule_goes_by_the_share_of_the_training_that_is_done(run, tmp_path, change):
    options = ["train.schedule=cosine", "train.warmup=0", "train.min_lr=0", "train.epochs=4"]
    batch_1 = ["train.batch_size=1"]
    run(*options[:3], *batch_1, "train.epochs=1")  # its last step is 3/4 of the way through the first epoch
    run(*options, *batch_1, *change)
    steps = 1 if "4" in change[0] else 2
    expected = [0.5 * (1 + np.cos(np.pi * (epoch + 1 - 1 / steps) / 4)) * 1e-3 for epoch in (1, 2, 3)]
    assert [float(row["lr"]) for row in rows(tmp_path / "run")[1:]] == pytest.approx(expected)


def test_best_pth_is_measured_again_when_the_validation_set_was_edited(run, pairs, tmp_path):
    folder = tmp_path / "run"
    run("train.epochs=2")
    best = checkpoint.load(folder / "best.pth")
    repaint(pairs)
    # so small that nothing changes: without the new measurement the old set's value would stay
    said, state = run("train.epochs=3", "train.lr=1e-12", "train.schedule=plateau", "train.warmup=0")
    assert "changed data.val_csv: the files it names are different" in said
    assert f"again   {folder}/best.pth, epoch 2" in said
    again = checkpoint.load(folder / "best.pth")
    progress = state["progress"]
    assert progress["anew"] == [2] and progress["best"] == again["metrics"]
    assert json.loads((folder / "validation.json").read_text())["epoch"] == again["epoch"]

    cfg = load_config(DEFAULTS, tiny(pairs / "pairs.csv", folder))
    model = U2Net()
    model.load_state_dict(best["model_state"])
    val_set = ValidationSet(read_pairs(pairs / "pairs.csv"), cfg)
    predict = Predictor(live_network(model, cfg.infer.tta, torch.device("cpu"), "fp32"), 64,
                        density=density_params(cfg, cfg.model.predicts))
    true = Validator(predict, val_set).validate()[0].means()["val_mse_dense"]
    printed = float(said.split(" -> ")[-1].split(",")[0])
    assert printed == pytest.approx(true, abs=1e-3) and abs(best["metrics"]["val_mse_dense"] - true) > 5e-3
    assert progress["best"]["val_floor"] == float(rows(folder)[-1]["val_floor"]) != float(rows(folder)[0]["val_floor"])


def test_a_measurement_of_best_pth_leaves_the_training_as_it_is(run, pairs, tmp_path):
    run("train.epochs=1")
    shutil.copytree(tmp_path / "run", tmp_path / "untouched")
    for name in ("last.pth", "best.pth"):  # as though the first validation had measured something else
        state = checkpoint.load(tmp_path / "run" / name)
        if name == "last.pth":
            state["progress"]["measure"] = "0" * 64
        checkpoint.save(tmp_path / "run" / name, state)
    _, again = run("train.epochs=2")
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "untouched").rename(tmp_path / "run")
    _, untouched = run("train.epochs=2")
    assert all(torch.equal(value, again["model_state"][key]) for key, value in untouched["model_state"].items())
    assert again["progress"]["best"]["val_mse_dense"] == untouched["progress"]["best"]["val_mse_dense"]


def test_another_metric_compares_with_the_epoch_that_best_pth_is(run, tmp_path):
    run("train.epochs=1")
    state = checkpoint.load(tmp_path / "run/last.pth")
    state["progress"]["history"][0] |= {"val_mse": 0.0, "val_mse_dense": 1.0}
    state["progress"]["best"] = state["progress"]["history"][0]
    checkpoint.save(tmp_path / "run/last.pth", state)
    said, _ = run("train.epochs=2", "train.select_by=val_mse")
    assert "best.pth is epoch 1" in said and checkpoint.load(tmp_path / "run/best.pth")["epoch"] == 1
    said, _ = run("train.epochs=3", "train.select_by=val_mse_dense")
    assert "best.pth is epoch 3" in said and checkpoint.load(tmp_path / "run/best.pth")["epoch"] == 3


def test_among_ties_the_last_line_names_the_epoch_of_best_pth(run, tmp_path):
    said, _ = run("train.lr=1e-30", "train.weight_decay=0", "train.min_lr=0", "train.epochs=1")
    state = checkpoint.load(tmp_path / "run/last.pth")
    state["progress"]["best"] |= {"val_mse_dense": 9.0}
    state["progress"]["history"][0]["val_mse_dense"] = 0.0  # which best.pth does not have
    checkpoint.save(tmp_path / "run/last.pth", state)
    said, _ = run("train.epochs=2")
    epoch = checkpoint.load(tmp_path / "run/best.pth")["epoch"]
    assert f"best.pth is epoch {epoch}:" in said and epoch == 2


def test_a_finished_run_says_what_changed_and_that_nothing_is_trained(run, pairs, tmp_path):
    run()
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    repaint(pairs)
    said, _ = run("train.lr=5e-4", "model.weights=embedded")
    for words in ("changed train.lr: 0.001 -> 0.0005", "changed data.train_csv: the files it names are different",
                  f"changed model.weights: None -> {EMBEDDED} (no effect", "all 2 epochs are done, nothing to train",
                  "raise train.epochs", "train.resume=never", "train.out_dir"):
        assert words in said
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}


def test_weights_that_changed_in_place_are_said_to_have_no_effect(run, tmp_path):
    weights = tmp_path / "start.pth"
    torch.manual_seed(1)
    checkpoint.save(weights, U2Net().state_dict())
    run(f"model.weights={weights}", "train.epochs=1")
    checkpoint.save(weights, {"state_dict": checkpoint.load(weights)})  # the same network in another file
    assert "changed model.weights" not in run(f"model.weights={weights}")[0]
    checkpoint.save(weights, U2Net().state_dict())
    assert "changed model.weights: the files it names are different (no effect" in run(f"model.weights={weights}")[0]


def test_another_variant_names_the_remedies(run):
    run("train.epochs=1")
    with pytest.raises(UserError, match=r"model\.variant=u2netp, not u2net; .*train\.resume=never or another"):
        run("model.variant=u2net")


def test_a_best_pth_that_is_gone_is_made_again(run, tmp_path):
    run("train.epochs=1")
    (tmp_path / "run/best.pth").unlink()
    assert "best.pth: is missing; raise train.epochs" in run("train.epochs=1")[0]
    said, _ = run("train.epochs=2", "train.lr=1e-12")
    assert "best.pth: is missing; the next epoch becomes the best" in said and "best.pth is epoch 2" in said


def test_a_state_of_an_older_version_is_resumed(run, tmp_path):
    run("train.epochs=1")
    state = checkpoint.load(tmp_path / "run/last.pth")
    del state["content"]
    for name in ("order", "measure", "anew", "best"):
        del state["progress"][name]
    checkpoint.save(tmp_path / "run/last.pth", state)
    assert "best.pth is epoch 1" in run("train.epochs=1")[0]
    assert "epoch 2/2" in run()[0]


def test_levels_are_those_of_the_files_as_they_are(pairs, tmp_path):
    cfg = load_config(DEFAULTS, tiny(pairs / "pairs.csv", tmp_path))
    before = reference_levels(ValidationSet(read_pairs(pairs / "pairs.csv"), cfg), cfg, tmp_path / "levels.json")
    repaint(pairs)
    after = reference_levels(ValidationSet(read_pairs(pairs / "pairs.csv"), cfg), cfg, tmp_path / "levels.json")
    assert before != after


@pytest.mark.parametrize("options, key", [
    (["augment.crop=32", "train.batch_size=1"], "augment.crop=32"),
    (["augment.crop=32", "train.micro_batch=1"], "augment.crop=32"),
    (["augment.crop=32", "data.limit=1"], "augment.crop=32"),
    (["augment.crop=32", "train.batch_size=3", "train.micro_batch=2"], "augment.crop=32"),
    (["augment.final_crop=32", "train.final_epochs=1", "train.batch_size=1"], "augment.final_crop=32")])
def test_a_phase_in_which_batchnorm_would_get_one_value_is_refused_at_the_start(run, tmp_path, options, key):
    name = key.removesuffix("=32")
    with pytest.raises(UserError, match=rf"{key} with one image per forward pass: .*raise {name} above 32"):
        run(*options)
    assert not (tmp_path / "run").exists()


def test_one_pixel_more_is_enough_for_batchnorm(run):
    assert "epoch 1/1" in run("augment.crop=33", "train.batch_size=1", "data.limit=1", "train.epochs=1")[0]


def command(pairs, out_dir, *more) -> list:
    return [sys.executable, ROOT / "src/train.py", *tiny(pairs / "pairs.csv", out_dir, "train.epochs=1000", *more)]


def test_a_hangup_saves_like_sigterm_however_often_it_comes(pairs, tmp_path, start):
    process = start(command(pairs, tmp_path / "run", "train.workers=1"), cwd=ROOT, stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE, text=True, start_new_session=True,
                    preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL))  # these tests may run under nohup
    wait_for(tmp_path / "run/metrics.csv")
    for _ in range(3):
        os.killpg(process.pid, signal.SIGHUP)  # the data worker gets it as well
    _, said = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGHUP and "stopped by SIGHUP" in said and "Traceback" not in said
    assert checkpoint.load(tmp_path / "run/last.pth")["progress"]["epoch"] >= 1


def test_under_nohup_a_hangup_changes_nothing_and_sigterm_saves(pairs, tmp_path, start):
    process = start(["nohup", *command(pairs, tmp_path / "run")], cwd=ROOT, stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE, text=True)
    wait_for(tmp_path / "run/metrics.csv")
    process.send_signal(signal.SIGHUP)
    epochs = len(rows(tmp_path / "run"))
    deadline = time.monotonic() + 300
    while len(rows(tmp_path / "run")) < epochs + 2:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    process.terminate()
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 128 + signal.SIGTERM and "Traceback" not in said
    assert "stopped by SIGTERM" in said and "run the same command again to resume" in said
    epoch = checkpoint.load(tmp_path / "run/last.pth")["progress"]["epoch"]
    result = call(train_main, *tiny(pairs / "pairs.csv", tmp_path / "run", f"train.epochs={epoch + 1}"))
    assert result.returncode == 0 and f"in epoch {epoch + 1}, after" in result.stdout, result.stderr


@pytest.mark.parametrize("gone", ["stdout", "both"])
def test_training_outlives_its_log(pairs, tmp_path, gone, start):
    process = start([*command(pairs, tmp_path / "run"), "train.epochs=2"], cwd=ROOT, stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT if gone == "both" else None)
    process.stdout.close()
    assert process.wait(300) == 0
    assert len(rows(tmp_path / "run")) == 2 and (tmp_path / "run/best.pth").exists()


def test_a_silenced_process_can_still_say_why_it_ends(tmp_path):
    code = ("import sys; sys.path.insert(0, 'src'); from core import distributed; from training import interruption; "
            "interruption.outlive_the_log(); distributed.silence(); print('lost'); "
            "print('error: why', file=sys.stderr)")
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "error: why\n")


def test_epochs_are_shared_out_as_before_where_nothing_changed(pairs, tmp_path):
    cfg = load_config(DEFAULTS, tiny(pairs / "pairs.csv", tmp_path, "train.batch_size=3"))
    whole = epoch_batches(cfg, 5, 11)
    assert [len(batch) for batch in whole] == [3, 3, 3]
    assert epoch_batches(cfg, 5, 11, done=6) == whole[2:]
    assert [len(batch) for batch in epoch_batches(cfg, 5, 11, done=4)] == [3, 3, 1]


def test_findings_are_for_one_network_whatever_its_file_is_called(tmp_path):
    torch.manual_seed(1)
    one, other = U2Net().state_dict(), U2Net().state_dict()
    checkpoint.save(tmp_path / "a.pth", one)
    checkpoint.save(tmp_path / "b.pth", {"model_state": {f"module.{key}": value for key, value in one.items()},
                                         "epoch": 3, "metrics": {"val_mse_dense": 0.1}})
    checkpoint.save(tmp_path / "c.pth", other)
    a, b, c = (checkpoint.identity(tmp_path / f"{name}.pth") for name in "abc")
    assert a == b != c and len(a["sha256"]) == 64
    flipped = {key: value.clone() for key, value in one.items()}
    flipped["outconv.bias"] += 1e-6
    assert checkpoint.fingerprint(flipped) != a["sha256"]


def test_the_embedded_weights_keep_their_identity_when_saved_in_full_precision(tmp_path):
    model = U2Net()
    checkpoint.load_weights(model, EMBEDDED)
    checkpoint.save(tmp_path / "full.pth", model.state_dict())
    assert checkpoint.identity(tmp_path / "full.pth") == checkpoint.identity(EMBEDDED)
