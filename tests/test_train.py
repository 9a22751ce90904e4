import csv
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from conftest import ROOT, call, files_of_at_most, one_error_line, tiny, wait_for, write_pairs
from core import checkpoint
from core.config import DEFAULTS, load_config
from core.device import describe, pick_device, pick_precision
from core.distributed import World
from core.errors import OperationError, UserError
from core.files import CLAIMS
from imaging.images import read_rgb
from train import main as train_main
from train import prepare, train, update_average
from training import workers as data_workers
from training.batches import epoch_batches
from training.workers import loader_options, workers_that_fit


def run(pairs_csv, out_dir, *more) -> dict:
    """Trains in this process -> last.pth."""
    train(load_config(DEFAULTS, tiny(pairs_csv, out_dir, *more)))
    return checkpoint.load(out_dir / "last.pth")


def flat(value, prefix=""):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flat(inner, f"{prefix}/{key}")
    elif isinstance(value, list | tuple):
        yield from flat(dict(enumerate(value)), prefix)
    else:
        yield prefix, value


def test_a_run_leaves_the_run_folder_of_the_contract(run_dir):
    with (run_dir / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:11] == ["epoch", "train_loss", "train_mse", "val_mse", "val_mse_dense", "val_sad", "val_grad",
                                  "val_conn", "lr", "images_per_s", "seconds"]
    assert [row["epoch"] for row in rows] == ["1", "2"] and "loss_thin" in rows[0]
    assert 0 < float(rows[0]["val_floor"]) < float(rows[0]["val_constant"])
    best = checkpoint.load(run_dir / "best.pth")
    assert best["config"]["infer"]["size"] == 64
    assert best["metrics"]["val_mse_dense"] == min(float(row["val_mse_dense"]) for row in rows)
    assert load_config(run_dir / "config.yaml").train.epochs == 2
    for picture in ("curves.png", "samples/epoch_001.png", "samples/epoch_002.png"):
        assert np.ptp(read_rgb(run_dir / picture)) > 100
    assert not list(run_dir.rglob("*.part*"))


@pytest.mark.parametrize("more", [[], ["train.ema=0.9", "train.grad_clip=1", "train.schedule=cosine",
                                       "train.warmup=0.5", "train.final_epochs=1", "train.final_loss=mse",
                                       "augment.final_crop=32", "train.workers=1",
                                       "train.checkpointing=true"]], ids=["plain", "everything on"])
def test_an_interrupted_run_equals_an_uninterrupted_one_bit_for_bit(pairs_csv, tmp_path, capsys, more):
    whole = run(pairs_csv, tmp_path / "whole", *more)
    for batch in (1, 2):  # in mid-epoch, then between the epoch's last step and its validation
        run(pairs_csv, tmp_path / "parts", "train.max_hours=1e-9", *more)
        assert f"after batch {batch}" in capsys.readouterr().out
    parts = run(pairs_csv, tmp_path / "parts", *more)
    assert "resumed from" in capsys.readouterr().out
    volatile = ("config", "seconds", "images_per_s")
    trained, resumed = ({key: value for key, value in flat(state) if not any(word in key for word in volatile)}
                        for state in (whole, parts))
    assert trained.keys() == resumed.keys()
    for key, value in trained.items():
        same = torch.equal(value, resumed[key]) if torch.is_tensor(value) else value == resumed[key]
        assert same, key


def test_training_learns(tmp_path):
    state = run(write_pairs(tmp_path / "pairs", 4, 64), tmp_path / "run", "train.epochs=5", "train.batch_size=1",
                "augment.scale=[1,1]", "train.lr=3e-3", "train.samples=0", "model.predicts=dense")
    history = state["progress"]["history"]
    assert history[-1]["train_mse"] < history[0]["train_mse"] / 2
    assert min(row["val_mse_dense"] for row in history) < history[0]["val_mse_dense"] / 2


def test_fp16_training_stays_finite(pairs_csv, tmp_path):
    history = run(pairs_csv, tmp_path, "train.amp=fp16", "train.samples=0")["progress"]["history"]
    assert all(np.isfinite(list(row.values())).all() for row in history)
    assert history[-1]["train_mse"] < history[0]["train_mse"]


