"""compare.html: changes paired by image and truth, its numbers and pictures, bad input; and it works in a browser."""
import csv
import html
import json
import math
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from browser import in_browser
from compare import compare, main, read_runs
from core import checkpoint
from core.config import DEFAULTS
from core.errors import UserError
from core.outputs import may_write
from reporting import comparison
from submission import leaderboard


@pytest.fixture(scope="module")
def folders(run_dir, tmp_path_factory) -> list[str]:
    """The run, and a copy with another setting, other weights, an epoch more, and errors about a third lower."""
    place = tmp_path_factory.mktemp("compared")
    first, other = (shutil.copytree(run_dir, place / name, ignore=shutil.ignore_patterns("*.html")) for name in (
        "base", "a-name-too-long-for-a-chart <b>&"))
    for folder in (first, other):
        edit_json(folder / "validation.json", lambda values: values.pop("weights"))
    (other / "config.yaml").write_text((other / "config.yaml").read_text().replace("lr: 0.001", "lr: 0.002"))
    edit_json(other / "validation.json", lambda values: [
        row.update(val_mse_dense=row["val_mse_dense"] * (0.6 + 0.05 * i)) for i, row in enumerate(values["images"])])
    rows = list(csv.reader((other / "metrics.csv").open()))
    with (other / "metrics.csv").open("a") as file:
        csv.writer(file).writerow(["3", *rows[-1][1:]])
    state = checkpoint.load(other / "best.pth")
    for value in state["model_state"].values():
        value *= 0.9 if value.is_floating_point() else 1
    checkpoint.save(other / "best.pth", state)
    return [str(first), str(other)]


def edit_json(path, change) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def compared(folders, out, *overrides: str) -> str:
    compare(read_runs(folders, DEFAULTS, ["infer.backend=torch", *overrides]), out)
    return out.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(folders, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leaderboard, "PATH", folder / "submissions.csv")
        scored = [("base", 5), ("elsewhere", 1), ("base", 3), ("a-name-too-long-for-a-chart <b>&", 4)]
        lines = [f"{i},2026-01-0{i},matting,{run},alpha,3,0.1,0.0{i},0.0{score},complete"
                 for i, (run, score) in enumerate(scored, 1)]
        leaderboard.PATH.write_text("\n".join([",".join(leaderboard.COLUMNS), *lines]) + "\n")
        return compared(folders, folder / "compare.html")


def test_the_page_shows_what_differs_and_is_written_again(folders, page, tmp_path):
    changed = re.findall(r"<tr><td><code>([\w.]+)</code>", page.replace("<wbr>", ""))
    assert changed == ["train.lr"] and ">0.001</code>" in page and ">0.002</code>" in page
    rows = [json.loads(Path(folder, "validation.json").read_text())["images"] for folder in folders]
    errors = [np.array([row["val_mse_dense"] for row in each]) for each in rows]
    change = f"{(errors[1] - errors[0]).mean():+.5f}".replace("-", "−")
    assert f"<b>{change}</b> <code>val_mse_dense</code> against A: <em>better</em>" in page
    assert "<b>+0.00000</b> <code>val_mse</code> against A: <em>the same</em>" in page
    assert page.count("polyline") == 3 * 2
    assert page.count("data:image/webp;base64,") == 3 * (2 + 2 + 2 * 2)
    assert "over 3 submissions" in page and "elsewhere" not in page and "−0.50" in page
    assert "<b>&" not in page and html.escape("chart <b>&") in page
    assert all(target.startswith("data:") for target in re.findall(r'(?:src|href)="([^"]*)"', page))
    again = tmp_path / "any name.html"
    again.write_text(page)
    may_write(again)
    again.write_text("<!DOCTYPE html>\n<p>mine")
    with pytest.raises(UserError, match="not written by this program"):
        may_write(again)


def test_images_are_paired_only_with_the_same_truths(folders, pairs_csv, tmp_path):
    parts = [shutil.copytree(folder, tmp_path / str(i)) for i, folder in enumerate([*folders, folders[0]])]
    half, seed = parts[1], parts[2]
    for folder, key, value in ((half, "limit: null", "limit: 2"), (seed, "seed: 42", "seed: 43")):
        text = (folder / "config.yaml").read_text()
        assert key in text
        (folder / "config.yaml").write_text(text.replace(key, value, 1))
    for folder, keep in ((half, 2), (seed, 4)):
        def other_truths(values, keep=keep):
            values["images"] = values["images"][:keep]
            values["histograms"]["target"][0] += 1
            values["histograms"]["alpha"][0] += keep < 4
        edit_json(folder / "validation.json", other_truths)
    runs = read_runs(parts, DEFAULTS, [])
    dense, own = ([comparison.change(runs[0], run, metric) for run in runs[1:]] for metric in comparison.METRICS)
    assert dense[0].pairs == [(0, 0), (1, 1)] and dense[0].why == "validated on other pictures"
    assert dense[0].mean < 0 and math.isnan(dense[0].low) and dense[0].verdict == "too few images for an interval"
    assert dense[1].pairs == [] and dense[1].verdict == "not comparable" and "seed differs" in dense[1].why
    assert own[1].pairs == [(i, i) for i in range(4)] and own[1].verdict == "the same"
    changes = dict(zip(comparison.METRICS, (dense, own), strict=True))
    assert comparison.deciding(runs, changes) == "val_mse" and comparison.in_all(own) == [(0, 0, 0), (1, 1, 1)]
    text = compared(parts, tmp_path / "compare.html")
    assert "Not comparable" in text and "validated with other dense targets: seed differs" in text


