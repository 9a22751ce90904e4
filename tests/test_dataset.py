import json
from unicodedata import normalize

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from conftest import scene, tiny, write_csv, write_pairs
from core.config import DEFAULTS, load_config
from core.errors import OperationError, UserError
from dataset import TrainSet, ValidationSet
from imaging.pairs import RULES, read_pairs, shared
from training.batches import epoch_batches


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
    (("rgb_0.png", "ones.png"), ["line 3", "ones.png", "largest value is 1 of 255"]),
    (("alpha_1.png", "rgb_1.png"), ["line 3", "rgb_1.png: has colours", "are image and alpha swapped?"]),
    (("turned.jpg", "upright.png"), ["turned.jpg is 8×16, but", "upright.png is 16×8: turned.jpg is turned by its"]),
    (("linked.png", "alpha_0.png"), ["line 3", "linked.png: points to nowhere.png, which does not exist"]),
])
def test_a_bad_row_is_named(folder, row, words):
    (folder / "half.png").write_bytes((folder / "alpha_0.png").read_bytes()[:60])
    cv2.imwrite(str(folder / "wide.png"), np.zeros((8, 16), np.uint8))
    cv2.imwrite(str(folder / "upright.png"), np.zeros((8, 16), np.uint8))
    cv2.imwrite(str(folder / "ones.png"), np.eye(32, dtype=np.uint8))
    exif = Image.Exif()
    exif[0x112] = 6
    Image.new("RGB", (16, 8), (99, 50, 20)).save(folder / "turned.jpg", exif=exif)
    (folder / "linked.png").symlink_to("nowhere.png")
    path = write_csv(folder / "p.csv", [("rgb_0.png", "alpha_0.png"), row])
    with pytest.raises(UserError) as error:
        read_pairs(path)
    assert all(word in str(error.value) for word in words), error.value


def test_skip_drops_and_reports_bad_rows(folder, capsys):
    path = write_csv(folder / "p.csv", [("rgb_0.png", "alpha_0.png"), ("missing.png", "alpha_1.png")])
    assert len(read_pairs(path, on_error="skip")) == 1
    assert "skipped 1 of 2 pairs" in capsys.readouterr().out
    all_bad = write_csv(folder / "q.csv", [("missing.png", "alpha_1.png")])
    with pytest.raises(UserError, match="none of its 1 pairs is usable"):
        read_pairs(all_bad, on_error="skip")


@pytest.mark.parametrize("text, words", [
    ("", "no column image_path and alpha_path"),
    ("image_path,mask\na,b\n", "no column alpha_path"),
    ("image_path,alpha_path\n", "has no rows"),
    ("image_path,alpha_path\nonly_one\n", "line 2"),
])
def test_a_malformed_csv_is_refused(tmp_path, text, words):
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(UserError, match=words):
        read_pairs(tmp_path / "p.csv")
    with pytest.raises(UserError, match="make data"):
        read_pairs(tmp_path / "nowhere.csv")


NAMES = [("rgb_0.png", "alpha_0.png"), ("rgb_1.png", "alpha_1.png")]
PLAIN = "image_path,alpha_path\nrgb_0.png,alpha_0.png\nrgb_1.png,alpha_1.png\n"


@pytest.mark.parametrize("data", [
    PLAIN.replace(",", ";").encode(), PLAIN.replace(",", "\t").encode(), PLAIN.replace(",", "|").encode(),
    PLAIN.replace(",", ", ").encode(), f"sep=,\n{PLAIN}".encode(), f'"sep=;"\r\n{PLAIN.replace(",", ";")}'.encode(),
    PLAIN.replace("image_path,alpha_path", "Image_Path,ALPHA_PATH").encode(), PLAIN.encode("utf-16"),
    PLAIN.encode("utf-16-le"), PLAIN.encode("utf-16-be"), f"\ufeff{PLAIN}\n\n  \n,\n".encode(),
    PLAIN.replace("rgb_", "..\\set\\rgb_").encode(), PLAIN.replace("\n", "\r\n").encode(),
    b",image_path,alpha_path\n0,rgb_0.png,alpha_0.png\n1,rgb_1.png,alpha_1.png\n",
    b'image_path,alpha_path,\n"rgb_0.png ",alpha_0.png,\n rgb_1.png,alpha_1.png,\n',
])
def test_a_csv_is_read_as_people_save_it(tmp_path, data):
    write_pairs(tmp_path / "set", 2, 32)
    (tmp_path / "set/p.csv").write_bytes(data)
    pairs = read_pairs(tmp_path / "set/p.csv")
    assert [(pair.image_path.name, pair.alpha_path.name) for pair in pairs] == NAMES


def test_a_home_folder_and_either_form_of_accents_are_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_pairs(tmp_path, 2, 32)
    for form, number in (("NFC", 0), ("NFD", 1)):
        for kind in ("rgb", "alpha"):
            (tmp_path / f"{kind}_{number}.png").rename(tmp_path / f"{kind}{normalize(form, 'é')}{number}.png")
    for form in ("NFC", "NFD"):
        text = normalize(form, "image_path,alpha_path\n~/rgbé0.png,~/alphaé0.png\nrgbé1.png,alphaé1.png\n")
        (tmp_path / "p.csv").write_text(text, encoding="utf-8")
        assert len(read_pairs(tmp_path / "p.csv")) == 2


