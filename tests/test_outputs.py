"""Commands check their outputs before they compute anything; a closed stdout causes no traceback."""
import os
import subprocess
import sys

import pytest

import get_data
import kernel
import report
import tune
from conftest import ROOT, call, tiny
from core import outputs
from core.config import DEFAULTS, load_config
from core.errors import UserError
from infer import main as infer_main
from submit import main as submit_main
from train import main as train_main

CLOSING = "import os, sys; os.close({number}); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"


@pytest.fixture
def places(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("nowhere")
    return tmp_path


@pytest.mark.parametrize("key, place, words", [
    ("submission", "folder", "is a folder; add the file's name, for example {}/folder/submission.csv"),
    ("submission", "file/s.csv", "file: is not a folder; choose another infer.submission"),
    ("png_dir", "file", "file: is not a folder; choose another infer.png_dir"),
    ("cutout_dir", "file/a/b", "file/a/b: {}/file is not a folder; choose another infer.cutout_dir"),
    ("png_dir", "link", "link: is a link to nowhere, which does not exist; choose another infer.png_dir"),
    ("png_dir", "n" * 300, "cannot be written to (File name too long); choose another infer.png_dir")])
def test_inference_checks_first_that_it_can_write(places, key, place, words):
    code, out, err = call(infer_main, "infer.weights=no.pth", f"infer.submission={places}/s.csv",
                          f"infer.{key}={places}/{place}")
    assert code == 2 and not out and words.format(places) in err and err.count("\n") == 1
    assert sorted(path.name for path in places.iterdir()) == ["file", "folder", "link"]


@pytest.mark.parametrize("main, arguments, words", [
    (train_main, ["train.out_dir={}/file"], "file: is not a folder; choose another train.out_dir"),
    (train_main, ["train.out_dir={}/link"], "which does not exist; choose another train.out_dir"),
    (train_main, ["train.out_dir={}/run", "data.root={}/file"], "file: is a file, not a folder"),
    (get_data.main, ["data.source=synthetic", "data.root={}/file"], "file: is not a folder; choose another data.root"),
    (get_data.main, ["data.source=synthetic", "data.root={}/data", "data.test_dir={}/file"], "another data.test_dir"),
    (get_data.main, ["data.source=synthetic", "data.root={}/data", "data.solution_csv={}/folder"], "is a folder; add"),
    (submit_main, ["validate", "infer.images={}/none", "infer.submission={}/folder",
                   "data.sample_submission={}/folder"], "folder: is a folder, not a CSV")])
def test_other_commands_check_it_too(places, main, arguments, words):
    code, out, err = call(main, *(word.format(places) for word in arguments))
    assert code == 2 and not out and words in err and err.count("\n") == 1
    assert (places / "file").read_text() == "mine" and not (places / "data").exists()


def test_the_kernel_build_checks_it_too(places, monkeypatch):
    monkeypatch.chdir(places)
    (places / "build").write_text("a file")
    with pytest.raises(UserError, match="build: is not a folder; run the command in a folder that you can write to"):
        kernel.build(load_config(DEFAULTS))


def test_a_read_only_folder_is_refused(tmp_path):
    tmp_path.chmod(0o555)
    child = os.fork()
    if not child:  # root may write everywhere, so a process without its rights tries
        code = 1
        try:
            os.chdir(tmp_path)
            if not os.getuid():
                os.setgid(65534)
                os.setuid(65534)
            outputs.check_folder(outputs.Path("run"), "choose another")
        except UserError as error:
            code = 0 if "run: cannot be written to (Permission denied); choose another" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    tmp_path.chmod(0o755)


def test_a_run_folder_with_an_emoji_is_read_again(pairs_csv, tmp_path):
    run = f"train.out_dir={tmp_path}/😀 #2"
    trained = call(train_main, *tiny(pairs_csv, tmp_path / "😀 #2", "train.epochs=1", "train.samples=0"))
    for result in (trained, call(report.main, run), call(tune.main, run)):
        assert result.returncode == 0, result.stderr
    assert "😀 #2" in (tmp_path / "😀 #2/report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("number, arguments, code", [
    (1, ["history"], 0), (0, ["history"], 0), (1, ["no-such"], 2), (2, ["no-such"], 2)])
def test_a_closed_stream_is_no_error(tmp_path, number, arguments, code):
    command = [sys.executable, "-c", CLOSING.format(number=number), str(ROOT / "src/submit.py"), *arguments]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == code and "Traceback" not in result.stderr
    assert (result.stderr.count("error:") == 1) == (code == 2 and number != 2)


@pytest.mark.parametrize("unbuffered, arguments, codes", [
    ("1", ["history"], {141}), ("", ["history"], {0}), ("", ["--help"], {0}), ("1", ["no-such"], {2})])
def test_a_closed_pipe_ends_a_command_quietly(tmp_path, unbuffered, arguments, codes):
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run([sys.executable, ROOT / "src/submit.py", "--config", DEFAULTS, *arguments], cwd=tmp_path,
                            stdout=writer, stderr=subprocess.PIPE, text=True,
                            env={**os.environ, "PYTHONUNBUFFERED": unbuffered})
    os.close(writer)
    assert result.returncode in codes and result.stderr.count("\n") == ("no-such" in arguments)


def test_numba_gets_a_cache_if_neither_its_own_folder_nor_home_is_writable(tmp_path):
    """With a small package named pymatting, as compiling the real one takes long; numba refuses it without a cache."""
    package = tmp_path / "site/pymatting"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("from .code import estimate_foreground_ml\n")
    (package / "code.py").write_text("import numba\n\n@numba.njit(cache=True)\ndef double(x):\n    return 2 * x\n\n"
                                     "def estimate_foreground_ml(image, alpha):\n    return image * double(1) / 2\n")
    for name in ("util", "__pycache__"):
        (package / name).write_text("a file")
    (tmp_path / "home").write_text("a file")
    (tmp_path / "tmp").mkdir()
    code = ("import numpy as np\nfrom imaging import foreground\n"
            "rgb = np.full((2, 2, 3), 90, np.uint8)\n"
            "assert (foreground.estimate_foreground(rgb, np.full((2, 2), .5)) == rgb).all()")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}/site:{ROOT}/src", "HOME": f"{tmp_path}/home",
                   "TMPDIR": f"{tmp_path}/tmp", "PYTHONDONTWRITEBYTECODE": "1"}
    for name in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME"):
        environment.pop(name, None)
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    (folder,) = (tmp_path / "tmp").iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700 and list(folder.rglob("*.nbi"))
