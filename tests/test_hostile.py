"""Hostile files and arguments: nothing in them runs, fills the memory, escapes its folder or leaks a secret."""
import ast
import base64
import json
import os
import pickle
import resource
import struct
import time
import zlib

import pytest
import torch

import get_data
import kernel
from conftest import ROOT, call, tiny
from core import checkpoint
from core.config import DEFAULTS, load_config
from core.errors import UserError
from fakes.corpus import png
from infer import main as infer_main
from report import main as report_main
from sources import synthetic
from submission.check import validate
from submission.submission_csv import decode_alpha, read_rows
from train import main as train_main


class Canary:
    """Makes a folder when unpickled."""
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_code_in_last_pth_best_pth_or_weights_never_runs(run_dir, pairs_csv, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    state = checkpoint.load(run_dir / "last.pth") | {"optimizer": Canary(tmp_path / "ran")}
    torch.save(state, run / "last.pth")
    torch.save({"model_state": Canary(tmp_path / "ran")}, run / "best.pth")
    (run / "bare.pth").write_bytes(pickle.dumps(Canary(tmp_path / "ran")))
    pickles = {"train": (train_main, tiny(pairs_csv, run)),
               "infer": (infer_main, [f"infer.images={pairs_csv.parent}", f"train.out_dir={run}"]),
               "weights": (train_main, tiny(pairs_csv, tmp_path / "other", f"model.weights={run}/bare.pth"))}
    for what, (main, arguments) in pickles.items():
        code, _, err = call(main, *arguments)
        assert code == 2 and err.count("\n") == 1 and "refused: " in err, what
    assert not (tmp_path / "ran").exists() and not (tmp_path / "other").exists()


def test_no_other_call_can_run_code_from_files():
    """torch.load is called only in checkpoint.py and distributed.py, for plain tensors; no pickle, unsafe YAML or shell
    is used."""
    sources = [*(ROOT / "src").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")]
    assert {"checkpoint.py", "train.py", "config.py", "get_data.py"} <= {path.name for path in sources}
    for path in sources:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name, words = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
            assert name not in ("pickle.load", "pickle.loads", "eval", "os.system", "yaml.unsafe_load"), path
            assert name != "torch.load" or (path.name in ("checkpoint.py", "distributed.py")
                                            and words["weights_only"] == "True")
            assert name != "yaml.load" or (path.name, words["Loader"]) == ("config.py", "_Plain")
            assert words.get("shell", "False") == "False", path
            assert name != "time.time", f"{path}: a clock that is set back must not matter; take time.monotonic"


@pytest.mark.parametrize("text", [
    "seed: !!python/object/apply:os.mkdir [ran]", "seed: !!python/name:os.system", "!!python/object:cli.UserError {}",
    "a: &a [1, 2]\nseed: *a", "[1, 2]", "seed: {{{", "? [a, b]\n: 1", "\0", "seed: 1\n---\nseed: 2", "<<: {seed: -1}",
    "1: 2", "null: 3", "data: {root: \"a\\0b\"}", "data: 3", "seed: " + "9" * 5000,
    "a: " + "[" * 3000, "seed: 0x" + "f" * 20])
def test_a_hostile_config_file_is_refused_in_one_line(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        load_config(tmp_path / "c.yaml")
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000
    assert not (tmp_path / "ran").exists()


def test_a_thousand_million_aliases_take_no_memory(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    (tmp_path / "laughs.yaml").write_text("\n".join([*lines, "seed: *a8"]))
    started = time.process_time()
    with pytest.raises(UserError, match="aliases"):
        load_config(tmp_path / "laughs.yaml")
    assert time.process_time() - started < 5


@pytest.mark.parametrize("override", [
    "__class__=1", "__class__.__init__=1", "train.__dict__=1", "model_config={extra: allow}", "train.model_config=1",
    "model_fields=1", "train.epochs.__class__=1", "model_construct=1", "=1", ".=1", "train..epochs=1", "train=1",
    "[" * 2000 + "=1", ".".join("a" * 3000) + "=1", "seed=!!python/object/apply:os.mkdir [ran]", "seed=&a [*a]",
    "data.root=\0", "train.epochs=" + "[" * 5000, "loss={}}", "train.epochs=1e400",
    "train.lr=.nan", "train.lr=.inf", "\ud800=1"])
def test_no_override_reaches_beyond_the_settings(tmp_path, monkeypatch, override):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        load_config(DEFAULTS, [override])
    assert "\n" not in str(error.value) and not (tmp_path / "ran").exists()


def test_rows_that_unpack_to_too_much_are_refused(tmp_path):
    text = zlib.compress(bytes(100_000_000), 9)
    comment = b"Comment\0\0" + text
    zipped = struct.pack(">I", len(comment)) + b"zTXt" + comment + struct.pack(">I", zlib.crc32(b"zTXt" + comment))
    rows = {"claims": png(2**31 - 1, 2**31 - 1), "large": png(30_000, 30_000), "text": png(8, 8, 8, 0, zipped)}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, body in rows.items():
        (tmp_path / "s.csv").write_text(f"filename,image_utf\n{name},{base64.b64encode(body).decode()}\n")
        with pytest.raises(UserError, match=f"line 2 \\({name}\\): (claims|is a damaged PNG)"):
            validate(tmp_path / "s.csv", [name], (8, 8))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KB
    assert decode_alpha(base64.b64encode(png(10, 10)).decode()).shape == (10, 10)


def test_names_in_a_submission_cannot_be_formulas_of_another_row(tmp_path):
    (tmp_path / "s.csv").write_text('filename,image_utf\n"a\nb,c",x\n')
    assert list(read_rows(tmp_path / "s.csv")) == [(3, "a\nb,c", "x")]


CANARY = "canary-7c1f0e9b52"


def test_no_secret_of_the_environment_is_in_any_file_or_log(tmp_path, monkeypatch):
    """Data, training, inference, report, kernel build, with keys in the environment, kaggle.json and a token file."""
    home = tmp_path / "home"
    (home / ".kaggle").mkdir(parents=True)
    (home / ".kaggle/kaggle.json").write_text(json.dumps({"username": "somebody", "key": CANARY}))
    (home / "token").write_text(CANARY)
    places = {"HOME": home, "HF_HOME": home, "KAGGLE_CONFIG_DIR": home / ".kaggle", "KAGGLE_USERNAME": "somebody"}
    secrets = dict.fromkeys(("KAGGLE_KEY", "KAGGLE_API_TOKEN", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY"), CANARY)
    for name, value in (places | secrets).items():
        monkeypatch.setenv(name, str(value))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr(synthetic, "SHEET_SIDE", 16)
    monkeypatch.setattr(synthetic, "TEST_SHAPE", (64, 64))
    common = [f"--config={ROOT}/config.yaml", "data.root=data", "data.source=synthetic", "train.out_dir=run",
              f"weights.url=https://somebody:{CANARY}@example.org/w.pth"]
    small = ["data.synthetic.train=2", "data.synthetic.val=2", "data.synthetic.test=1", "data.synthetic.size=64"]
    training = ["augment.crop=64", "infer.size=64", "model.weights=null", "train.epochs=1", "train.batch_size=2",
                "train.workers=0", "train.samples=1", "infer.backend=torch"]
    said = ""
    for main, arguments in ((get_data.main, [*common, *small]), (train_main, [*common, *training]),
                            (infer_main, [*common, "infer.size=64", "infer.backend=torch"]), (report_main, common),
                            (kernel.main, ["build", *common])):
        code, out, err = call(main, *arguments)
        assert code == 0, err
        said += out + err
    files = [path for path in work.rglob("*") if path.is_file()]
    assert {"submission.csv", "report.html", "last.pth", "kernel.py", "weights.pth"} <= {path.name for path in files}
    assert CANARY not in said
    encodings = [CANARY.encode(), base64.b64encode(CANARY.encode())]
    leaking = [path.name for path in files if any(code in path.read_bytes() for code in encodings)]
    assert not leaking
