import shutil
import threading
import time

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import kernel
import report
import submit
from conftest import call, files_of_at_most, one_error_line, scene
from core import checkpoint
from core.config import DEFAULTS, EMBEDDED, dump_config, load_config
from core.errors import UserError
from imaging.images import read_rgb
from infer import in_order
from infer import main as infer_main
from inference.predictor import Predictor
from inference.squares import from_square, to_square
from inference.torch_backend import live_network
from inference.weights import run_with_weights, with_weights
from submission.submission_csv import decode_alpha, read_rows
from u2net import U2Net


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for name, (height, width) in {"10": (64, 64), "9": (50, 90), "007": (120, 40)}.items():
        cv2.imwrite(str(folder / f"{name}.png"), cv2.resize(scene(128)[0], (width, height)))
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return U2Net().eval()


def predictor(model, tta="none", size=64, precision="fp32"):
    return Predictor(live_network(model, tta, torch.device("cpu"), precision), size)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(32, 128))
def test_a_ramp_survives_the_way_to_the_networks_square_and_back(height, width, size):
    ramp = np.tile(np.linspace(0, 255, width, dtype=np.float32), (height, 1))
    square = to_square(np.repeat(ramp[..., None], 3, axis=2).astype(np.uint8), size)
    assert square.shape == (size, size, 3)
    back = from_square(square[..., 0].astype(np.float32), (height, width))
    assert back.shape == (height, width)
    # One pixel of the smaller of the two images, plus the rounding to whole levels.
    assert np.abs(back - ramp).max() <= 255 / min(width, max(1, round(width * size / max(height, width)))) + 1


def test_predictions_are_alphas_of_the_images_own_sizes(model):
    shapes = [(64, 64), (30, 90), (200, 100)]
    alphas = predictor(model)([np.zeros((*shape, 3), np.uint8) for shape in shapes])
    assert [alpha.shape for alpha in alphas] == shapes
    assert all(alpha.dtype == np.float32 and 0 <= alpha.min() <= alpha.max() <= 1 for alpha in alphas)


def test_flip_tta_is_the_mean_of_both_sides_and_so_symmetric(model):
    rgb = scene(64)[0]
    mirrored = np.ascontiguousarray(rgb[:, ::-1])
    (alpha,), (other,) = predictor(model)([rgb]), predictor(model)([mirrored])
    (tta,), (tta_other,) = predictor(model, "flip")([rgb]), predictor(model, "flip")([mirrored])
    np.testing.assert_allclose(tta, (alpha + other[:, ::-1]) / 2, atol=1e-6)
    np.testing.assert_allclose(tta, tta_other[:, ::-1], atol=1e-6)


def test_a_batch_equals_its_images_alone(model):
    rgbs = [scene(64, seed)[0] for seed in range(3)]
    for together, rgb in zip(predictor(model)(rgbs), rgbs, strict=True):
        np.testing.assert_allclose(together, predictor(model)([rgb])[0], atol=1e-5)


def test_bf16_agrees_with_fp32(model):
    rgb = scene(64)[0]
    (exact,), (fast,) = predictor(model)([rgb]), predictor(model, precision="bf16")([rgb])
    assert np.abs(exact - fast).mean() < 4e-3


def read_levels(path):
    return np.asarray(Image.open(path))


def test_a_folder_becomes_a_valid_submission_with_mattes_and_cutouts(run_dir, images, tmp_path):
    options = [f"infer.images={images}", f"train.out_dir={run_dir}", f"infer.submission={tmp_path}/s.csv"]
    result = call(infer_main, *options, f"infer.png_dir={tmp_path}/png", f"infer.cutout_dir={tmp_path}/cut")
    assert result.returncode == 0, result.stderr
    assert call(infer_main, *options, "infer.png=alpha", f"infer.png_dir={tmp_path}/alpha").returncode == 0
    assert "ignoring 1 files that are not images" in result.stdout and "64 px, tta flip" in result.stdout
    rows = {name: decode_alpha(text) for _, name, text in read_rows(tmp_path / "s.csv")}
    assert list(rows) == ["007", "9", "10"]
    for name, alpha in rows.items():
        assert alpha.shape == read_rgb(images / f"{name}.png").shape[:2]
        np.testing.assert_array_equal(read_levels(tmp_path / f"png/{name}.png"), alpha)
        cutout = Image.open(tmp_path / f"cut/{name}.png")
        assert cutout.mode == "RGBA"
        np.testing.assert_array_equal(np.asarray(cutout)[..., 3], read_levels(tmp_path / f"alpha/{name}.png"))
    result = call(submit.main, "validate", *options)
    assert result.returncode == 0 and "valid, 3 rows" in result.stdout, result.stderr