def test_an_interval_finds_a_change_and_no_evidence_where_there_is_none():
    rng = np.random.default_rng(0)
    base = rng.uniform(0.01, 0.02, 40)

    def run(errors):
        rows = [{"image": str(i), "val_mse": value} for i, value in enumerate(errors)]
        files = {"validation": {"images": rows, "histograms": {"alpha": [1] * 256}}}
        return comparison.Compared("A", SimpleNamespace(seed=1), files)

    for errors, verdict in ((base - rng.uniform(0, 0.002, 40), "better"), (base + 0.001, "worse"), (base, "the same"),
                            (base + rng.normal(0, 0.001, 40), "no evidence")):
        change = comparison.change(run(base), run(errors), "val_mse")
        assert change.verdict == verdict and change.low <= change.mean <= change.high


@pytest.mark.parametrize("broken, why", [
    ({"config.yaml": None}, "is not a run folder"), ({"metrics.csv": None}, "no such file"),
    ({"validation.json": '{"epoch": 1, "images": [{"image": "a"}]}'}, "is damaged"),
    ({"validation.json": "{"}, "is damaged"), ({"validation.json": "[]"}, "is damaged"),
    ({"metrics.csv": "epoch,train_mse\n1,0.1\n"}, "is damaged"),
    ({"levels.json": '{"floor": 1}'}, "is damaged"), ({"best.pth": "x"}, "best.pth")])
def test_a_folder_that_cannot_be_compared_is_named_in_one_line(folders, tmp_path, broken, why):
    bad = shutil.copytree(folders[1], tmp_path / "bad")
    for name, text in broken.items():
        (bad / name).unlink() if text is None else (bad / name).write_text(text)
    with pytest.raises(UserError, match=why) as error:
        compare(read_runs([folders[0], str(bad)], DEFAULTS, []), tmp_path / "compare.html")
    assert str(bad) in str(error.value) and "\n" not in str(error.value)


def test_wrong_arguments_are_refused(folders, tmp_path, monkeypatch):
    foreign = tmp_path / "mine.html"
    foreign.write_text("<p>mine")
    for words, why in (([], "0 run folders given"), (folders[:1], "1 run folder given"),
                       ([folders[0], folders[0] + "/"], "is given twice"), (folders * 7, "14 run folders"),
                       ([*folders, "train.epoks=1"], "unknown config key"),
                       ([*folders, "--out", "x.pth"], "end in .html"),
                       ([*folders, "--out", str(foreign)], "not written by this program")):
        monkeypatch.setattr("sys.argv", ["compare.py", *words])
        monkeypatch.chdir(tmp_path)
        with pytest.raises(UserError, match=why):
            main()
    assert foreign.read_text() == "<p>mine"


PROBE = """
frame.onload = () => {
  const page = frame.contentDocument, viewer = page.querySelector(".viewer"), range = viewer.querySelector("input");
  const [under, over] = viewer.querySelectorAll(".wipe img"), buttons = [...viewer.querySelectorAll("button")];
  const shown = () => frame.contentWindow.getComputedStyle(over).clipPath;
  const before = shown(), differ = under.src !== over.src;
  range.value = 20;
  range.dispatchEvent(new Event("input"));
  const moved = shown(), spoken = range.getAttribute("aria-valuetext");
  buttons.at(-1).click();
  out.textContent = JSON.stringify({before, moved, differ, spoken, then: range.getAttribute("aria-valuetext"),
    fits: page.documentElement.scrollWidth === page.documentElement.clientWidth});
};
"""


@pytest.mark.parametrize("width, scheme", [(390, "dark"), (1200, "light")])
def test_in_a_browser_the_slider_moves_and_the_page_fits(page, width, scheme, tmp_path):
    found, paper = in_browser(page, PROBE, width, scheme, tmp_path)
    assert found["fits"] and found["differ"] and "50%" in found["before"] and "80%" in found["moved"]
    assert found["spoken"] == "20 % B, the rest A" and found["then"] == "20 % error of B, the rest error of A"
    assert (paper.mean() < 60) == (scheme == "dark"), paper.mean()
