"""make tune on a run and on several: what is tried, what is written, and that infer applies it."""
import shutil

import numpy as np
import pytest
import yaml

import tune
from conftest import call, one_error_line, tiny, write_pairs
from core.config import DEFAULTS, load_config, predict_sizes, with_infer
from core.errors import UserError
from core.folds import weights_identity
from imaging.images import read_rgb
from infer import infer
from inference.predictor import load_predictor
from inference.tuned import NOT_TUNED, load_tuned, save_tuned, tuned_path, with_tuned
from submission.submission_csv import decode_alpha, read_rows
from train import main as train_main
from tuning.candidates import GRIDS
from tuning.nested import Division
from tuning.pictures import pictures, run_config
from tuning.procedure import Procedure, predictions
from tuning.recordings import without_new_caches
from tuning.ways import Base, Way, recordings_for, ways_to_try

DIVISION = Division(np.arange(4), np.arange(4))


def settings(*overrides):
    return load_config(DEFAULTS, overrides)


def of_run(folder, *overrides):
    return run_config(DEFAULTS, [f"train.out_dir={folder}", *overrides])


def test_sizes_flips_tiles_and_means_of_neighbouring_sizes_are_tried():
    ways = ways_to_try(settings("infer.tile_over=2048"), {320}, 600)
    assert ways[:2] == [Way((320,), True, 2048), Way((320,), False, 2048)]
    assert {way.sizes for way in ways if way.flip and way.tile_over == 2048} == {
        (256,), (320,), (384,), (512,), (320, 384), (256, 320), (256, 320, 384)}
    assert [way for way in ways if way.tile_over != 2048] == [Way((320,), True, 320), Way((512,), True, 512)]
    assert len(set(map(str, ways))) == len(ways)
    # what several ways need is computed once
    assert {view.size for view in recordings_for(settings(), None, ways).kept} == {256, 320, 384}


def test_sizes_that_change_nothing_are_not_tried():
    assert ways_to_try(settings("infer.tta=none"), {64}, 64) == [Way((64,), False, 2048), Way((64,), True, 2048)]
    assert ways_to_try(settings("infer.tta=[flip,320,384]"), {320}, 350)[0] == Way((320, 384), True, 2048)
    own = [way.sizes for way in ways_to_try(settings(), {256, 320}, 400)]
    assert own[0] == (None,) and all(len(sizes) == 1 for sizes in own)


@pytest.fixture(scope="module")
def second_run(tmp_path_factory, pairs_csv):
    """Another training on the same pairs."""
    folder = tmp_path_factory.mktemp("second")
    assert call(train_main, *tiny(pairs_csv, folder, "train.epochs=1", "seed=7")).returncode == 0
    return folder


@pytest.mark.parametrize("way, shares", [
    (Way((64, 96), True, 2048), (0.3, 0.7)), (Way((64,), False, 48), (1.0, 0.0))])
def test_recorded_outputs_make_what_inference_makes(run_dir, second_run, way, shares):
    both = f"infer.weights=[{run_dir}/best.pth,{second_run}/best.pth]"
    cfg = of_run(run_dir, both, "infer.backend=torch", "data.limit=2")
    found = pictures(cfg)
    preds = predictions(recordings_for(cfg, found, [way]), Base(way, shares))
    predict = load_predictor(with_infer(cfg, shares=shares, tile_over=way.tile_over,
                                        tta=(*("flip",) * way.flip, *way.sizes)))
    for pred, (rgb, _, _) in zip(preds, found.samples, strict=True):
        np.testing.assert_allclose(pred.dense, predict([rgb])[0], atol=2e-3)


def test_a_way_that_was_chosen_without_a_part_is_where_that_part_goes_on(run_dir):
    cfg = of_run(run_dir)
    ways = [Way((64,), True, 2048), Way((64,), False, 2048)]
    procedure = Procedure(cfg, recordings_for(cfg, pictures(cfg), ways), DIVISION, "val_mse_dense")
    measured, step = procedure.choose_way(ways)
    chosen = {None: step.decision.chosen, **step.decision.by_part}
    assert procedure.bases.keys() == chosen.keys() == {None, 0, 1, 2, 3}
    for part, base in procedure.bases.items():
        assert base.way == (ways[1] if step.decision.accepted and chosen[part] else ways[0])
    post = procedure.choose_postprocessing().decision
    total = sum(each.changes.mean() for each in (step.decision, post) if each.accepted)
    assert procedure.change().mean == pytest.approx(total)
    assert len(measured[0].errors) == 4


@pytest.fixture
def run_copy(run_dir, tmp_path):
    """A copy of the run folder, since tune and infer write into it."""
    return shutil.copytree(run_dir, tmp_path / "run")


