import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from cli import UserError
from config import DEFAULTS, load_config
from conftest import scene, tiny, write_csv, write_pairs
from dataset import TrainSet, ValidationSet, read_pairs
from loading import epoch_batches


@pytest.fixture
def folder(tmp_path):
    write_pairs(tmp_path, 3, 32)
    return tmp_path


def test_paths_are_relative_to_the_csv_and_may_be_absolute(folder):
    path = write_csv(folder / "p.csv", [("rgb_0.png", "alpha_0.png"), (folder / "rgb_1.png", folder / "alpha_1.png")])
    assert [pair.image_path for pair in read_pairs(path)] == [folder / "rgb_0.png", folder / "rgb_1.png"]


@pytest.mark.parametrize("row, words", [
    (("missing.png", "alpha_0.png"), ["line 3", "missing.png", "no such file"]),
    (("rgb_0.png", "half.png"), ["line 3", "half.png", "cannot be read"]),
    (("rgb_0.png", "wide.png"), ["line 3", "rgb_0.png is 32×32", "wide.png is 16×8"]),
    (("", "alpha_0.png"), ["line 3", "empty"]),
])
def test_a_bad_row_is_named(folder, row, words):
    (folder / "half.png").write_bytes((folder / "alpha_0.png").read_bytes()[:60])
    cv2.imwrite(str(folder / "wide.png"), np.zeros((8, 16), np.uint8))
    path = write_csv(folder / "p.csv", [("rgb_0.png", "alpha_0.png"), row])
    with pytest.raises(UserError) as error:
        read_pairs(path)
    assert all(word in str(error.value) for word in words), error.value


def test_skip_drops_bad_rows_and_says_so(folder, capsys):
    path = write_csv(folder / "p.csv", [("rgb_0.png", "alpha_0.png"), ("missing.png", "alpha_1.png")])
    assert len(read_pairs(path, on_error="skip")) == 1
    assert "left out 1 of 2 pairs" in capsys.readouterr().out
    all_bad = write_csv(folder / "q.csv", [("missing.png", "alpha_1.png")])
    with pytest.raises(UserError, match="no usable pair"):
        read_pairs(all_bad, on_error="skip")


@pytest.mark.parametrize("text, words", [
    ("", "no column image_path and alpha_path"),
    ("image_path,mask\na,b\n", "no column alpha_path"),
    ("image_path,alpha_path\n", "has no rows"),
    ("image_path,alpha_path\nonly_one\n", "line 2"),
])
def test_a_csv_of_the_wrong_form_is_refused(tmp_path, text, words):
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(UserError, match=words):
        read_pairs(tmp_path / "p.csv")
    with pytest.raises(UserError, match="make data"):
        read_pairs(tmp_path / "nowhere.csv")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(st.one_of(st.binary(max_size=200), st.text(max_size=100).map(
    lambda text: f"image_path,alpha_path\n{text}".encode("utf-8", "surrogatepass"))))
def test_any_bytes_as_csv_are_refused_in_one_line(tmp_path, data):
    (tmp_path / "p.csv").write_bytes(data)
    with pytest.raises(UserError) as error:
        read_pairs(tmp_path / "p.csv")
    assert "\n" not in str(error.value)


