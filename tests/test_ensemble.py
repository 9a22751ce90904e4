"""Several networks as one: what is averaged, with which shares, and at what cost."""
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import embed
import precision
import report
from augment import middle_xray_params, xray_alpha_dense
from conftest import call, one_error_line, scene, tiny
from core import checkpoint
from core.config import DEFAULTS, as_overrides, dump_config, flat, load_config, load_run, with_infer
from core.errors import OperationError
from infer import main as infer_main
from inference.ensemble import ensemble
from inference.predictor import Predictor, check_memory, load_members, load_predictor
from submission.submission_csv import decode_alpha, read_rows
from train import main as train_main
from u2net import U2Net

MIDDLE = middle_xray_params(load_config(DEFAULTS).augment.xray)


class Constant:
    """A network whose alpha is the same everywhere; counts its images."""
    tta, batch_size, kept_bytes = "none", 2, 0

    def __init__(self, alpha):
        self.alpha, self.description, self.images = alpha, f"constant {alpha}", 0

    def __call__(self, squares):
        self.images += len(squares)
        return np.full(squares.shape[:3], self.alpha, np.float32)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 9), st.sampled_from([32, 48])), min_size=1, max_size=4),
       st.floats(0.1, 10))
def test_the_mean_is_weighted_and_shares_need_not_sum_to_one(members, scale):
    if sum(share for _, share, _ in members) < 1e-3:
        members = [(alpha, 1.0, size) for alpha, _, size in members]
    predictors = [Predictor(Constant(alpha), size) for alpha, _, size in members]
    shares = [share for _, share, _ in members]
    rgb = scene(40)[0]
    mean, = ensemble(predictors, shares)([rgb])
    scaled, = ensemble(predictors, [share * scale for share in shares])([rgb])
    expected = np.average([alpha for alpha, _, _ in members], weights=shares)
    assert mean.dtype == np.float32 and mean.shape == (40, 40) and 0 <= mean.min() <= mean.max() <= 1
    np.testing.assert_allclose(mean, expected, atol=1e-5)
    np.testing.assert_allclose(scaled, mean, atol=1e-6)


def test_alphas_are_composed_once_and_dense_ones_averaged_as_they_are():
    rgb = scene(64)[0]
    alphas = [Predictor(Constant(alpha), size, density=MIDDLE) for alpha, size in ((0.2, 64), (0.8, 32))]
    dense = Predictor(Constant(0.3), 48)
    composed = xray_alpha_dense(rgb, np.full((64, 64), 0.35, np.float32), MIDDLE)
    both, = ensemble(alphas, [3, 1]).predictions([rgb])
    np.testing.assert_allclose(both.alpha, 0.35, atol=1e-6)
    np.testing.assert_allclose(both.dense, composed, atol=1e-5)
    mixed = ensemble([ensemble(alphas, [3, 1]), dense], [0.75, 0.25])
    all_three, = mixed.predictions([rgb])
    np.testing.assert_allclose(all_three.alpha, 0.35, atol=1e-6)
    np.testing.assert_allclose(all_three.dense, 0.75 * composed + 0.25 * 0.3, atol=1e-5)
    assert mixed.density and "shares 0.562, 0.188, 0.25" in mixed.description
    direct, = ensemble([dense, Predictor(Constant(0.5), 48)]).predictions([rgb])
    assert direct.alpha is direct.dense