@pytest.mark.parametrize("data, words", [
    ("image_path,alpha_path\nM\u00fcller.png,a.png\n".encode("cp1252"), "line 2: cannot be read as UTF-8 text; save"),
    (b"image_path:alpha_path\na:b\n", "no column image_path and alpha_path; .*separated by commas, semicolons"),
    (b"image_path,alpha_path\na,b.png,alpha.png\n", "line 2: has 3 cells, the first line 2; quote values .* ','"),
    (b"image_path,alpha_path,Alpha_Path\na,b,c\n", "has 2 columns named alpha_path"),
    (b"rgb_0.png,alpha_0.png\n", "the first line must be image_path,alpha_path"),
])
def test_an_unclear_csv_is_refused_with_the_reason(tmp_path, data, words):
    (tmp_path / "p.csv").write_bytes(data)
    with pytest.raises(UserError, match=words):
        read_pairs(tmp_path / "p.csv")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(st.one_of(st.binary(max_size=200), st.text(max_size=100).map(
    lambda text: f"image_path,alpha_path\n{text}".encode("utf-8", "surrogatepass"))))
def test_any_bytes_as_csv_are_refused_in_one_line(tmp_path, data):
    (tmp_path / "p.csv").write_bytes(data)
    with pytest.raises(UserError) as error:
        read_pairs(tmp_path / "p.csv")
    assert "\n" not in str(error.value)


def doubtful(folder, alpha: np.ndarray, rgb: np.ndarray | None = None):
    """A CSV of two pairs, both with this alpha and, if given, this photograph."""
    for i in range(2):
        cv2.imwrite(str(folder / f"alpha_{i}.png"), alpha)
        if rgb is not None:
            cv2.imwrite(str(folder / f"rgb_{i}.png"), rgb)
    return write_csv(folder / "p.csv", NAMES)


DISC = np.rint(scene(32)[1] * 255).astype(np.uint8)


@pytest.mark.parametrize("alpha, rgb, words", [
    (np.minimum(DISC, 100), None, "no alpha exceeds 0.392 (0 to 1; 100 of 255); if that means opaque, multiply"),
    (255 - DISC, None, "in 2 of 2 pairs the alpha is opaque along the border and not within; is it inverted?"),
    (np.full((32, 32), 255, np.uint8), None, "in 2 of 2 pairs the alpha is the same everywhere"),
    (DISC, np.dstack([DISC] * 3), "in 2 of 2 pairs the alpha shows the same as the photograph"),
    (DISC, (DISC * 4).astype(np.uint16), "in 2 of 2 pairs the photograph has no level above 16 of 255"),
])
def test_a_set_that_is_probably_wrong_is_reported(folder, capsys, alpha, rgb, words):
    assert len(read_pairs(doubtful(folder, alpha, rgb))) == 2
    said = capsys.readouterr().out
    assert said.startswith(f"note    {folder}/p.csv: {words}") and said.count("note") == 1


def test_a_good_set_with_an_empty_alpha_is_not_doubted(folder, capsys):
    cv2.imwrite(str(folder / "alpha_0.png"), np.zeros((32, 32), np.uint8))
    assert len(read_pairs(folder / "pairs.csv")) == 3
    assert capsys.readouterr().out == ""


def test_shared_files_and_repeated_rows_are_reported(folder, capsys):
    (folder / "again.png").symlink_to("rgb_1.png")
    train = read_pairs(write_csv(folder / "train.csv", [NAMES[0], NAMES[1], NAMES[0], NAMES[0]]))
    assert "train.csv: lists 1 photographs more than once, rgb_0.png 3 times" in capsys.readouterr().out
    val = read_pairs(write_csv(folder / "val.csv", [("again.png", "alpha_2.png"), ("rgb_2.png", "alpha_2.png")]))
    line = shared(train, val)[0]
    assert line.startswith("1 of 2 validation pairs share a file with the training pairs, such as again.png")
    assert not shared(train, val[1:])


def test_checked_pairs_are_remembered_until_they_change(folder, capsys):
    memory = folder / "cache/checked.json"

    def said() -> str:
        assert len(read_pairs(folder / "pairs.csv", memory=memory)) == 3
        return capsys.readouterr().out

    assert said() == f"data    {folder}/pairs.csv: 3 pairs checked (0 remembered from {memory})\n"
    assert "3 pairs checked (3 remembered" in said()
    cv2.imwrite(str(folder / "alpha_1.png"), 255 - np.eye(32, dtype=np.uint8))
    assert "3 pairs checked (2 remembered" in said()
    memory.write_text(memory.read_text().replace(RULES, "other rules"))
    assert "(0 remembered" in said()
    wrong = json.dumps({"rules": RULES, "findings": 3}).encode()
    keys = json.loads(memory.read_text())["findings"]
    empty = json.dumps({"rules": RULES, "findings": {key: [] for key in keys}}).encode()
    for damaged in (b"", b"[]", b"{", b"\xff", memory.read_bytes()[:90], wrong, empty):
        memory.write_bytes(damaged)
        assert "(0 remembered" in said() and "(3 remembered" in said()