def test_the_command_measures_a_run_and_infer_applies_the_result(run_copy, pairs_csv, capsys):
    cfg = settings(f"train.out_dir={run_copy}", f"infer.images={pairs_csv.parent}", "infer.postprocess=tuned")
    with pytest.raises(UserError, match=r"postprocess\.yaml: .*make tune"):
        infer(cfg)
    result = call(tune.main, f"train.out_dir={run_copy}")
    assert result.returncode == 0, result.stderr
    assert "the original's components: " in result.stdout and "chosen: " in result.stdout
    assert all(candidate in result.stdout for candidate in GRIDS) and "in 4 parts" in result.stdout
    assert read_rgb(run_copy / "tune.png").shape[1] > 800 and read_rgb(run_copy / "sizes.png").shape[1] > 800
    load_tuned(cfg)

    # infer must follow the file, whatever was chosen.
    tuned = yaml.safe_load((run_copy / "postprocess.yaml").read_text())
    tuned |= {"name": "affine", "parameters": {"scale": 0.0, "offset": 0.4}, "size": 96, "tile_over": 96, "tta": "flip"}
    (run_copy / "postprocess.yaml").write_text(yaml.safe_dump(tuned, sort_keys=False))
    infer(cfg)
    said = capsys.readouterr().out
    assert "post-processing affine scale=0.0 offset=0.4" in said
    assert "96 px, tta flip, tiles over 96 px" in said
    infer(with_infer(cfg, size=64))
    assert " 64 px, tta flip" in capsys.readouterr().out  # infer.size counts
    assert all((decode_alpha(text) == 102).all() for _, _, text in read_rows(run_copy / "submission.csv"))


def test_a_file_of_an_earlier_version_still_loads(run_copy):
    tune.tune(of_run(run_copy, "data.limit=3"))
    path = run_copy / "postprocess.yaml"
    old = {key: value for key, value in yaml.safe_load(path.read_text()).items() if key not in ("tta", "shares")}
    path.write_text(yaml.safe_dump({**old, "size": 384}))
    assert load_tuned(of_run(run_copy)) == NOT_TUNED._replace(size=384)


@pytest.mark.parametrize("way, sizes, flips", [
    (Way((64, 96), True, 2048), (64, 96), "flip"), (Way((64, 96), False, 2048), (64, 96), "none"),
    (Way((96,), False, 96), (96,), "none"), (Way((96,), True, None), (96,), "flip"),
    (Way((None,), False, 2048), (320,), "none")])
def test_inference_sees_images_in_the_way_that_was_chosen(run_copy, way, sizes, flips):
    cfg = settings(f"train.out_dir={run_copy}")
    tuned = NOT_TUNED._replace(**way.settings)
    save_tuned(tuned_path(cfg), weights_identity(cfg.infer.checkpoints), tuned, {})
    assert load_tuned(cfg) == tuned
    found = with_tuned(cfg, tuned)
    assert (predict_sizes(found), found.infer.flips) == (sizes, flips)
    assert found.infer.tile_over == (way.tile_over or cfg.infer.tile_over)


def test_several_runs_get_shares_which_infer_uses(run_copy, second_run, pairs_csv, tmp_path):
    arguments = [f"infer.weights=[{second_run}/best.pth,{run_copy}/best.pth]", f"train.out_dir={tmp_path}/both",
                 "infer.backend=torch"]
    result = call(tune.main, *arguments)
    assert result.returncode == 0, result.stderr
    assert "MSE alone" in result.stdout and "shares: " in result.stdout
    cfg = settings(*arguments, f"infer.images={pairs_csv.parent}", "infer.postprocess=tuned")
    path = tmp_path / "both/postprocess.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "shares": [0.75, 0.25]},
                                   sort_keys=False))
    assert load_tuned(cfg).shares == (0.75, 0.25)
    assert call(tune.main, *arguments, "infer.shares=[1,3]").returncode == 0  # set by hand: not fitted
    assert load_tuned(cfg).shares is None


def test_a_network_that_was_trained_on_the_pictures_is_refused(run_copy, second_run, tmp_path):
    """The second run was trained on the pictures that the first is validated on, and validated on others."""
    write_pairs(tmp_path / "other", 1, 64)
    config = yaml.safe_load((run_copy / "config.yaml").read_text())
    config["data"]["val_csv"] = str(tmp_path / "other/pairs.csv")
    (run_copy / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    result = call(tune.main, f"infer.weights=[{second_run}/best.pth,{run_copy}/best.pth]",
                  f"train.out_dir={tmp_path}/x")
    assert f"{run_copy}/best.pth: was trained on 4 of the 4 pictures to judge on" in one_error_line(result, 2)


def test_three_images_are_too_little_evidence(run_copy, capsys):
    tune.tune(of_run(run_copy, "data.limit=3"))
    assert "too little evidence" in capsys.readouterr().out
    assert load_tuned(of_run(run_copy)) == NOT_TUNED


def test_a_folder_without_a_run_is_named(run_copy):
    result = call(tune.main, "train.out_dir=nowhere", "data.val_csv=nowhere.csv")
    assert "nowhere: no trained model there yet; using the bundled weights" in result.stdout
    assert "nowhere.csv: no such pairs CSV" in one_error_line(result, 2)
    (run_copy / "best.pth").unlink()
    with pytest.raises(UserError, match=r"best\.pth"):
        tune.tune(of_run(run_copy))


def test_networks_of_sizes_that_were_only_tried_leave_no_files(tmp_path):
    weights = tmp_path / "a.b[1].pth"
    files = [weights.with_name(f".{weights.stem}.{size}.bf16.openvino") for size in (256, 320, 384)]
    files[0].touch()
    with without_new_caches([weights]) as used:
        files[1].touch()
        files[2].touch()
        used.add(384)
    assert sorted(tmp_path.iterdir()) == [files[0], files[2]]