def test_each_network_sees_each_image_once_and_a_square_is_made_once_per_size():
    networks = [Constant(alpha) for alpha in (0.1, 0.2, 0.3)]
    predict = ensemble([Predictor(network, size) for network, size in zip(networks, (32, 32, 48), strict=True)])
    rgbs = [scene(40, seed)[0] for seed in range(3)]
    assert list(predict.prepare(rgbs[0])) == [32, 48]
    predict(rgbs)
    assert [network.images for network in networks] == [3, 3, 3]
    unused = Constant(0.5)
    assert ensemble([Predictor(networks[0], 32), Predictor(unused, 32)], [2, 0]).network is networks[0]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A small network that predicts alphas, another dense ones, and a large one -> their checkpoints."""
    folder = tmp_path_factory.mktemp("weights")
    for seed, (name, variant, predicts) in enumerate(
            [("alpha", "u2netp", "alpha"), ("dense", "u2netp", "dense"), ("large", "u2net", "alpha")]):
        torch.manual_seed(seed)
        checkpoint.save(folder / f"{name}.pth", {"model_state": U2Net(variant).state_dict(), "config": {
            "model": {"variant": variant, "predicts": predicts}, "infer": {"size": 64}}})
    return [folder / f"{name}.pth" for name in ("alpha", "dense", "large")]


def configured(weights, *more):
    return load_config(DEFAULTS, [*as_overrides({"infer.weights": weights}), "infer.backend=torch", "infer.tta=none",
                                  "infer.precision=fp32", *more])


def test_networks_of_other_variants_and_outputs_are_mixed(weights):
    rgb = scene(80)[0]
    cfg = configured(weights, "infer.shares=[2,1,1]")
    small, dense, large = (load_predictor(configured([path])).predictions([rgb])[0] for path in weights)
    found, = load_predictor(cfg).predictions([rgb])
    alpha = (2 * small.alpha + large.alpha) / 3
    np.testing.assert_allclose(found.alpha, alpha, atol=1e-5)
    np.testing.assert_allclose(found.dense, 0.75 * xray_alpha_dense(rgb, alpha, MIDDLE) + 0.25 * dense.dense, atol=1e-5)
    alone = load_predictor(with_infer(cfg, shares=(0.0, 3.0, 0.0)))
    assert np.array_equal(alone([rgb])[0], dense.dense)


def test_sizes_are_averaged_at_the_images_own_size(weights):
    rgb = scene(80)[0]
    at = [load_predictor(configured(weights[:1], f"infer.size={size}", "infer.tta=flip")).predictions([rgb])[0]
          for size in (48, 64)]
    cfg = configured(weights[:1], "infer.tta=[64,flip,48]")
    found, = load_predictor(cfg).predictions([rgb])
    np.testing.assert_allclose(found.alpha, (at[0].alpha + at[1].alpha) / 2, atol=1e-6)
    assert [member.size for member in load_members(cfg)] == [64, 48]
    one = load_predictor(configured(weights[:1], "infer.tta=[48,flip]"))
    assert np.array_equal(one.predictions([rgb])[0].alpha, at[0].alpha)


NAMES = ["a.pth", "007", "a, b.pth", "2024-05-01", "😀.pth", "it's", "[x]", "#3", "latin\udce9", "null", "official"]


def test_lists_survive_saving_and_overriding(tmp_path):
    given = {"infer.weights": [Path(name) for name in NAMES], "infer.shares": list(range(len(NAMES))),
             "infer.tta": [320, "flip", 64]}
    cfg = load_config(DEFAULTS, as_overrides(given))
    assert list(map(str, cfg.infer.weights)) == [*NAMES[:-1], "weights/u2netp.pth"] and cfg.infer.shares[2] == 2
    assert (cfg.infer.tta, cfg.infer.flips, cfg.infer.tta_sizes) == (("flip", 320, 64), "flip", (320, 64))
    (tmp_path / "saved.yaml").write_text(dump_config(cfg), encoding="utf-8")
    assert load_config(tmp_path / "saved.yaml") == cfg
    assert load_config(DEFAULTS, as_overrides(flat(cfg.model_dump(mode="json")))) == cfg
    typed = load_config(DEFAULTS, ["infer.weights=[a.pth, 007,~/x]", "infer.tta=[flip]"]).infer
    assert typed.checkpoints == (Path("a.pth"), Path("007"), Path("~/x").expanduser()) and typed.tta == "flip"
    assert load_config(DEFAULTS, ["infer.weights=[a.pth]", "infer.tta=[]"]).infer.tta == "none"
    assert load_config(DEFAULTS, ["infer.weights=[a.pth]"]).infer.weights == Path("a.pth")


@pytest.mark.parametrize("settings, words", [
    (["infer.weights=[a,a]"], "a checkpoint is named twice; give it a larger share in infer.shares"),
    (["infer.weights=[]"], "infer.weights=[]: an empty list"), (["infer.tta=[blip]"], "should be 'flip'"),
    (["infer.tta=[320,320]"], "named twice"), (["infer.tta=320"], "should be a list"),
    (["infer.tta=[16]"], "greater than or equal to 32"), (["infer.shares=[0,0]"], "one share must be above 0"),
    (["infer.weights=[a,b]", "infer.shares=[1]"], "1 shares for 2 of infer.weights"),
    (["infer.weights=[a,b]", "infer.shares=[1,-1]"], "greater than or equal to 0"),
    (["infer.tta=[320]", "infer.size=64"], "infer.size=64: infer.tta has sizes of its own"),
    (["infer.weights=[no.pth,b.pth]"], "no.pth: no such checkpoint"),
])
def test_what_cannot_be_averaged_is_refused_in_one_line(settings, words, pairs_csv, tmp_path):
    line = one_error_line(call(infer_main, f"infer.images={pairs_csv.parent}", f"infer.submission={tmp_path}/s.csv",
                               *settings), 2)
    assert words in line and not list(tmp_path.iterdir())


def test_too_many_networks_for_the_memory_name_the_other_way():
    check_memory([10**6] * 3)
    with pytest.raises(OperationError, match=r"^2 networks or more need over 2000000 GB .*submit.py blend`"):
        check_memory([10**15] * 2)


def test_commands_about_one_network_refuse_several(run_dir, weights, tmp_path):
    several = as_overrides({"train.out_dir": run_dir, "infer.weights": weights})
    for main in (report.main, precision.main, embed.main):
        more = [f"--out={tmp_path}/w.pth"] if main == embed.main else []
        assert "infer.weights: names 3" in one_error_line(call(main, *several, *more), 2)
        sizes = [f"train.out_dir={run_dir}", "infer.size=null", "infer.tta=[flip,32,64]", *more]
        assert "infer.tta=['flip', 32, 64]: this command" in one_error_line(call(main, *sizes), 2)


def test_a_list_trains_and_infers_from_the_command_line(pairs_csv, weights, tmp_path):
    run = tmp_path / "run"
    sizes = ["infer.size=null", "infer.tta=[flip,32,64]"]
    later = [*as_overrides({"infer.weights": weights[:2]}), "infer.shares=[1,2]"]  # for inference, not for the training
    result = call(train_main, *tiny(pairs_csv, run), *sizes, *later, "train.epochs=1")
    assert result.returncode == 0, result.stderr
    assert load_run(DEFAULTS, [f"train.out_dir={run}"]).infer.weights == run / "best.pth"
    assert checkpoint.load(run / "best.pth")["config"]["infer"]["tta"] == ["flip", 32, 64]
    assert [member.size for member in load_members(configured([run / "best.pth"]))] == [32]  # as trained: the first
    listed = as_overrides({"infer.weights": [run / "best.pth", *weights]})
    options = [*listed, "infer.shares=[1,0,0,2]", *sizes, f"infer.images={pairs_csv.parent}", "infer.backend=torch"]
    result = call(infer_main, *options, f"infer.submission={tmp_path}/s.csv", f"infer.png_dir={tmp_path}/png")
    assert result.returncode == 0, result.stderr
    assert "mean of 4 outputs with shares 0.167, 0.167, 0.333, 0.333" in result.stdout
    rows = {name: decode_alpha(text) for _, name, text in read_rows(tmp_path / "s.csv")}
    assert len(rows) == 8 and all(alpha.shape == (64, 64) for alpha in rows.values())
    refusal = call(infer_main, *options, f"infer.submission={weights[1]}")
    assert "is an input of this command" in one_error_line(refusal, 2)
