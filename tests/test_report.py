"""report.html: its numbers, nothing loaded from outside, no script through file names; and it works in a browser."""
import csv
import html
import json
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from browser import in_browser
from conftest import call, one_error_line, write_csv
from core.config import DEFAULTS, load_run
from core.errors import UserError
from report import main as report_main
from report import report
from report import test_result as result_of_test
from reporting import charts, summary
from submission.submission_csv import SubmissionWriter

EVIL = "<img src=x onerror=alert(1)>&.png"


@pytest.fixture(scope="module")
def run(run_dir, pairs_csv, tmp_path_factory) -> Path:
    """A copy of the run whose CSV has families and whose first image has HTML in its name."""
    folder, pairs = tmp_path_factory.mktemp("reported") / "run", tmp_path_factory.mktemp("evil") / "pairs"
    shutil.copytree(run_dir, folder, ignore=shutil.ignore_patterns("submission.csv", "report.*"))
    shutil.copytree(pairs_csv.parent, pairs)
    (pairs / "rgb_0.png").rename(pairs / EVIL)
    rows = list(csv.DictReader((pairs / "pairs.csv").open()))
    rows[0]["image_path"] = EVIL
    write_csv(pairs / "pairs.csv", [row.values() for row in rows])
    validation = json.loads((folder / "validation.json").read_text())
    for i, row in enumerate(validation["images"]):
        row["family"] = ("discs", "<i>rings</i>")[i % 2]
    validation["images"][0]["image"] = EVIL
    (folder / "validation.json").write_text(json.dumps(validation))
    config = (folder / "config.yaml").read_text().replace(str(pairs_csv), str(pairs / "pairs.csv"))
    (folder / "config.yaml").write_text(config)
    return folder