def test_a_finished_run_is_left_as_it_is(pairs_csv, tmp_path, capsys):
    first = run(pairs_csv, tmp_path, "train.epochs=1")
    again = run(pairs_csv, tmp_path, "train.epochs=1")
    assert again["progress"]["history"] == first["progress"]["history"]
    more = run(pairs_csv, tmp_path, "train.epochs=2")
    assert "changed train.epochs: 1 -> 2" in capsys.readouterr().out and more["progress"]["epoch"] == 2
    anew = run(pairs_csv, tmp_path, "train.epochs=1", "train.resume=never")
    assert anew["progress"]["epoch"] == 1 and not (tmp_path / "samples/epoch_002.png").exists()


def test_a_loss_that_is_not_finite_names_the_files(pairs_csv, tmp_path):
    state = run(pairs_csv, tmp_path, "train.max_hours=1e-9")
    state["model_state"]["outconv.bias"].fill_(float("nan"))
    checkpoint.save(tmp_path / "last.pth", state)
    with pytest.raises(OperationError, match=r"epoch 1, batch 2 .*rgb_\d\.png, .*rgb_\d\.png; lower train\.lr"):
        run(pairs_csv, tmp_path)


def test_ctrl_c_finishes_the_step_saves_and_the_next_call_goes_on(pairs_csv, tmp_path, start):
    process = start([sys.executable, ROOT / "src/train.py", *tiny(pairs_csv, tmp_path, "train.epochs=1000")],
                    cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                    env={**os.environ, "PYTHONUNBUFFERED": "1"})
    wait_for(tmp_path / "metrics.csv")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 130 and "run the same command again to resume" in said
    assert "Traceback" not in said
    epoch = checkpoint.load(tmp_path / "last.pth")["progress"]["epoch"]
    result = call(train_main, *tiny(pairs_csv, tmp_path, f"train.epochs={epoch + 1}"))
    assert result.returncode == 0 and f"in epoch {epoch + 1}, after" in result.stdout, result.stderr


def test_after_kill_9_the_run_resumes(pairs_csv, tmp_path, start):
    options = tiny(pairs_csv, tmp_path, "train.epochs=1000", "train.save_minutes=1e-6")
    process = start([sys.executable, ROOT / "src/train.py", *options], cwd=ROOT, stdout=subprocess.DEVNULL)
    wait_for(tmp_path / "metrics.csv")
    process.kill()
    process.wait()
    epoch = checkpoint.load(tmp_path / "last.pth")["progress"]["epoch"]
    result = call(train_main, *options, f"train.epochs={max(1, epoch)}")
    assert result.returncode == 0 and f"resumed from {tmp_path}/last.pth" in result.stdout, result.stderr


def test_a_users_mistakes_end_with_2_and_one_line(pairs_csv, tmp_path):
    half = tmp_path / "half.png"
    half.write_bytes((pairs_csv.parent / "rgb_0.png").read_bytes()[:500])
    (tmp_path / "bad.csv").write_text(f"image_path,alpha_path\n{half},{pairs_csv.parent}/alpha_0.png\n")
    for options, words in ((tiny(tmp_path / "bad.csv", tmp_path / "run"), "bad.csv line 2"),
                           (tiny(pairs_csv, tmp_path / "run", f"model.weights={half}"), "half.png")):
        code, _, err = call(train_main, *options)
        assert code == 2 and err.count("\n") == 1 and words in err and "half.png" in err
    assert not (tmp_path / "run").exists()


def test_a_full_disk_ends_with_1_and_one_line_and_leaves_nothing_half_written(pairs_csv, tmp_path):
    with files_of_at_most(2**20):
        result = call(train_main, *tiny(pairs_csv, tmp_path))
    assert "last.pth: cannot be written" in one_error_line(result, 1)
    assert not [*tmp_path.glob("*.pth"), *tmp_path.glob(".*")]


