"""Runs side by side: two or more run folders -> one self-contained page, and a table. All are compared with the first.

    python scripts/compare.py outputs/a outputs/b
    python scripts/compare.py outputs/a outputs/b outputs/c --out outputs/lr.html infer.backend=torch

Settings that differ, curves, validation errors paired by image with 95 % intervals, the same pictures in all runs, and
the runs' submissions with their public scores. Overrides hold for all runs.
"""
import re
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

import numpy as np
import pandas as pd

from core import cli
from core.config import load_run
from core.errors import UserError
from core.outputs import check_file, may_write, same_place
from dataset import ValidationSet
from imaging.pictures import ERROR_FULL, grey, heat
from inference.predictor import load_predictor
from reporting import charts
from reporting.comparison import (
    METRICS,
    Change,
    Compared,
    change,
    curves,
    deciding,
    in_all,
    settings,
)
from reporting.page import embedded, save_page
from reporting.run_files import check_weights, read_run
from reporting.summary import ranks
from submission import leaderboard

LETTERS = "ABCDEFGHIJKL"  # as many as charts can tell apart: each colour as a solid and as a dashed line
OVERRIDE = re.compile(r"\w+(\.\w+)*=")


def compare(runs: Sequence[Compared], out: Path) -> None:
    """Writes the page and prints the table."""
    changes = {metric: [change(runs[0], run, metric) for run in runs[1:]] for metric in METRICS}
    metric, differing = deciding(runs, changes), settings(runs)
    submissions = submissions_of(runs)
    pictures = pictured(runs, changes[metric], metric)
    save_page(out, "compare.html", {
        "runs": [shown(run, number, changes, metric) for number, run in enumerate(runs)], "metric": metric,
        "other": next(name for name in METRICS if name != metric), "dense": metric == "val_mse_dense",
        "settings": differing, "charts": {name: curves(runs, name) for name in (*METRICS, "train_mse")},
        "reach": reach(changes), **pictures, "error_full": ERROR_FULL, "submissions": submissions.to_dict("records"),
        "correlations": correlations(submissions), "enough": leaderboard.ENOUGH, "recorded": leaderboard.PATH})
    print("\n\n".join([table_of_settings(runs, differing), *(table_of_errors(runs, name, changes[name])
                                                            for name in METRICS), *in_words(submissions)]))
    if pictures["pictures_note"]:
        print(f"\npictures  {pictures['pictures_note']}")
    print(f"\npage  {out}")


def read_runs(folders: Sequence[str], config: str, overrides: Sequence[str]) -> list[Compared]:
    """UserError if one is no run, or has no finished epoch, or is given twice; or if there are too few or too many."""
    paths = [Path(folder).expanduser() for folder in folders]
    if not 2 <= len(paths) <= len(LETTERS):
        raise UserError(f"{len(paths)} run folder{'s' * (len(paths) != 1)} given: give 2 to {len(LETTERS)}, for "
                        'example make compare RUNS="outputs/a outputs/b"')
    for number, path in enumerate(paths):
        if any(same_place(path, earlier) for earlier in paths[:number]):
            raise UserError(f"{path}: is given twice; give each run folder once")
    runs = []
    for letter, path in zip(LETTERS, paths, strict=False):
        cfg = load_run(config, [*overrides, f"train.out_dir={path}"])
        files = read_run(cfg.train.out_dir)
        check_weights(files["validation"], cfg)
        runs.append(Compared(letter, cfg, files))
    return runs


def shown(run: Compared, number: int, changes: dict[str, list[Change]], metric: str) -> dict:
    """What the page says about one run; the first has no changes."""
    own = {name: each[number - 1] for name, each in changes.items()} if number else {}
    return {"letter": run.letter, "name": run.name, "folder": run.folder, "colour": charts.colour_of(number),
            "variant": run.cfg.model.variant, "predicts": run.cfg.model.predicts, "images": len(run.rows),
            "epochs": int(run.files["history"]["epoch"].iloc[-1]), "epoch": run.files["validation"]["epoch"],
            "means": {name: float(run.errors(name).mean()) for name in METRICS}, "levels": run.levels(metric),
            "changes": own}


def reach(changes: dict[str, list[Change]]) -> dict[str, float]:
    """Half the width of the intervals' scale for each metric: the largest of its changes and ends."""
    ends = {metric: np.abs([[each.mean, each.low, each.high] for each in every]) for metric, every in changes.items()}
    return {metric: float(np.nanmax(values, initial=0)) * 1.05 or 1.0 for metric, values in ends.items()}


