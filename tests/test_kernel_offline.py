"""`kernel.py build` and `test` as a user runs them, in both modes, and the walls around the kernel."""
import sys

import nbformat
import pytest

import kernel
from conftest import ROOT, call, one_error_line
from core.errors import OperationError
from kaggle_kernel import offline as kernel_offline
from kaggle_kernel import run_notebook as kernel_cells_run
from kaggle_kernel import versions as kernel_versions


@pytest.mark.parametrize("mode, kind", [("infer", "script"), ("infer", "notebook"), ("train", "notebook")])
def test_the_built_kernel_runs_offline_and_leaves_a_valid_submission(tmp_path, run_dir, pairs_csv, mode, kind):
    settings = [f"--config={ROOT / 'config.yaml'}", f"kernel.mode={mode}", f"kernel.format={kind}",
                f"train.out_dir={run_dir}", f"data.test_dir={pairs_csv.parent}",
                f"model.weights={run_dir}/best.pth", "kaggle.competition=matting", f"data.root={tmp_path}/data",
                "augment.crop=64", "infer.size=64", "train.epochs=1", "train.workers=1", "train.samples=1"]
    built = call(kernel.main, "build", *settings, cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    result = call(kernel.main, "test", "--images", "2", *settings, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "2 test images" in result.stdout and "kernel-test: 2 rows, valid" in result.stdout
    assert ("epoch 1/1" in result.stdout) == (mode == "train")
    if kind == "notebook":
        executed = nbformat.read(tmp_path / "build/executed.ipynb", as_version=4)
        pictures = [cell.source for cell in executed.cells for output in cell.get("outputs", ())
                    if "image/png" in output.get("data", {})]
        assert pictures == ["show.test_images(job)", "show.pairs(job)", "show.curves(job)",
                            *(["show.validation(job)"] if mode == "train" else []), "show.predictions(job)"]


def test_a_test_before_a_build_says_what_to_do(tmp_path):
    result = call(kernel.main, "test", f"--config={ROOT / 'config.yaml'}", cwd=tmp_path)
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
        kernel_offline.run([*prefix, sys.executable, script_py], root)
        return capfd.readouterr().out
    return inside


ATTEMPTS = """
import importlib.util, os, socket, subprocess, sys
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
attempt("network", lambda: socket.create_connection(("192.0.2.1", 9), timeout=1))
attempt("name", lambda: socket.getaddrinfo("www.kaggle.com", 443))
attempt("repository", lambda: open(%r).read())
attempt("sibling", lambda: __import__("cli"))
attempt("child", lambda: subprocess.run([sys.executable, "-c", "import pymatting"], check=True, capture_output=True))
with socket.create_server(("127.0.0.1", 0)) as server:
    attempt("itself", lambda: socket.create_connection(server.getsockname(), timeout=5))
print("specs", importlib.util.find_spec("pymatting"), __name__, Path.cwd().name, "KAGGLE_KEY" in os.environ)
"""


@pytest.mark.parametrize("wall", [None, -1], ids=["best wall", "Python's own"])
def test_a_kernel_has_no_network_no_repository_and_none_of_the_hidden_packages(inside, monkeypatch, wall):
    monkeypatch.setenv("KAGGLE_KEY", "secret")
    lines = inside(ATTEMPTS % str(ROOT / "config.yaml"), wall).splitlines()
    outcome = {line.split()[0]: line.split()[1] for line in lines}
    assert outcome.pop("read") == outcome.pop("itself") == "works" and outcome.pop("specs") == "None"
    assert set(outcome.values()) == {"fails:"}, lines
    assert lines[-1] == "specs None __main__ working False"


def test_a_kernel_cannot_write_to_its_input_where_mounts_are_permitted(inside, tmp_path):
    if "mounted" not in kernel_offline.best_wall(tmp_path)[0]:
        pytest.skip("user and mount namespaces are not permitted here")
    with pytest.raises(OperationError, match="exit code 1"):
        inside("import os; open(os.environ['KERNEL_ROOT'] + '/input/new.txt', 'w')")


def test_a_notebook_whose_cell_fails_shows_it_and_is_kept(tmp_path, capfd):
    texts = "print('first')", "raise ValueError('odd')", "print('third')"
    cells = [nbformat.v4.new_code_cell(text) for text in texts]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "notebook.ipynb")
    assert kernel_cells_run.execute(str(tmp_path / "notebook.ipynb"), str(tmp_path / "executed.ipynb")) == 1
    out, err = capfd.readouterr()
    assert out == "first\n" and "ValueError" in err and "odd" in err
    assert nbformat.read(tmp_path / "executed.ipynb", as_version=4).cells[1].outputs[0].evalue == "odd"


def test_a_kernel_that_fails_is_told(inside):
    with pytest.raises(OperationError, match="exit code 3"):
        inside("raise SystemExit(3)")


def test_the_versions_of_kaggles_image_are_installed_once_and_named(tmp_path, monkeypatch, capsys):
    installs = []

    def install(folder, base):
        installs.append(base)
        (folder / "bin").mkdir(parents=True, exist_ok=True)
        (folder / "bin/python").write_text("#!/bin/sh\necho Python 3.12.1, torch 2.10.0\n")
        (folder / "bin/python").chmod(0o755)

    monkeypatch.setattr(kernel_versions, "install", install)
    assert kernel_versions.python_for(None, tmp_path) == sys.executable and not installs
    for _ in range(2):
        assert kernel_versions.python_for("kaggle", tmp_path) == str(tmp_path / "kaggle-image/bin/python")
    assert len(installs) == 1 and "versions Python 3.12.1, torch 2.10.0" in capsys.readouterr().out
    (tmp_path / "kaggle-image/pins.txt").write_text("torch==1.0\n")  # of an earlier version of the project
    kernel_versions.python_for("kaggle", tmp_path)
    assert len(installs) == 2


def test_an_installation_that_fails_is_told_in_one_line_and_begun_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(kernel_versions, "PINS", tmp_path / "pins.txt")
    (tmp_path / "pins.txt").write_text("no requirement at all\n")
    with pytest.raises(OperationError, match=r"pins\.txt cannot be used: .*kernel\.versions=null"):
        kernel_versions.python_for("kaggle", tmp_path)
    assert not (tmp_path / "kaggle-image/pins.txt").exists()


def test_without_python_3_12_this_one_stands_in_and_it_is_said(tmp_path, monkeypatch, capsys):
    shim = tmp_path / "python3.12"  # as pyenv leaves one where the version is not chosen
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert kernel_versions.base_python() == sys.executable
    assert "python3.12 not found: running under Python 3." in capsys.readouterr().out