def test_the_sample_submission_sets_the_order(run_dir, images, tmp_path):
    (tmp_path / "sample.csv").write_text("filename,image_utf\n10,\n007,\n9,\n")
    options = [f"infer.images={images}", f"train.out_dir={run_dir}", f"infer.submission={tmp_path}/s.csv"]
    result = call(infer_main, *options, f"data.sample_submission={tmp_path}/sample.csv")
    assert result.returncode == 0, result.stderr
    assert [name for _, name, _ in read_rows(tmp_path / "s.csv")] == ["10", "007", "9"]
    (tmp_path / "sample.csv").write_text("filename,image_utf\n10,\n8,\n")
    line = one_error_line(call(infer_main, *options, f"data.sample_submission={tmp_path}/sample.csv"), 2)
    assert "names differ from those in" in line


def test_bad_folders_and_files_leave_nothing_behind(run_dir, images, tmp_path):
    def refusal(folder):
        code, _, err = call(infer_main, f"infer.images={tmp_path}/{folder}", f"train.out_dir={run_dir}",
                            f"infer.submission={tmp_path}/out/s.csv")
        assert code == 2 and err.count("\n") == 1
        return err

    assert "no such folder" in refusal("no")
    (tmp_path / "images").mkdir()
    assert "has no images" in refusal("images")
    whole = (images / "10.png").read_bytes()
    (tmp_path / "images/a.png").write_bytes(whole)
    (tmp_path / "images/b.png").write_bytes(whole[:len(whole) // 2])
    assert "b.png" in refusal("images")
    assert not (tmp_path / "out").exists()
    (tmp_path / "images/b.png").rename(tmp_path / "images/a.jpg")
    assert "another image is also named a" in refusal("images")


@pytest.fixture
def partly_bad(images, tmp_path):
    """Three good images; one file that is not an image; one with a good header and a truncated body."""
    folder = tmp_path / "partly"
    shutil.copytree(images, folder)
    (folder / "a.png").write_text("no image")
    whole = cv2.imencode(".jpg", scene(128)[0])[1].tobytes()
    (folder / "b.jpg").write_bytes(whole[:len(whole) * 2 // 3])
    return folder


def test_bad_headers_are_all_told_before_the_weights_are_read(partly_bad, tmp_path):
    for name in "cde":
        (partly_bad / f"{name}.png").write_bytes(b"")
    code, _, err = call(infer_main, f"infer.images={partly_bad}", "infer.weights=no.pth", "data.on_error=skip",
                        f"infer.submission={tmp_path}/s.csv")
    assert code == 2 and err.count("\n") == 1 and "4 of 8 images cannot be read" in err
    assert all(f"{name}.png: " in err for name in "acd") and "e.png" not in err and "; …" in err


def test_skip_leaves_bad_images_out_of_mattes_and_cutouts_and_writes_no_submission(
        run_dir, partly_bad, tmp_path):
    options = [f"infer.images={partly_bad}", f"train.out_dir={run_dir}", f"infer.submission={tmp_path}/s.csv"]
    mattes = [f"infer.png_dir={tmp_path}/png", f"infer.cutout_dir={tmp_path}/cut"]
    for own in ([*mattes], ["data.on_error=skip"]):  # a submission is wanted, so none may be missing
        code, _, err = call(infer_main, *options, *own)
        assert code == 2 and "1 of 5 images cannot be read" in err and "data.on_error=skip" in err
        assert not (tmp_path / "png").exists() and not (tmp_path / "s.csv").exists()
    (tmp_path / "s.csv").write_text("filename,image_utf\n")
    code, out, err = call(infer_main, *options, *mattes, "data.on_error=skip")
    assert code == 0, err
    assert "2 of 5 images cannot be read" in out and "a.png" in out and "b.jpg" in out
    assert "s.csv: not written, because 2 images are missing; the existing file is from an earlier run" in out
    assert (tmp_path / "s.csv").read_text() == "filename,image_utf\n"
    for folder in ("png", "cut"):
        assert sorted(path.name for path in (tmp_path / folder).iterdir()) == ["007.png", "10.png", "9.png"]


def test_a_body_that_is_cut_ends_inference_without_a_submission(run_dir, partly_bad, tmp_path):
    (partly_bad / "a.png").unlink()
    code, _, err = call(infer_main, f"infer.images={partly_bad}", f"train.out_dir={run_dir}",
                        f"infer.submission={tmp_path}/s.csv")
    assert code == 2 and err.count("\n") == 1 and "b.jpg" in err
    assert [path.name for path in tmp_path.iterdir()] == ["partly"]


@pytest.mark.parametrize("width, height", [(1, 1), (1, 50), (50, 1), (2, 2), (3, 5)])
def test_the_smallest_images_have_cutouts_too(run_dir, tmp_path, width, height):
    (tmp_path / "tiny").mkdir()
    rgb = np.random.default_rng(0).integers(0, 255, (height, width, 3)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "tiny/a.png"), rgb)
    code, _, err = call(infer_main, f"infer.images={tmp_path}/tiny", f"train.out_dir={run_dir}", "infer.tile_over=32",
                        "infer.size=32", "infer.backend=torch", f"infer.submission={tmp_path}/s.csv",
                        f"infer.cutout_dir={tmp_path}")
    assert code == 0, err
    cutout = np.asarray(Image.open(tmp_path / "a.png"))
    assert cutout.shape == (height, width, 4)
    if width == height == 1:
        np.testing.assert_array_equal(cutout[0, 0, :3], rgb[0, 0, ::-1])


def test_score_and_picture_of_a_test_set_with_solution(run_dir, images, tmp_path):
    options = [f"infer.images={images}", f"train.out_dir={run_dir}", f"infer.submission={run_dir}/submission.csv"]
    assert call(infer_main, *options).returncode == 0
    options.append(f"data.solution_csv={run_dir}/submission.csv")
    result = call(submit.main, "score", *options)
    assert result.returncode == 0 and "0.000000      0.00" in result.stdout, result.stderr
    assert "all zero" in result.stdout and "best constant" in result.stdout
    assert call(report.main, *options).returncode == 0
    assert read_rgb(run_dir / "report.png").shape[1] > 1000


def test_items_come_in_order_and_few_exist_at_a_time():
    alive, most = set(), []
    gate = threading.Lock()

    def make(i):
        with gate:
            alive.add(i)
            most.append(len(alive))
        time.sleep(0.002 * (i % 3))
        return i

    for expected, i in enumerate(in_order(make, range(60), threads=3, ahead=2)):
        assert i == expected
        alive.discard(i)
    assert expected == 59 and max(most) <= 3 + 2 + 1


def test_a_failure_in_any_item_ends_the_others():
    done = []

    def make(i):
        done.append(i)
        if i == 5:
            raise OSError("broken")
        return i

    with pytest.raises(OSError, match="broken"):
        list(in_order(make, range(1000), threads=2, ahead=2))
    assert max(done) < 12
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPoolExecutor")]


def test_a_full_disk_ends_with_1_and_one_line_and_leaves_nothing(run_dir, tmp_path):
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images/a.png"), scene(512)[0])
    with files_of_at_most(5000):
        result = call(infer_main, f"infer.images={tmp_path}/images", f"train.out_dir={run_dir}", "infer.backend=torch",
                      f"infer.submission={tmp_path}/s.csv")
    assert "s.csv: cannot be written" in one_error_line(result, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_bundled_weights_stand_in_as_long_as_nothing_was_trained(tmp_path, capsys):
    run = tmp_path / "run"
    options = [f"train.out_dir={run}"]
    assert with_weights(load_config(DEFAULTS, options)).infer.weights == EMBEDDED
    assert f"{run}: no trained model there yet; using the bundled weights" in capsys.readouterr().out
    run.mkdir()
    (run / "submission.csv").touch()  # as after a first `make infer`
    assert run_with_weights(DEFAULTS, options).infer.weights == EMBEDDED
    other = load_config(DEFAULTS, [*options, f"infer.weights={tmp_path}/other.pth"])
    assert with_weights(other) is other
    (tmp_path / "folds/fold_0").mkdir(parents=True)
    with pytest.raises(UserError, match=r"holds a cross-validation; use its mean with infer\.weights=.*folds$"):
        with_weights(load_config(DEFAULTS, [f"train.out_dir={tmp_path}/folds"]))

    (run / "config.yaml").write_text(dump_config(load_config(DEFAULTS, options)))  # a training has begun
    for load in (lambda: with_weights(load_config(DEFAULTS, options)), lambda: run_with_weights(DEFAULTS, options)):
        with pytest.raises(UserError, match=r"best\.pth: does not exist yet, .* its first epoch; wait for it"):
            load()
    (run / "best.pth").touch()
    assert run_with_weights(DEFAULTS, options).infer.weights == run / "best.pth"


def test_a_kernel_of_a_fresh_clone_has_the_bundled_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = [f"--config={DEFAULTS}", "kaggle.competition=matting"]
    code, out, err = call(kernel.main, "build", *options)
    assert code == 0 and "using the bundled weights" in out, err
    kept = checkpoint.load(tmp_path / "build/dataset/weights.pth")["model_state"]
    bundled = checkpoint.load(EMBEDDED)["model_state"]
    assert all(torch.equal(kept[name].float(), bundled[name].float()) for name in bundled)
    assert submit.run_numbers((EMBEDDED,))["run"] == "embedded"