def test_a_bad_pair_is_decoded_again_and_good_ones_are_not(folder, capsys):
    memory = folder / "checked.json"
    (folder / "rgb_1.png").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"rgb_1\.png"):
        read_pairs(folder / "pairs.csv", memory=memory)
    assert len(read_pairs(folder / "pairs.csv", on_error="skip", memory=memory)) == 2
    assert "3 pairs checked (2 remembered" in capsys.readouterr().out


def test_if_findings_cannot_be_saved_there_is_only_a_note(folder, capsys):
    (folder / "cache").write_bytes(b"a file in the folder's place")
    assert len(read_pairs(folder / "pairs.csv", memory=folder / "cache/checked.json")) == 3
    assert "checked.json: cannot be written" in capsys.readouterr().out


def background_set(tmp_path, *more: str):
    """A function that makes a TrainSet whose backgrounds are always replaced by one of three pictures."""
    (tmp_path / "backgrounds").mkdir(exist_ok=True)
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"backgrounds/{i}.png"), np.full((64, 64, 3), 80 * i, np.uint8))
    pairs_csv = write_pairs(tmp_path / "pairs", 3, 64)
    cfg = load_config(DEFAULTS, tiny(pairs_csv, tmp_path, f"data.root={tmp_path}", "augment.background_p=1",
                                     f"data.backgrounds_dir={tmp_path}/backgrounds", *more))
    return lambda: TrainSet(read_pairs(pairs_csv), cfg)


def test_a_broken_background_is_refused_at_the_start_or_skipped(tmp_path, capsys):
    for skip in ("data.on_error=fail", "data.on_error=skip"):
        make = background_set(tmp_path, skip)
        (tmp_path / "backgrounds/1.png").write_bytes(b"broken")
        if skip.endswith("fail"):
            with pytest.raises(UserError, match=r"1.png: cannot be read .*\(1 of 3 pictures in .*on_error=skip"):
                make()
        else:
            assert [path.name for path in make().backgrounds] == ["0.png", "2.png"]
    assert "skipped 1 of 3 pictures" in capsys.readouterr().out


def test_a_background_that_breaks_later_is_replaced_by_the_next_one(tmp_path, capsys):
    train_set = background_set(tmp_path)()
    (tmp_path / "backgrounds/1.png").unlink()
    (tmp_path / "backgrounds/2.png").write_bytes((tmp_path / "backgrounds/2.png").read_bytes()[:60])
    first, again = ([train_set[0, i][0] for i in range(3)] for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert train_set._background(1).max() == 0
    assert capsys.readouterr().out.count("1.png: no such file or directory; using another background") == 1
    (tmp_path / "backgrounds/0.png").unlink()
    with pytest.raises(OperationError, match="none of the backgrounds can be read any more"):
        train_set[0, 0]


def test_a_pair_that_breaks_later_is_named_in_one_line(tmp_path):
    train_set = background_set(tmp_path, "data.cache_gb=1")()
    (tmp_path / "pairs/rgb_1.png").unlink()
    with pytest.raises(OperationError, match=r"pairs.csv line 3: .*rgb_1.png.* put it back, then run the same command"):
        train_set[0, 1]


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
def test_samples_from_the_cache_are_identical(tmp_path, size):
    pairs_csv = write_pairs(tmp_path / "pairs", 3, 64)
    options = tiny(pairs_csv, tmp_path, f"data.root={tmp_path}", f"data.size={size}")
    plain = samples(TrainSet(read_pairs(pairs_csv), load_config(DEFAULTS, options)))
    cached = TrainSet(read_pairs(pairs_csv), load_config(DEFAULTS, [*options, "data.cache_gb=1"]))
    for _ in range(2):  # written, then read
        assert all(torch.equal(a, b) for a, b in zip(plain, samples(cached), strict=True))
    entries = stored(tmp_path)
    assert len(entries) == 2  # one batch of two; the third image is in no batch
    for path in entries.values():  # damaged ones are replaced
        path.write_bytes(path.read_bytes()[:300])
    assert all(torch.equal(a, b) for a, b in zip(plain, samples(cached), strict=True))
    write_pairs(tmp_path / "pairs", 3, 64, first_seed=7)  # other images under the same names
    assert not torch.equal(samples(cached)[0], plain[0])


def test_the_cache_stays_below_its_limit_and_evicts_other_sets(tmp_path):
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


def test_epochs_differ_and_are_reproducible(pairs_csv, tmp_path):
    train_set = TrainSet(read_pairs(pairs_csv), load_config(DEFAULTS, tiny(pairs_csv, tmp_path, "augment.scale=[1,2]")))
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
    # the old, bright background would leave a bright halo
    assert moved[soft].mean() < rgb[soft].mean() * 0.9
    assert len(list((tmp_path / "cache/foregrounds").iterdir())) == 1
