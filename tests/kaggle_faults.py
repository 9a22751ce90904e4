"""Writes the tables of docs/kaggle.md from runs: the real client against a Kaggle on loopback that plays each fault.

    python tests/kaggle_faults.py docs/kaggle.md     # minutes, some of them real back-off
"""
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

from conftest import ROOT, script
from core import checkpoint
from fakes.loopback import isolate
from fakes.loopback_kernels import KernelServer
from kaggle_kernel.push import bundle_name
from test_submit import METRICS, NAMES, write_submission
from u2net import U2Net

SETTINGS = [f"--config={ROOT / 'config.yaml'}", "train.out_dir=outputs/trial", "infer.images=images", "kernel.owner=me",
            "kaggle.competition=matting"]
WAIT = "kaggle.wait=0.05"


def nothing(server: KernelServer, patch: pytest.MonkeyPatch) -> None:
    """No fault."""


def fails(path: str, fault: int | str, times: int = 1, method: str = "POST") -> Callable:
    return lambda server, patch: server.fail(path, fault, times, method)


def sets(**values) -> Callable:
    return lambda server, patch: [setattr(server, name, value) for name, value in values.items()]


def down(server: KernelServer, patch: pytest.MonkeyPatch) -> None:
    server.__exit__()


def no_credentials(server: KernelServer, patch: pytest.MonkeyPatch) -> None:
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY"):
        patch.delenv(name)


def rgb_in_row_3(server: KernelServer, patch: pytest.MonkeyPatch) -> None:
    write_submission(Path("outputs/trial/submission.csv"), ("L", "L", "RGB"))


# What is wrong, and how; then the settings of the command.
MISTAKES = [
    ("no credentials", no_credentials, []),
    ("wrong slug", nothing, ["kaggle.competition=mating"]),
    ("an RGB PNG in row 3", rgb_in_row_3, []),
]
SUBMIT = [
    ("none", nothing, []),
    ("401", fails("ListSubmissions", 401), []),
    ("upload answered 500, once", fails("/upload/", 500, method="PUT"), []),
    ("upload answered 503, once", fails("/upload/", 503, method="PUT"), []),
    ("connection drops in mid-upload", fails("/upload/", "cut", method="PUT"), []),
    ("submission registered, yet answered 500", fails("CreateSubmission", "lost"), []),
    ("upload answered 500, always", fails("/upload/", 500, 99, "PUT"), []),
    ("the score never comes", sets(pending=10**6), []),
    ("Kaggle cannot score the file", sets(verdict={"status": "ERROR", "errorDescription": "Wrong size."}), []),
    ("server down", down, []),
]
PUSH = [
    ("none", nothing, []),
    ("401", fails("GetDatasetStatus", 401), []),
    ("a file of the data set dropped, once", fails("/upload/", 500, method="PUT"), []),
    ("a file of the data set dropped, always", fails("config.yaml", 500, 99, "PUT"), []),
    ("push error, with exit code 0", sets(refusal={"error": "Notebook not found"}), []),
    ("the run ends in error", sets(statuses=["ERROR"], failure="Your notebook ran out of memory", output={}), []),
    ("the run's submission.csv is none", sets(statuses=["COMPLETE"], output={"submission.csv": b"<html>"}), []),
    ("server down", down, []),
]


def run(command: list[str], fault: Callable, more: list[str], built: Path) -> tuple[str, int, str]:
    """-> what the user sees (its last line), the exit code, what the server received and what was recorded."""
    with (KernelServer() as server, tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch):
        isolate(patch, Path(folder), server)
        server.isolate(patch)
        patch.chdir(folder)
        shutil.copytree(built, folder, dirs_exist_ok=True)
        server.submissions["matting"], server.processing = [], 0
        server.statuses = ["COMPLETE"]
        server.output = {"submission.csv": Path("outputs/trial/submission.csv").read_bytes()}
        server.log = json.dumps([{"data": f"bundle  {bundle_name(Path('build'))}\nMemoryError\n"}])
        fault(server, patch)
        result = script(command[0], *command[1:], *SETTINGS, WAIT, *more, cwd=Path(folder))
        recorded = Path("outputs/submissions.csv")
        rows = recorded.read_text().splitlines()[1:] if recorded.exists() else []
        assert not server.refused and "Traceback" not in result.stderr
        counts = {"upload": server.calls("/upload/"), "submission": len(server.submissions["matting"]),
                  "data set version": sum(map(len, server.datasets.values())), "kernel push": len(server.pushes)}
        kept = [f"{count} {name}{('es' if name.endswith('h') else 's') * (count > 1)}"
                for name, count in counts.items() if count]
        states = [f"recorded as {row.rsplit(',', 1)[1]}" for row in rows]
        received = "; ".join([", ".join(kept) or "nothing", *states])
        return lines(result.stdout, result.stderr), result.returncode, received


def lines(out: str, err: str) -> str:
    """Where something failed, that line, and where the command ended, its last line."""
    notable = [line for line in out.splitlines() if re.search("failed|was lost", line)]
    end = [line for line in err.splitlines() if line.startswith("error:")] or out.splitlines()[-1:]
    return "<br>".join(f"`` {line} ``" if "`" in line else f"`{line}`" for line in [*notable, *end]).replace("|", "\\|")


def build(folder: Path) -> None:
    """A finished run, its submission and a built kernel."""
    os.chdir(folder)
    write_submission(Path("outputs/trial/submission.csv"))
    Path("images").mkdir()
    for name in NAMES:
        Image.new("RGB", (32, 32)).save(f"images/{name}.png")
    checkpoint.save("outputs/trial/best.pth", {"model_state": U2Net().state_dict(), "epoch": 3, "metrics": METRICS})
    result = script("scripts/kernel.py", "build", *SETTINGS, cwd=folder)
    assert result.returncode == 0, result.stderr


def tables() -> dict[str, str]:
    """Markdown by name."""
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder).resolve())
        submit, push = ["src/submit.py", "upload"], ["scripts/kernel.py", "push"]
        found = {}
        for name, command, faults in (("mistakes", submit, MISTAKES), ("submit", submit, SUBMIT), ("push", push, PUSH)):
            rows = ["| fault | what the user sees | exit code | the server received |", "|---|---|---|---|"]
            for words, fault, more in faults:
                seen, code, received = run(command, fault, more, Path(folder))
                rows.append(f"| {words} | {seen} | {code} | {received} |")
                print(rows[-1], flush=True)
            found[name] = "\n".join(rows)
        os.chdir(ROOT)
        return found


def fill(text: str, found: dict[str, str]) -> str:
    """The page with each table between its marks."""
    for name, table in found.items():
        before, mark, rest = text.partition(f"<!-- {name} -->\n")
        text = before + mark + table + rest[rest.index("\n<!-- end -->"):]
    return text


if __name__ == "__main__":
    page = Path(sys.argv[1]).resolve()
    page.write_text(fill(page.read_text(encoding="utf-8"), tables()), encoding="utf-8")
