"""The kernel with several networks: what its data set holds, that it runs, and whether Kaggle's time is enough."""
import json

import pytest
import torch
import yaml

import kernel
from conftest import ROOT, call, one_error_line
from core import checkpoint
from core.config import as_overrides, load_config
from core.errors import UserError
from core.folds import weights_identity
from inference.postprocess import Setting
from inference.tuned import Tuned, load_tuned, save_tuned
from kaggle_kernel import budget, bundle
from u2net import U2Net


@pytest.fixture
def several(tmp_path, run_dir, pairs_csv):
    """Settings of an ensemble of two."""
    torch.manual_seed(1)
    other = tmp_path / "other/best.pth"
    own = load_config(ROOT / "config.yaml", ["model.predicts=dense", "infer.size=96"])
    checkpoint.save(other, {"model_state": U2Net().state_dict(), "config": own.model_dump(mode="json")})
    return [f"--config={ROOT / 'config.yaml'}", *as_overrides({"infer.weights": [run_dir / "best.pth", other]}),
            "infer.shares=[3,1]", f"data.test_dir={pairs_csv.parent}", "kaggle.competition=matting",
            f"data.root={tmp_path}/data", f"train.out_dir={tmp_path}/run"]


def configured(settings, *more):
    return load_config(ROOT / "config.yaml", [*settings[1:], *more])


@pytest.mark.parametrize("kind", ["script", "notebook"])
def test_an_ensemble_runs_offline(tmp_path, several, kind):
    cfg = configured(several)
    save_tuned(tmp_path / "run/postprocess.yaml", weights_identity(cfg.infer.checkpoints),
               Tuned(Setting("gamma", {"exponent": 0.9}), tta=("flip", 64, 96)), {})
    settings = [*several, f"kernel.format={kind}", "infer.postprocess=tuned"]
    built = call(kernel.main, "build", *settings, cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    result = call(kernel.main, "test", "--images", "2", *settings, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "kernel-test: 2 rows, valid" in result.stdout and "s per image on c" in result.stdout
    measured = json.loads((tmp_path / "build/kernel-test.json").read_text())
    assert measured["seconds_per_image"] > 0 and measured["bundle"] == budget.bundle_name(tmp_path / "build")
    if kind == "script":  # a notebook's output is in its cells
        assert "mean of 4 outputs with shares 0.375, 0.375, 0.125, 0.125" in result.stdout
        assert "post-processing gamma exponent=0.9" in result.stdout


def test_the_data_set_holds_each_network_once_with_its_share(several, run_dir):
    cfg = configured(several)
    files = bundle.dataset_files(cfg)
    assert {name for name in files if name.startswith("weights")} == {"weights_0.pth", "weights_1.pth"}
    values = yaml.safe_load(files["config.yaml"])
    assert (values["infer"]["weights"], values["infer"]["shares"]) == (["weights_0.pth", "weights_1.pth"], [3.0, 1.0])
    assert files == bundle.dataset_files(cfg)
    alone = bundle.dataset_files(configured(several, "infer.shares=[1,0]"))
    assert alone["weights.pth"] == files["weights_0.pth"] and "weights_1.pth" not in alone
    assert yaml.safe_load(alone["config.yaml"])["infer"]["shares"] is None
    training = bundle.dataset_files(configured(several, "kernel.mode=train", "model.weights=null"))
    infer = yaml.safe_load(training["config.yaml"])["infer"]
    assert infer["weights"] is infer["shares"] is None and not [name for name in training if "weights" in name]


def test_what_was_tuned_for_the_ensemble_goes_with_it(tmp_path, several):
    cfg = configured(several, "infer.shares=null", "infer.postprocess=tuned")
    tuned = Tuned(Setting("gamma", {"exponent": 0.9}), size=64, shares=(1.0, 3.0))
    save_tuned(tmp_path / "run/postprocess.yaml", weights_identity(cfg.infer.checkpoints), tuned, {})
    files = bundle.dataset_files(cfg)
    folder = tmp_path / "attached"
    folder.mkdir()
    for name, body in files.items():
        (folder / name).write_bytes(body)
    there = load_config(folder / "config.yaml", as_overrides({
        "train.out_dir": folder, "infer.weights": [folder / "weights_0.pth", folder / "weights_1.pth"]}))
    assert there.infer.shares == (1.0, 3.0) and load_tuned(there) == tuned._replace(shares=None)


@pytest.fixture
def measured(tmp_path, several):
    """measured(seconds, device) -> a built kernel's folder, with that measurement."""
    assert call(kernel.main, "build", *several, cwd=tmp_path).returncode == 0

    def measured(seconds, device="cpu"):
        (tmp_path / "build/kernel-test.json").write_text(json.dumps(
            {"machine": "m", "device": device, "seconds_per_image": seconds,
             "bundle": budget.bundle_name(tmp_path / "build")}, indent=1))
        return tmp_path / "build"

    return measured


def test_a_push_that_would_take_too_long_is_refused_before_anything_is_sent(measured, several, tmp_path):
    build = measured(4800)
    line = one_error_line(call(kernel.main, "push", *several, "kernel.owner=somebody", cwd=tmp_path), 2)
    assert "the owner is unknown" in line  # of the build; then the time
    assert call(kernel.main, "build", *several, "kernel.owner=somebody", cwd=tmp_path).returncode == 0
    measured(4800)
    line = one_error_line(call(kernel.main, "push", *several, "kernel.owner=somebody", cwd=tmp_path), 2)
    assert "kernel.max_hours=9: is enough for 6 of 8 images" in line and "measured on cpu, × 1 on Kaggle" in line
    for changes in (["kernel.max_hours=12"], ["kernel.time_factor=0.5"]):
        budget.check_time(configured(several, *changes), build)
    measured(500, "cuda")
    with pytest.raises(UserError, match=r"is enough for 3 of 8 images of .*500 s per image, measured on cuda, × 15"):
        budget.check_time(configured(several), build)


def test_what_is_not_known_is_said(measured, several, tmp_path, capsys):
    build = measured(0.5)
    budget.check_time(configured(several), build)
    assert "is enough for 58320 images; 8 images of" in capsys.readouterr().out
    nowhere = [f"data.test_dir={tmp_path}/nowhere"]
    budget.check_time(configured(several, *nowhere), build)
    assert "the number of test images is unknown, assumed to be no more than that" in capsys.readouterr().out
    (tmp_path / "sample.csv").write_text("filename,image_utf\n" + "".join(f"{name},\n" for name in range(70000)))
    with pytest.raises(UserError, match=r"is enough for 58320 of 70000 images of .*sample.csv"):
        budget.check_time(configured(several, *nowhere, f"data.sample_submission={tmp_path}/sample.csv"), build)
    (build / "kernel-test.json").unlink()
    budget.check_time(configured(several), build)
    assert "unknown; `make kernel-test` measures it" in capsys.readouterr().out
