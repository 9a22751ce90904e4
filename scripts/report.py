"""Run folder -> report.html, one self-contained page about the run; and report.png if the test's alphas are known.

    python scripts/report.py train.out_dir=outputs/u2netp
"""
import datetime
import platform
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from core import cli
from core.config import (
    DEFAULTS,
    Config,
    as_overrides,
    dump_config,
    flat,
    load_config,
    load_run,
    select_metric,
    with_predict_size,
)
from core.errors import UserError
from core.outputs import check_folder, may_write
from dataset import ValidationSet
from imaging.images import list_images, read_rgb
from imaging.pairs import configured_pairs, pairs_source
from imaging.pictures import ERROR_FULL, grey, heat, panel_sheet, save_picture
from inference.predictor import Predictor, load_predictor
from inference.weights import refuse_several, with_weights
from reporting.page import embedded, save_page
from reporting.run_files import check_weights, read_run
from reporting.summary import collect, ranks
from submission.check import baselines, matched_alphas

SHOWN = 6   # test images in report.png


def report(cfg: Config) -> None:
    """Writes report.html into the run folder; and report.png, if there are infer.submission and data.solution_csv."""
    refuse_several(cfg)
    check_folder(cfg.train.out_dir, "make it writable, or work on a copy of it")
    page = cfg.train.out_dir / "report.html"
    run = read_run(cfg.train.out_dir)
    may_write(page)
    check_weights(run["validation"], cfg)
    predict = load_predictor(cfg)
    test = test_result(cfg)
    pictures = pictured(cfg, run, predict)
    save_page(page, "report.html", {
        **collect(cfg, run), **pictures, "test": test, "changed": changed(cfg), "error_full": ERROR_FULL,
        "config": dump_config(cfg), "environment": environment(cfg, predict)})
    print(f"report   {page}\ntest     {test['note']}")
    if pictures["pictures_note"]:
        print(f"panels   {pictures['pictures_note']}")
    if "errors" in test:
        print(f"picture  {save_test_picture(cfg, test)}")


def pictured(cfg: Config, run: dict, predict: Predictor) -> dict:
    """`panels` of the best, median and worst validation image, or a `pictures_note` that says why there are none."""
    rows, metric = run["validation"]["images"], select_metric(cfg)
    try:
        pairs = configured_pairs(cfg, "val")
    except UserError as error:
        return {"panels": [], "pictures_note": f"left out: {error}"}
    if [pair.image_path.name for pair in pairs] != [row["image"] for row in rows]:
        return {"panels": [], "pictures_note": f"left out: {pairs_source(cfg, 'val')} has changed since the run"}
    val_set, panels = ValidationSet(pairs, cfg), []
    for index, rank in ranks([row[metric] for row in rows]).items():
        rgb, alpha, target = val_set[index]
        (own_alpha, dense), = predict.predictions([rgb])
        true, pred = (target, dense) if metric == "val_mse_dense" else (alpha, own_alpha)
        own = {"alpha": embedded(grey(own_alpha))} if predict.density else {}
        height, width = rgb.shape[:2]
        panels.append({**rows[index], "rank": rank, "value": rows[index][metric], "width": width, "height": height,
                       "pictures": {"rgb": embedded(rgb), "true": embedded(grey(true)), "pred": embedded(grey(pred)),
                                    "error": embedded(heat(np.abs(pred - true))), **own}})
    return {"panels": panels, "pictures_note": ""}


def test_result(cfg: Config) -> dict:
    """`note` in words; if there are a submission and a solution, also the score, its `levels` and `errors` by name."""
    submission, solution = cfg.infer.submission, cfg.data.solution_csv
    for path, writer in ((submission, "make infer"), (solution, "make data SOURCE=synthetic")):
        if not path.exists():
            return {"note": f"no score, because {path} does not exist (`{writer}` writes it)"}
    try:
        errors = {name: float(np.mean((pred.astype(np.float32) - true) ** 2)) / 255**2
                  for name, pred, true in matched_alphas(submission, solution)}
        levels = {"floor": 0.0, **baselines(solution)}
    except UserError as error:  # for example, the submission is for other images than the solution
        return {"note": f"no score: {error}"}
    value = float(np.mean(list(errors.values())))
    note = f"MSE {value:.4f} (best constant {levels['constant']:.4f}, all zero {levels['zero']:.4f})"
    return {"errors": errors, "value": value, "levels": levels, "note": note}


def save_test_picture(cfg: Config, test: dict) -> str:
    """report.png: test images beside their true alphas, best to worst -> its path, or why there is none."""
    try:
        paths = {path.stem: path for path in list_images(cfg.infer.images)[0]}
    except UserError as error:
        return f"left out: {error}"
    errors, target = test["errors"], cfg.train.out_dir / "report.png"
    ranked = sorted(errors.keys() & paths.keys(), key=lambda name: (errors[name], name))
    if not ranked:
        return f"left out: {cfg.infer.images} does not contain the submission's images"
    shown = {ranked[i] for i in np.linspace(0, len(ranked) - 1, min(SHOWN, len(ranked)), dtype=int)}
    panels = {name: (f"{name}   mse {errors[name]:.4f}   rank {ranked.index(name) + 1} of {len(ranked)}",
                     read_rgb(paths[name]), true / np.float32(255), pred / np.float32(255))
              for name, pred, true in matched_alphas(cfg.infer.submission, cfg.data.solution_csv) if name in shown}
    save_picture(target, panel_sheet([panels[name] for name in ranked if name in shown],
                                     f"{cfg.infer.submission} · {test['note']}"))
    return str(target)


def changed(cfg: Config) -> dict[str, object]:
    """The overrides that turn config.yaml into this run's settings, without those that follow from others."""
    own, overrides = flat(cfg.model_dump(mode="json")), {}

    def resolved() -> dict[str, object]:
        return flat(with_predict_size(load_config(DEFAULTS, as_overrides(overrides))).model_dump(mode="json"))

    reached = resolved()
    for key, value in own.items():
        if reached[key] != value:
            overrides[key] = value
            reached = resolved()
    return overrides


def environment(cfg: Config, predict: Predictor) -> dict[str, str]:
    trained = datetime.datetime.fromtimestamp((cfg.train.out_dir / "best.pth").stat().st_mtime).astimezone()
    return {"checkpoint written": f"{trained:%Y-%m-%d %H:%M %Z}",
            "page written": f"{datetime.datetime.now().astimezone():%Y-%m-%d %H:%M %Z}",
            "prediction of its panels": predict.description, "torch": torch.__version__,
            "python": platform.python_version(), "platform": f"{platform.system()} {platform.machine()}"}


def main() -> None:
    args = cli.parse(__doc__)
    report(with_weights(load_run(args.config, args.overrides)))


if __name__ == "__main__":
    cli.run(main)