def test_worker_count_does_not_change_a_batch(pairs_csv, tmp_path):
    cfg = load_config(DEFAULTS, tiny(pairs_csv, tmp_path, "augment.background_p=0.5", f"data.root={tmp_path}"))
    train_set = TrainSet(read_pairs(pairs_csv), cfg)
    batches = epoch_batches(cfg, 3, len(train_set))
    alone, shared = ([*DataLoader(train_set, batch_sampler=batches, num_workers=n)] for n in (0, 2))
    for one, other in zip(alone, shared, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def samples(train_set):
    loader = DataLoader(train_set, batch_sampler=epoch_batches(train_set.cfg, 1, len(train_set)), num_workers=1)
    return [tensor for batch in loader for tensor in batch]


def stored(root):
    return {path.name: path for path in (root / "cache/decoded").glob("*.npy")}


@pytest.mark.parametrize("size", ["null", "40"])
def test_samples_are_the_same_bit_for_bit_from_decoded_files(tmp_path, size):
    pairs_csv = write_pairs(tmp_path / "pairs", 3, 64)
    options = tiny(pairs_csv, tmp_path, f"data.root={tmp_path}", f"data.size={size}")
    plain = samples(TrainSet(read_pairs(pairs_csv), load_config(DEFAULTS, options)))
    cached = TrainSet(read_pairs(pairs_csv), load_config(DEFAULTS, [*options, "data.cache_gb=1"]))
    for _ in range(2):  # made, then read
        assert all(torch.equal(a, b) for a, b in zip(plain, samples(cached), strict=True))
    entries = stored(tmp_path)
    assert len(entries) == 2  # a batch of two; the third image's came in no batch
    for path in entries.values():  # damaged, made anew
        path.write_bytes(path.read_bytes()[:300])
    assert all(torch.equal(a, b) for a, b in zip(plain, samples(cached), strict=True))
    write_pairs(tmp_path / "pairs", 3, 64, first_seed=7)  # other images under the same names
    assert not torch.equal(samples(cached)[0], plain[0])


def test_decoded_files_stay_below_their_bound_and_make_room_for_the_set_in_use(tmp_path):
    first, second = (write_pairs(tmp_path / name, 3, 64, seed) for seed, name in enumerate("ab"))
    limit = 2.5 * 64 * 64 * 7 / 1e9  # GB, two and a half pairs
    options = [f"data.root={tmp_path}", f"data.cache_gb={limit}", "train.batch_size=3"]
    for pairs_csv in (first, second):
        cfg = load_config(DEFAULTS, tiny(pairs_csv, tmp_path, *options))
        train_set = TrainSet(read_pairs(pairs_csv), cfg)
        before = stored(tmp_path).keys()
        for _ in range(2):
            samples(train_set)
        entries = stored(tmp_path)
        assert len(entries) == 2 and not entries.keys() & before
        assert sum(path.stat().st_size for path in entries.values()) <= limit * 1e9


def test_epochs_differ_and_repeat_themselves(pairs_csv, tmp_path):
    train_set = TrainSet(read_pairs(pairs_csv), load_config(DEFAULTS, tiny(pairs_csv, tmp_path)))
    assert torch.equal(train_set[0, 1][1], train_set[0, 1][1])
    assert not torch.equal(train_set[0, 1][1], train_set[1, 1][1])


def test_the_validation_target_is_always_the_same_dense_alpha(pairs_csv, tmp_path):
    val_set = ValidationSet(read_pairs(pairs_csv), load_config(DEFAULTS, tiny(pairs_csv, tmp_path)))
    (rgb, alpha, target), again = val_set[2], val_set[2]
    np.testing.assert_array_equal(target, again[2])
    assert rgb.shape == (64, 64, 3) and alpha.shape == target.shape == (64, 64)
    assert 0.05 < target[alpha == 0].mean() < 0.25 < target[alpha == 1].mean()


def test_a_moved_object_keeps_its_colour_and_loses_its_background(tmp_path):
    rgb, alpha = scene(64)
    write_pairs(tmp_path / "pairs", 1, 64)
    (tmp_path / "backgrounds").mkdir()
    cv2.imwrite(str(tmp_path / "backgrounds/black.png"), np.zeros((64, 64, 3), np.uint8))
    cfg = load_config(DEFAULTS, tiny(tmp_path / "pairs/pairs.csv", tmp_path, f"data.root={tmp_path}",
                                     f"data.backgrounds_dir={tmp_path}/backgrounds", "augment.background_p=1",
                                     "augment.scale=[1,1]", "augment.flip_p=0", "augment.rotate_p=0",
                                     "augment.color_p=0", "augment.xray_p=0"))
    moved, target, _ = TrainSet(read_pairs(cfg.data.train_csv), cfg)[0, 0]
    moved = moved.numpy().transpose(1, 2, 0).astype(int)
    np.testing.assert_allclose(target[0], alpha, atol=1 / 255)
    assert moved[alpha == 0].max() == 0
    assert np.abs(moved[alpha == 1] - rgb[alpha == 1]).max() <= 2
    soft = (alpha > 0.3) & (alpha < 0.9)
    # the old, bright background would show as a halo: darker than the soft share of the old picture proves it gone
    assert moved[soft].mean() < rgb[soft].mean() * 0.9
    assert len(list((tmp_path / "cache/foregrounds").iterdir())) == 1