def rendered(run: Path, *overrides: str) -> str:
    report(load_run(DEFAULTS, [f"train.out_dir={run}", *overrides]))
    return (run / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(run) -> str:
    return rendered(run)


def test_the_numbers_of_the_run_are_on_the_page(run, page):
    rows = json.loads((run / "validation.json").read_text())["images"]
    levels = json.loads((run / "levels.json").read_text())
    worst = sorted(rows, key=lambda row: -row["val_mse_dense"])
    big = re.search(r'class="big">([\d.]+)<', page)[1]
    assert float(big) == pytest.approx(np.mean([row["val_mse_dense"] for row in rows]), abs=1e-4)
    assert f"floor<b>{levels['floor']:.4f}" in page and f"best constant<b>{levels['constant']:.4f}" in page
    listed = re.findall(r"<tr><td>(.+?) <span class=\"family\">", page)
    assert listed == [html.escape(row["image"]) for row in worst]
    for rank, row in (("Best", worst[-1]), ("Worst", worst[0])):
        assert f"<h3>{rank}: {html.escape(row['image'])}</h3>" in page
    assert page.count("data:image/webp;base64,") == 3 * 7  # with the predicted alpha
    assert "No score, because " in page and "does not exist" in page
    changed = re.findall(r"<tr><td><code>([\w.]+)</code>", page.replace("<wbr>", ""))
    assert "train.epochs" in changed and "train.weight_decay" not in changed


def test_a_file_name_stays_text(page):
    assert "<img src=x" not in page and "<i>rings" not in page
    assert html.escape(EVIL) in page and "&lt;i&gt;rings&lt;/i&gt;" in page


def test_nothing_is_loaded_from_outside(page):
    assert all(target.startswith("data:") for target in re.findall(r'(?:src|href)="([^"]*)"', page))
    assert not re.search(r"https?:|@import|url\(", page)
    assert "default-src 'none'" in page


def test_without_the_pictures_the_page_says_so(run, tmp_path):
    for override, why in ((f"data.val_csv={tmp_path}/gone.csv", "gone.csv: no such pairs CSV"),
                          ("data.limit=1", "has changed since the run")):
        text = rendered(run, override)
        assert "Left out: " in text and why in text
        assert "data:image/webp" not in text and 'class="big"' in text


def test_the_test_score_needs_a_submission_and_its_solution(run, tmp_path):
    cfg = load_run(DEFAULTS, [f"train.out_dir={run}", f"infer.submission={tmp_path}/submission.csv",
                              f"data.solution_csv={tmp_path}/solution.csv"])
    assert "no score" in result_of_test(cfg)["note"]
    ramp = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    for name, alpha in (("submission", ramp * 0 + 0.2), ("solution", ramp)):
        with SubmissionWriter(tmp_path / f"{name}.csv") as writer:
            writer.write("a", alpha)
    test = result_of_test(cfg)
    assert test["value"] == pytest.approx(np.mean((ramp - 0.2) ** 2), abs=1e-3)
    assert test["levels"]["constant"] == pytest.approx(ramp.var(), abs=1e-3)
    text = rendered(run, f"infer.submission={tmp_path}/submission.csv", f"data.solution_csv={tmp_path}/solution.csv")
    assert f"{test['value']:.4f}" in text and "No score" not in text
    with SubmissionWriter(tmp_path / "solution.csv") as writer:
        writer.write("b", ramp)
    assert "has no row" in result_of_test(cfg)["note"]


def test_what_is_missing_is_named_in_one_line(run, tmp_path):
    assert "is not a run folder" in one_error_line(call(report_main, f"train.out_dir={tmp_path}/no"), 2)
    for name, text, why in (("best.pth", None, "no such checkpoint"), ("validation.json", None, "no such file"),
                            ("metrics.csv", "epoch,train_mse\n1,x\n", "is damaged"),
                            ("config.yaml", "train: {epoks: 1}", "config.yaml: unknown config key train.epoks")):
        broken = shutil.copytree(run, tmp_path / Path(name).stem)
        (broken / name).unlink() if text is None else (broken / name).write_text(text)
        with pytest.raises(UserError, match=why) as error:
            rendered(broken)
        assert str(broken) in str(error.value) and "\n" not in str(error.value)


def test_calibration_finds_what_recalibration_would_gain():
    counts = np.zeros(256)
    counts[[0, 51, 204]] = 600, 300, 100
    right = summary.calibration(counts, counts * np.arange(256) / 255)
    assert right["gain"] == pytest.approx(0) and [b["share"] for b in right["bins"]] == [0.6, 0.3, 0.1]
    shifted = summary.calibration(counts, counts * (np.arange(256) / 255 + 0.1))
    assert shifted["gain"] == pytest.approx(0.01) and shifted["bins"][1]["true"] == pytest.approx(0.3)


def test_softness_levels_and_families():
    counts = np.zeros(256)
    counts[[0, 128, 255]] = 50, 30, 20
    soft = summary.softness(counts)
    assert soft["soft"] == pytest.approx(0.3) and (soft["q1"], soft["q99"]) == (0, 1)
    pixels = np.repeat(np.arange(256) / 255, counts.astype(int))
    assert summary.trivial_levels(counts)["constant"] == pytest.approx(pixels.var())
    assert summary.covered(0.01, {"constant": 0.02, "floor": 0.0}) == pytest.approx(0.5)
    rows = [{"family": f, "m": v} for f, v in (("a", 1.0), ("b", 4.0), ("a", 3.0))]
    assert [(line["family"], line["images"], line["value"], line["share"]) for line in summary.families(rows, "m")] == [
        ("b", 1, 4.0, 0.5), ("a", 2, 2.0, 0.5)]
    assert summary.families([{"family": "", "m": 1.0}], "m") == []


@pytest.mark.parametrize("epochs", [1, 3, 200])
def test_a_chart_of_lines_is_drawn_inside_its_frame(epochs):
    names = [f"term {i} <&>" for i in range(8)]
    series = {name: [0.1 + 0.001 * i] * epochs for i, name in enumerate(names)} | {"zero": [0.0] * epochs}
    svg = ElementTree.fromstring(charts.lines(series, range(1, epochs + 1), {"floor": 0.001}, 1, 'a "chart"'))
    labels = [text for text in svg.iter("text") if text.get("class", "").startswith("start name")]
    assert [label.text for label in labels] == names  # a logarithmic scale cannot show a term that is always zero
    heights = sorted(float(label.get("y")) for label in labels)
    assert min(np.diff(heights)) >= 12 and heights[0] > 0 and heights[-1] < charts.HEIGHT
    points = [float(v) for line in svg.iter("polyline") for v in re.split("[ ,]", line.get("points"))]
    assert len(points) == 8 * epochs * 2 and min(points) > 0 and max(points) < charts.WIDTH


PROBE = """
frame.onload = () => {
  const page = frame.contentDocument, viewer = page.querySelector(".viewer"), range = viewer.querySelector("input");
  const over = viewer.querySelector(".over"), shown = () => frame.contentWindow.getComputedStyle(over).clipPath;
  const before = shown();
  range.value = 20;
  range.dispatchEvent(new Event("input"));
  const moved = shown(), truth = over.src;
  viewer.querySelector("button[data-name=rgb]").click();
  out.textContent = JSON.stringify({before, moved, swapped: over.src !== truth,
    spoken: range.getAttribute("aria-valuetext"), focusable: range.tabIndex === 0,
    fits: page.documentElement.scrollWidth === page.documentElement.clientWidth});
};
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser_the_slider_moves_and_a_phone_is_wide_enough(page, scheme, tmp_path):
    found, paper = in_browser(page, PROBE, 390, scheme, tmp_path)
    assert "50%" in found["before"] and "80%" in found["moved"] and found["swapped"] and found["focusable"]
    assert found["spoken"] == "20 % rgb, the rest pred"
    assert found["fits"]
    assert (paper.mean() < 60) == (scheme == "dark"), paper.mean()
