"""`kernel.py build` and `test` as a user runs them, in both modes, and the walls around the kernel."""
import sys

import pytest

import kernel_offline
from cli import OperationError
from conftest import ROOT, one_error_line, script


@pytest.mark.parametrize("mode", ["infer", "train"])
def test_the_built_kernel_runs_offline_and_leaves_a_valid_submission(tmp_path, run_dir, mode):
    settings = [f"--config={ROOT / 'config.yaml'}", f"kernel.mode={mode}", f"train.out_dir={run_dir}",
                f"model.weights={run_dir}/best.pth", "kaggle.competition=matting", f"data.root={tmp_path}/data",
                "augment.crop=64", "infer.size=64", "train.epochs=1", "train.workers=1", "train.samples=1"]
    built = script("scripts/kernel.py", "build", *settings, cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    result = script("scripts/kernel.py", "test", "--images", "2", *settings, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "2 test images" in result.stdout and "kernel-test: 2 rows, valid" in result.stdout
    assert ("epoch 1/1" in result.stdout) == (mode == "train")


def test_a_test_before_a_build_says_what_to_do(tmp_path):
    result = script("scripts/kernel.py", "test", f"--config={ROOT / 'config.yaml'}", cwd=tmp_path)
    assert "make kernel-build" in one_error_line(result, 2)


@pytest.fixture
def inside(tmp_path, capfd):
    """inside(code) runs it where a kernel runs -> what it printed."""
    root = tmp_path / "kaggle"
    for name in ("input", "working", "src"):
        (root / name).mkdir(parents=True)
    (root / "input/given.txt").write_text("given")

    def inside(code: str, wall: int | None = None) -> str:
        script_py = root / "src/script.py"
        script_py.write_text(code)
        prefix = (kernel_offline.best_wall(root / "input")[1] if wall is None
                  else [*kernel_offline.WALLS[wall][1], str(root / "input")])
        guard = ROOT / "scripts/kernel_guard.py"
        kernel_offline.run([*prefix, sys.executable, "-I", "-c", kernel_offline.LAUNCH, guard, script_py, ROOT], root)
        return capfd.readouterr().out
    return inside


ATTEMPTS = """
import importlib.util, os, socket, sys
from pathlib import Path
def attempt(name, call):
    try:
        call()
        print(name, "works")
    except Exception as error:
        print(name, "fails:", type(error).__name__, error)
attempt("read", lambda: Path(os.environ["KERNEL_ROOT"], "input/given.txt").read_text())
attempt("pymatting", lambda: __import__("pymatting"))
attempt("openvino", lambda: __import__("openvino"))
attempt("network", lambda: socket.create_connection(("127.0.0.1", 9)))
attempt("name", lambda: socket.getaddrinfo("www.kaggle.com", 443))
attempt("repository", lambda: open(%r).read())
attempt("sibling", lambda: __import__("cli"))
print("specs", importlib.util.find_spec("pymatting"), __name__, Path.cwd().name, "KAGGLE_KEY" in os.environ)
"""


@pytest.mark.parametrize("wall", [None, -1], ids=["best wall", "Python's own"])
def test_a_kernel_has_no_network_no_repository_and_none_of_the_hidden_packages(inside, monkeypatch, wall):
    monkeypatch.setenv("KAGGLE_KEY", "secret")
    lines = inside(ATTEMPTS % str(ROOT / "config.yaml"), wall).splitlines()
    outcome = {line.split()[0]: line.split()[1] for line in lines}
    assert outcome.pop("read") == "works" and outcome.pop("specs") == "None"
    assert set(outcome.values()) == {"fails:"}, lines
    assert lines[-1] == "specs None __main__ working False"


def test_a_kernel_cannot_write_to_its_input_where_mounts_are_permitted(inside, tmp_path):
    if "mounted" not in kernel_offline.best_wall(tmp_path)[0]:
        pytest.skip("user and mount namespaces are not permitted here")
    with pytest.raises(OperationError, match="exit code 1"):
        inside("import os; open(os.environ['KERNEL_ROOT'] + '/input/new.txt', 'w')")


def test_a_kernel_that_fails_is_told(inside):
    with pytest.raises(OperationError, match="exit code 3"):
        inside("raise SystemExit(3)")