def pictured(runs: Sequence[Compared], changes: Sequence[Change], metric: str) -> dict:
    """`panels` of the images with the best, median and worst change, or a `pictures_note` that says why not."""
    common, (pairs, gone) = in_all(changes), runs[0].pairs
    if not common or gone:
        why = gone or "no picture was validated with the same truth in all runs"
        return {"panels": [], "pictures_note": f"left out: {why}"}
    val_set = ValidationSet(pairs, runs[0].cfg)
    errors = np.array([run.errors(metric)[list(indices)] for run, indices in
                       zip(runs, zip(*common, strict=True), strict=True)])  # (runs, images)
    chosen = ranks((errors[1:].mean(0) - errors[0]).tolist())
    samples = [val_set[common[place][0]] for place in chosen]
    preds = predictions(runs, [rgb for rgb, _, _ in samples], metric)
    panels = [{**panel(sample, own, metric), "rank": f"{rank} change", "means": errors[:, place].tolist(),
               "image": runs[0].images[common[place][0]], "family": ""}
              for (place, rank), sample, *own in zip(chosen.items(), samples, *preds, strict=True)]
    return {"panels": panels, "pictures_note": ""}


def panel(sample: tuple, preds: list[np.ndarray], metric: str) -> dict:
    """The embedded pictures of one image. sample: of ValidationSet; preds: one per run."""
    rgb, alpha, target = sample
    true = target if metric == "val_mse_dense" else alpha
    return {"width": rgb.shape[1], "height": rgb.shape[0], "rgb": embedded(rgb), "true": embedded(grey(true)),
            "preds": [embedded(grey(pred)) for pred in preds],
            "errors": [embedded(heat(np.abs(pred - true))) for pred in preds]}


def predictions(runs: Sequence[Compared], rgbs: list[np.ndarray], metric: str) -> list[list[np.ndarray]]:
    """For each run the (H,W) alpha of each picture that the metric measures; one network in memory at a time."""
    found = []
    for run in runs:
        predict = load_predictor(run.cfg)
        found.append([pred.dense if metric == "val_mse_dense" else pred.alpha for rgb in rgbs
                      for pred in predict.predictions([rgb])])
    return found


def submissions_of(runs: Sequence[Compared]) -> pd.DataFrame:
    """The recorded submissions of these runs, best first, with `letters`: the runs of that name."""
    rows = leaderboard.ranked(leaderboard.read())
    letters = {}
    for run in runs:
        letters[run.name] = letters.get(run.name, "") + run.letter
    rows = rows[rows["run"].isin(letters.keys())]
    return rows.assign(letters=rows["run"].map(letters))


def correlations(submissions: pd.DataFrame) -> list[tuple[str, float | None, int]]:
    """(competition, rank correlation of val_mse_dense and the public score, number of scored submissions)."""
    return [(name, *leaderboard.rank_correlation(rows)) for name, rows in submissions.groupby("competition")]


def in_words(submissions: pd.DataFrame) -> list[str]:
    if submissions.empty:
        return [f"{leaderboard.PATH}: no submission of these runs"]
    lines = [f"rank correlation of val_mse_dense and the public score{f' in {name}' if name else ''}: "
             + (f"{value:+.2f} over {count} submissions" if value is not None else
                f"needs {leaderboard.ENOUGH} scored submissions with different values, there {found(count)}")
             for name, value, count in correlations(submissions)]
    return [leaderboard.table(submissions[leaderboard.COLUMNS]), "\n".join(lines)]


def found(count: int) -> str:
    return "is 1" if count == 1 else f"are {count}"


def table_of_settings(runs: Sequence[Compared], differing: dict[str, list[object]]) -> str:
    head = ["settings that differ", *(run.label for run in runs)]
    rows = [[key, *("null" if value is None else str(value) for value in values)]
            for key, values in differing.items()]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in [head, *rows]]
    return "\n".join([*(f"{run.letter}  {run.folder}" for run in runs), "", *lines, *([] if rows else ["(none)"])])


def table_of_errors(runs: Sequence[Compared], metric: str, changes: Sequence[Change]) -> str:
    lines = [f"{metric:16}{'MSE':>9}{'change':>10}  {'95 % interval':22}{'images':>6}  verdict",
             f"{runs[0].label:16}{runs[0].errors(metric).mean():9.5f}{'':34}{len(runs[0].rows):6}"]
    for run, each in zip(runs[1:], changes, strict=True):
        interval = "" if np.isnan(each.low) else f"{each.low:+.5f} … {each.high:+.5f}"
        mean = f"{each.mean:+10.5f}" if each.pairs else f"{'–':>10}"
        why = f" ({each.why})" if each.why else ""
        lines.append(f"{run.label:16}{run.errors(metric).mean():9.5f}{mean}  {interval:22}{len(each.pairs):6}  "
                     f"{each.verdict}{why}")
    return "\n".join(lines)


def main() -> None:
    args = cli.parse(__doc__, options={"out": ("outputs/compare.html", "page to write, *.html")})
    out, overrides = Path(args.out), [word for word in args.overrides if OVERRIDE.match(word)]
    if out.suffix != ".html":
        raise UserError(f"--out {out}: must end in .html")
    check_file(out, "--out")
    may_write(out)
    compare(read_runs([word for word in args.overrides if not OVERRIDE.match(word)], args.config, overrides), out)


if __name__ == "__main__":
    cli.run(main)
