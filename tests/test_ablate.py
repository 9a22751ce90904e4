import csv

import numpy as np
import pytest

import ablate
from ablate import BASELINE, Effect, Factor, effect_of
from conftest import call, one_error_line, tiny
from core.config import DEFAULTS, load_config


def errors(shift: float, noise: float, seeds: int = 3, images: int = 40) -> dict:
    rng = np.random.default_rng(0)
    base = {seed: rng.uniform(0.01, 0.05, images) for seed in range(seeds)}
    cells = {(BASELINE, seed): base[seed] for seed in base}
    cells |= {("changed", seed): base[seed] + shift + rng.normal(0, noise, images) for seed in base}
    return {cell: {f"{i}.png": float(value) for i, value in enumerate(row)} for cell, row in cells.items()}


@pytest.mark.parametrize("shift, adds, verdict", [
    (0.002, False, "helps"), (0.002, True, "hurts"), (-0.002, True, "helps"), (0.0, True, "no evidence")])
def test_the_verdict_follows_the_paired_differences(shift, adds, verdict):
    effect = effect_of(Factor("changed", (), adds), errors(shift, noise=0.002), range(3))
    assert effect.verdict == verdict
    assert effect.low <= effect.mean <= effect.high
    assert abs(effect.mean) == pytest.approx(abs(shift), abs=0.0006)


def test_an_interval_around_nothing_is_no_evidence():
    assert Effect("x", 0.0, -1e-4, 1e-4).verdict == "no evidence"


def test_the_command_trains_each_cell_once_and_says_what_helps(pairs_csv, tmp_path):
    settings = [option for option in tiny(pairs_csv, tmp_path) if not option.startswith("train.epochs")]
    options = ["--budget", "2", "--seeds", "1", "--factors", "ema", "--out", tmp_path / "ablate", *settings]
    result = call(ablate.main, *options)
    assert result.returncode == 0, result.stderr
    assert "2 trainings of 1 epochs" in result.stdout and "baseline val_mse_dense" in result.stdout
    with (tmp_path / "ablate/ablation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["cell"] for row in rows} == {BASELINE, "ema"} and len(rows) == 8
    before = (tmp_path / "ablate/ema-42/last.pth").stat().st_mtime_ns
    again = call(ablate.main, *options).stdout
    assert again.splitlines()[1:] == result.stdout.splitlines()[1:] and "(4 remembered" in again.splitlines()[0]
    assert (tmp_path / "ablate/ema-42/last.pth").stat().st_mtime_ns == before


def test_every_factor_changes_a_setting_that_exists(pairs_csv, tmp_path):
    settings = tiny(pairs_csv, tmp_path, "train.batchnorm=frozen")
    study = ablate.plan(str(DEFAULTS), settings, 2, set(), 1)
    configs = [load_config(DEFAULTS, [*settings, *change]) for _, change, _ in study.cells()]
    assert len(configs) == 16 and all(configs.count(cfg) == 1 for cfg in configs)


def test_an_unknown_factor_is_named(pairs_csv, tmp_path):
    options = [option for option in tiny(pairs_csv, tmp_path) if not option.startswith("train.epochs")]
    assert "no edges; known: composed" in one_error_line(call(ablate.main, "--factors", "edges", *options), 2)
