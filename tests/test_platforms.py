"""Systems that lack something: macOS without some calls, Windows, old GPUs, no compiler, an old Python."""
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from conftest import ROOT, call, fresh, one_error_line, tiny
from core import cli, device
from core.device import check_gpu, usable_cores
from core.errors import OperationError
from train import main as train_main

MACOS = """import os, sys
for name in ("sched_getaffinity", "sched_setaffinity", "process_cpu_count"):
    if hasattr(os, name):
        delattr(os, name)
"""


def test_cores_are_counted_on_systems_without_affinity():
    assert 1 <= usable_cores() <= os.cpu_count()
    result = fresh(MACOS + "from core.device import usable_cores; print(usable_cores())")
    assert result.stdout == f"{os.cpu_count()}\n", result.stderr


@pytest.mark.parametrize("work", [
    "from benchmark import inputs\nwith inputs.on_cores(1): import torch; assert torch.get_num_threads() == 1",
    "from core import cli; import scaling; sys.argv = ['scaling.py', '--processes', '999']; cli.run(scaling.main)",
    "import launch; launch.launch(['/dev/null'], 2, 0, launch.Machines(1, 0, '', 29500))",  # an empty script
])
def test_nothing_else_needs_linuxs_calls(work):
    result = fresh(MACOS + work)
    assert "Traceback" not in result.stderr and "sched_" not in result.stderr, result.stderr
    assert result.returncode in (0, 2)


def test_peak_memory_is_in_bytes(monkeypatch):
    usage = SimpleNamespace(ru_maxrss=2048)
    monkeypatch.setattr(sys, "platform", "linux")
    assert device.peak_bytes(usage) == 2 * 2**20
    monkeypatch.setattr(sys, "platform", "darwin")
    assert device.peak_bytes(usage) == 2048


@pytest.mark.parametrize("name", ["src/train.py", "src/infer.py", "src/submit.py", "scripts/get_data.py",
                                  "scripts/get_weights.py", "scripts/kernel.py"])
def test_windows_is_told_what_to_use(name):
    """It has no fcntl."""
    path = ROOT / name
    result = fresh("import runpy, sys; sys.modules['fcntl'] = None; runpy.run_path(sys.argv[1], run_name='__main__')",
                   path, path=[path.parent])
    assert "on Windows use WSL" in one_error_line(result, 2)


@pytest.mark.parametrize("capability, built_for", [
    ((7, 5), ["sm_75", "sm_80"]), ((8, 6), ["sm_75", "sm_80"]), ((12, 1), ["sm_90", "compute_90"]),
    ((9, 0), ["gfx90a"]), ((9, 0), [])])
def test_a_gpu_that_torch_has_code_for_is_accepted(capability, built_for):
    check_gpu(capability, built_for)


@pytest.mark.parametrize("capability, built_for", [
    ((6, 0), ["sm_75", "sm_80", "compute_120"]), ((8, 0), ["sm_75", "sm_86"]), ((12, 0), ["sm_80", "sm_90"])])
def test_another_gpu_is_refused_before_any_work(capability, built_for):
    with pytest.raises(OperationError, match=r"has no code for this GPU of compute capability .*CUDA_VISIBLE_DEVICES="):
        check_gpu(capability, built_for)


@pytest.mark.parametrize("text, words", [
    ("CUDA error: no kernel image is available for execution on the device\nCompile with `TORCH_USE_CUDA_DSA`.",
     "(CUDA error: no kernel image is available for execution on the device)"),
    ("The NVIDIA driver on your system is too old (found version 11040).", "a driver new enough for this torch"),
    ("CUDA unknown error - this may be due to an incorrectly set up environment", "check that nvidia-smi shows it"),
    ("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED", "use the CPU with CUDA_VISIBLE_DEVICES= (empty)"),
    ("backend='inductor' raised:\nInvalidCxxCompiler: No working C++ compiler found", "set train.compile=false"),
])
def test_errors_of_gpus_and_compilers_are_one_line(text, words):
    def fail():
        raise RuntimeError(text)

    code, _, err = call(fail)
    assert code == 1 and err.count("\n") == 1 and words in err


def test_a_bug_on_a_gpu_is_not_hidden():
    with pytest.raises(RuntimeError, match="device-side assert"):
        cli.run(lambda: (_ for _ in ()).throw(RuntimeError("CUDA error: device-side assert triggered")))


@pytest.mark.parametrize("compiler", [None, "/none/g++ -O2"])
def test_compiling_without_a_compiler_is_one_line(pairs_csv, tmp_path, monkeypatch, compiler):
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
        if compiler:
            monkeypatch.setenv(name, compiler)
    result = call(train_main, *tiny(pairs_csv, tmp_path / "run", "train.compile=true"))
    assert "set train.compile=false" in one_error_line(result, 2)
    assert not (tmp_path / "run").exists()


def test_setup_checks_the_version_of_python(tmp_path):
    if not shutil.which("make"):
        pytest.skip("no make here")
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\necho 3.9\n")
    old.chmod(0o755)
    for python, words in ((old, f"error: {old}: Python 3.9; the packages need one of 3.11 3.12 3.13 3.14"),
                          (tmp_path / "none", f"error: {tmp_path}/none: Python not found")):
        result = subprocess.run(["make", "setup", f"PYTHON={python}", f"VENV={tmp_path}/venv"], cwd=ROOT, text=True,
                                capture_output=True)
        assert result.returncode == 2 and words in result.stderr and not (tmp_path / "venv").exists()
