"""What `make tune` chose for one network, a folder of folds or a list: where it is kept, and for which it counts."""
import pytest
import yaml

from core import checkpoint
from core.config import DEFAULTS, as_overrides, load_config
from core.errors import UserError
from core.folds import weights_identity
from inference.postprocess import NONE, Setting
from inference.tuned import Tuned, load_tuned, save_tuned, tuned_path, with_tuned
from u2net import U2Net

GAMMA = Setting("gamma", {"exponent": 0.9})


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned")
    for name in "ab":
        checkpoint.save(folder / name / "best.pth", {"model_state": U2Net().state_dict()})
    return [folder / name / "best.pth" for name in "ab"]


def configured(weights, *more):
    return load_config(DEFAULTS, [*as_overrides({"infer.weights": weights}), *more])


def test_it_is_beside_a_checkpoint_in_a_folder_of_folds_or_in_the_run_of_a_list(weights, tmp_path):
    assert tuned_path(configured(weights[:1])) == weights[0].parent / "postprocess.yaml"
    assert tuned_path(configured([tmp_path])) == tmp_path / "postprocess.yaml"
    assert tuned_path(configured(weights, f"train.out_dir={tmp_path}/run")) == tmp_path / "run/postprocess.yaml"


def test_shares_and_sizes_survive_and_count_for_these_weights_in_this_order(weights, tmp_path):
    cfg = configured(weights, f"train.out_dir={tmp_path}")
    tuned = Tuned(GAMMA, None, 512, ("flip", 320, 64), (0.25, 0.75))
    save_tuned(tuned_path(cfg), weights_identity(weights), tuned, {"before": 0.1})
    assert load_tuned(cfg) == tuned
    with pytest.raises(UserError, match="was tuned for another checkpoint"):
        load_tuned(configured(weights[::-1], f"train.out_dir={tmp_path}"))
    values = yaml.safe_load((tmp_path / "postprocess.yaml").read_text())
    for changes in ({"shares": [1]}, {"shares": [0, 0]}, {"tta": [7]}, {"tta": 320}, {"shares": 2}):
        (tmp_path / "postprocess.yaml").write_text(yaml.safe_dump({**values, **changes}, sort_keys=False))
        with pytest.raises(UserError, match="holds no valid post-processing") as error:
            load_tuned(cfg)
        assert "\n" not in str(error.value)


def test_what_the_user_sets_counts_more_than_what_was_tuned(weights):
    tuned = Tuned(NONE, 512, 700, None, (1.0, 3.0))
    found = with_tuned(configured(weights, "infer.tta=none"), tuned).infer
    assert (found.size, found.tile_over, found.tta, found.shares) == (512, 700, "none", (1.0, 3.0))
    mine = configured(weights, "infer.size=64", "infer.shares=[1,1]")
    assert with_tuned(mine, tuned) == mine
    sizes = configured(weights, "infer.tta=[64,96]", "infer.shares=[1,1]")
    assert with_tuned(sizes, tuned) == sizes
    several = with_tuned(configured(weights), Tuned(NONE, tta=("flip", 64, 96))).infer
    assert (several.size, several.tta, several.shares) == (None, ("flip", 64, 96), None)
