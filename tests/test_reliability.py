"""What must not be lost: checkpoints that were damaged, two runs in one folder, files half written, a full disk."""
import multiprocessing
import random
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import ROOT, call, scene, tiny
from core import checkpoint
from core.config import DEFAULTS, load_config
from core.errors import UserError
from core.files import HOST, written_whole
from dataset import ValidationSet
from imaging.cache import Cache
from imaging.foreground import cached_foreground
from imaging.pairs import read_pairs
from infer import main as infer_main
from train import main as train_main
from training.validation import reference_levels
from training.workers import serve


def flip(path, at: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << bit
    path.write_bytes(content)


def inside_weights(path) -> int:
    """The place of a byte in the largest tensor, where torch.load alone would notice nothing."""
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
        return largest.header_offset + largest.file_size // 2


def same(a, b) -> bool:
    if torch.is_tensor(a):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return a == b


def test_a_flipped_bit_anywhere_is_noticed_or_changes_nothing(tmp_path):
    state = {"model_state": {f"layer{i}.weight": torch.arange(40.0) + i for i in range(5)}, "epoch": 3}
    checkpoint.save(tmp_path / "whole.pth", state)
    whole, rng = (tmp_path / "whole.pth").read_bytes(), random.Random(0)
    refused = 0
    for _ in range(300):
        (tmp_path / "flipped.pth").write_bytes(whole)
        flip(tmp_path / "flipped.pth", rng.randrange(len(whole)), rng.randrange(8))
        try:
            assert same(checkpoint.load(tmp_path / "flipped.pth"), state)
        except UserError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 100  # the rest lies in padding
    for length in range(0, len(whole), len(whole) // 40):
        (tmp_path / "cut.pth").write_bytes(whole[:length])
        with pytest.raises(UserError):
            checkpoint.load(tmp_path / "cut.pth")


def test_weights_that_unpack_to_more_than_they_are_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10_000_000))
    with pytest.raises(UserError, match="unpacks to more"):
        checkpoint.load(tmp_path / "bomb.pth")


@pytest.mark.parametrize("config", [[1], {"model": 3}, {"model": {"variant": "resnet"}, "infer": {}},
                                    {"model": {}, "infer": {"size": 10**9}}, {"model": {}, "infer": {"size": "1024"}}])
def test_a_config_in_a_checkpoint_is_not_trusted(tmp_path, config):
    checkpoint.save(tmp_path / "w.pth", {"model_state": {}, "config": config})
    with pytest.raises(UserError, match="its config was not written by this program"):
        checkpoint.load(tmp_path / "w.pth")


def test_a_damaged_last_pth_falls_back_on_the_one_before_and_ends_where_it_would_have(pairs_csv, tmp_path):
    whole, hurt = tmp_path / "whole", tmp_path / "hurt"
    for out_dir in (whole, hurt):
        assert call(train_main, *tiny(pairs_csv, out_dir, "train.epochs=1"))[0] == 0
    flip(hurt / "last.pth", inside_weights(hurt / "last.pth"))
    for out_dir in (whole, hurt):
        code, out, err = call(train_main, *tiny(pairs_csv, out_dir))
        assert code == 0, err
    assert "warning" in out and "checksum" in out and f"resuming from {hurt}/last.prev.pth" in out
    states = [checkpoint.load(out_dir / "last.pth") for out_dir in (whole, hurt)]
    assert same(*(state["model_state"] for state in states))
    assert checkpoint.load(hurt / "last.prev.pth")["progress"]["epoch"] == 1

    (hurt / "last.pth").unlink()  # as a kill between the two renames leaves it
    code, out, _ = call(train_main, *tiny(pairs_csv, hurt))
    assert code == 0 and "no such checkpoint" in out
    assert same(checkpoint.load(hurt / "last.pth")["model_state"], states[0]["model_state"])

    for name in ("last.pth", "last.prev.pth"):
        (hurt / name).write_bytes(b"PK\x03\x04")
    code, _, err = call(train_main, *tiny(pairs_csv, hurt))
    assert code == 2 and err.count("\n") == 1 and "last.prev.pth" in err
    (hurt / "last.prev.pth").unlink()
    code, _, err = call(train_main, *tiny(pairs_csv, hurt))
    assert code == 2 and "train.resume=never" in err