def test_an_epoch_uses_each_image_once_in_an_order_of_its_own(pairs_csv, tmp_path):
    cfg = load_config(DEFAULTS, tiny(pairs_csv, tmp_path, "train.batch_size=3"))
    first, second = epoch_batches(cfg, 0, 9), epoch_batches(cfg, 1, 9)
    assert sorted(index for batch in first for _, index in batch) == list(range(9))
    assert [[i for _, i in batch] for batch in first] != [[i for _, i in batch] for batch in second]
    assert epoch_batches(cfg, 0, 2) in ([[(0, 0), (0, 1)]], [[(0, 1), (0, 0)]])
    assert [len(batch) for batch in epoch_batches(cfg, 0, 8)] == [3, 3]


def test_the_average_moves_by_one_minus_decay():
    kept, new = torch.nn.BatchNorm1d(1), torch.nn.BatchNorm1d(1)
    new.weight.data.fill_(3)
    new.num_batches_tracked.fill_(7)
    update_average(kept, new, decay=0.75, step=1000)
    assert kept.weight.item() == pytest.approx(1.5) and kept.num_batches_tracked == 7


def test_compilation_and_checkpointing_exclude_each_other(pairs_csv, tmp_path):
    with pytest.raises(UserError, match="set one to false"):
        run(pairs_csv, tmp_path, "train.compile=true", "train.checkpointing=true")


def test_compilation_and_synchronised_statistics_exclude_each_other(pairs_csv, tmp_path):
    cfg = load_config(DEFAULTS, tiny(pairs_csv, tmp_path, "train.compile=true"))
    with pytest.raises(UserError, match=r"train\.compile and train\.sync_bn .* set one to false"):
        prepare(cfg, torch.device("cuda"), "fp32", World(0, 2))


def test_a_run_resumes_in_another_number_format(pairs_csv, tmp_path):
    before = run(pairs_csv, tmp_path, "train.max_hours=1e-9", "train.amp=fp32")
    assert before["progress"]["step"] == 1 and not before["scaler"]
    CLAIMS.pop(str(tmp_path)).close()
    after = run(pairs_csv, tmp_path, "train.amp=fp16")
    assert after["progress"]["epoch"] == 2 and after["scaler"]["scale"] > 0
    CLAIMS.pop(str(tmp_path)).close()
    assert run(pairs_csv, tmp_path, "train.amp=fp32", "train.epochs=3")["progress"]["epoch"] == 3


@pytest.mark.parametrize("cores, processes, workers", [(4, 2, 2), (4, 1, 4), (2, 2, 1), (64, 1, 16)])
def test_beside_a_gpu_there_is_a_worker_per_core(pairs_csv, tmp_path, monkeypatch, cores, processes, workers):
    monkeypatch.setattr(data_workers, "usable_cores", lambda: cores)
    monkeypatch.setattr(data_workers, "workers_that_fit", lambda cfg: 99)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    cfg = load_config(DEFAULTS, tiny(pairs_csv, tmp_path, "train.workers=auto"))
    assert loader_options(cfg, torch.device("cuda"))["num_workers"] == workers
    assert loader_options(cfg, torch.device("cpu"))["num_workers"] == 1


def test_fp32_on_a_gpu_is_not_tf32(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_90"])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    device = pick_device()
    assert not torch.backends.cudnn.allow_tf32
    assert describe(device, "fp32") == "cuda (NVIDIA H100), fp32 without TF32"
    assert describe(device, "bf16") == "cuda (NVIDIA H100), bf16"


def test_workers_fit_into_shared_memory(pairs_csv, tmp_path):
    cfg = load_config(DEFAULTS, tiny(pairs_csv, tmp_path))
    free = shutil.disk_usage(tmp_path).free
    assert workers_that_fit(cfg, tmp_path) == pytest.approx(free / (3 * 2 * 64 * 64 * 7), rel=0.1)
    huge = cfg.model_copy(update={"train": cfg.train.model_copy(update={"batch_size": free // 64**2})})
    assert workers_that_fit(huge, tmp_path) == 0


def test_auto_precision_is_one_that_the_cpu_has():
    assert pick_precision("auto", torch.device("cpu")) in ("bf16", "fp32")
    assert pick_precision("fp32", torch.device("cpu")) == "fp32"