def test_a_damaged_best_pth_is_refused_in_one_line(run_dir, pairs_csv, tmp_path):
    damaged = tmp_path / "best.pth"
    damaged.write_bytes((run_dir / "best.pth").read_bytes())
    flip(damaged, inside_weights(damaged))
    code, _, err = call(infer_main, f"infer.images={pairs_csv.parent}", f"infer.weights={damaged}",
                        f"infer.submission={tmp_path}/s.csv")
    assert code == 2 and err.count("\n") == 1 and "best.pth" in err and "checksum" in err
    assert not (tmp_path / "s.csv").exists()


HOLD = "import sys, time; sys.path.insert(0, 'src'); from pathlib import Path; from core import files; " \
       "files.alone_in(Path(sys.argv[1])); print('in', flush=True); time.sleep(60)"


def test_a_second_run_in_a_folder_is_told_until_the_first_one_ends(pairs_csv, tmp_path):
    first = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "run"], cwd=ROOT, stdout=subprocess.PIPE)
    assert first.stdout.readline() == b"in\n"
    code, _, err = call(train_main, *tiny(pairs_csv, tmp_path / "run", "train.epochs=1"))
    assert code == 2 and err.count("\n") == 1 and f"in use by process {first.pid}; wait for it to finish" in err
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["lock"]
    first.kill()
    first.wait()
    assert call(train_main, *tiny(pairs_csv, tmp_path / "run", "train.epochs=1"))[0] == 0


def test_what_killed_writers_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    gone = subprocess.Popen(["true"])
    gone.wait()
    living, elsewhere = f".a.{HOST}.1.part.png", f".last.another{HOST}.{gone.pid}.part.pth"
    for name in (f".last.{HOST}.{gone.pid}.part.pth", living, elsewhere, ".hidden.part"):
        (tmp_path / name).write_bytes(b"x")
    with written_whole(tmp_path / "a.txt") as part:
        part.write_text("a")
    assert {path.name for path in tmp_path.iterdir()} == {living, elsewhere, ".hidden.part", "a.txt"}


@pytest.mark.parametrize("content", ["", "[1]", "{", '{"identity": 3}'])
def test_damaged_caches_are_made_anew(pairs_csv, tmp_path, content):
    cfg = load_config(DEFAULTS, tiny(pairs_csv, tmp_path))
    val_set = ValidationSet(read_pairs(pairs_csv), cfg)
    levels = reference_levels(val_set, cfg, tmp_path / "levels.json")
    (tmp_path / "levels.json").write_text(content)
    assert reference_levels(val_set, cfg, tmp_path / "levels.json") == levels
    assert reference_levels(val_set, cfg, tmp_path / "levels.json") == levels

    rgb, alpha = scene(16)
    sources = (pairs_csv, pairs_csv)
    first = cached_foreground(Cache(tmp_path / "cache"), sources, rgb, alpha)
    cached, = (tmp_path / "cache").iterdir()
    cached.write_bytes(content.encode())
    for _ in range(2):
        assert np.array_equal(cached_foreground(Cache(tmp_path / "cache"), sources, rgb, alpha), first)


only_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's end")


@only_linux
def test_a_worker_goes_with_its_main_process():
    process = subprocess.Popen([sys.executable, "-c", f"""import os, sys, time
sys.path.insert(0, {str(ROOT / "src")!r})
from training.workers import serve
main = os.getpid()
if not os.fork():
    serve(main, 0)
    print(os.getpid(), flush=True)
time.sleep(60)
"""], stdout=subprocess.PIPE, text=True)
    worker = Path(f"/proc/{int(process.stdout.readline())}/stat")
    process.kill()
    process.wait()
    deadline = time.monotonic() + 60
    while worker.exists() and worker.read_text().rsplit(") ", 1)[1][0] not in "ZX":
        assert time.monotonic() < deadline, "it lives on"
        time.sleep(0.05)


@only_linux
def test_a_worker_that_comes_too_late_ends_at_once():
    worker = multiprocessing.get_context("fork").Process(target=serve, args=(1 << 22, 0))
    worker.start()
    worker.join(60)
    assert worker.exitcode == 1
