"""Run folder -> report.html, one self-contained page about the run; and report.png if the test's alphas are known.

    python scripts/report.py train.out_dir=outputs/u2netp
"""
import base64
import datetime
import io
import json
import platform
import sys
from pathlib import Path

import cv2
import jinja2
import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from core import checkpoint, cli
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
from core.files import written_whole
from core.outputs import check_folder, may_write
from dataset import ValidationSet
from imaging.images import list_images, read_rgb, resize_longer_side
from imaging.pairs import configured_pairs, pairs_source
from imaging.pictures import ERROR_FULL, grey, heat, panel_sheet, save_picture
from inference.predictor import Predictor, load_predictor
from inference.weights import with_weights
from reporting.summary import collect
from submission.check import baselines, matched_alphas

SHOWN = 6   # test images in report.png
SIDE = 512  # longer side of an embedded picture, pixels


def report(cfg: Config) -> None:
    """Writes report.html into the run folder; and report.png, if there are infer.submission and data.solution_csv."""
    check_folder(cfg.train.out_dir, "make it writable, or work on a copy of it")
    page = cfg.train.out_dir / "report.html"
    run = read_run(cfg.train.out_dir)
    may_write(page)
    check_weights(run["validation"], cfg)
    predict = load_predictor(cfg)
    test = test_result(cfg)
    pictures = pictured(cfg, run, predict)
    html = render({**collect(cfg, run), **pictures, "test": test, "changed": changed(cfg), "error_full": ERROR_FULL,
                   "config": dump_config(cfg), "environment": environment(cfg, predict)})
    with written_whole(page) as part:
        part.write_text(html, encoding="utf-8")
    print(f"report   {page}\ntest     {test['note']}")
    if pictures["pictures_note"]:
        print(f"panels   {pictures['pictures_note']}")
    if "errors" in test:
        print(f"picture  {save_test_picture(cfg, test)}")


def check_weights(validation: dict, cfg: Config) -> None:
    """UserError if the numbers were measured with other weights than those that the page is about."""
    if validation.get("weights") not in (None, *checkpoint.identity(cfg.infer.weights).values()):
        raise UserError(f"{cfg.train.out_dir / 'validation.json'}: was measured with other weights, not "
                        f"{cfg.infer.weights}; run the same training command again, which validates best.pth, or leave "
                        "infer.weights out")


def read_run(out_dir: Path) -> dict:
    """What training wrote: `history` (metrics.csv, a row per epoch), `validation` of the best epoch, `levels`."""
    try:
        # as text first, so that nan and inf become numbers and an empty cell is an error
        history = pd.read_csv(io.StringIO(run_file(out_dir / "metrics.csv")), dtype=str, na_filter=False,
                              index_col=False).astype(float)
        run = {"history": history, "validation": json.loads(run_file(out_dir / "validation.json")),
               "levels": json.loads(run_file(out_dir / "levels.json"))}
        if (out_dir / "levels_official.json").exists():
            run["levels"] |= json.loads(run_file(out_dir / "levels_official.json"))
    except (ValueError, TypeError) as error:
        raise UserError(f"{out_dir}: metrics.csv, validation.json or levels.json is damaged "
                        f"({' '.join(str(error).split())}); train again") from None
    if history.empty or not run["validation"]["images"]:
        raise UserError(f"{out_dir}: no epoch is finished yet; continue with `make train`")
    return run


def run_file(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path}: no such file; `make train` writes it after each epoch") from None


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


def ranks(errors: list[float]) -> dict[int, str]:
    """index -> Best, Median or Worst; no median of two."""
    ranked = sorted(range(len(errors)), key=errors.__getitem__)
    median = {ranked[len(ranked) // 2]: "Median"} if len(ranked) > 2 else {}
    return {ranked[0]: "Best", **median, ranked[-1]: "Worst"}


def embedded(rgb: np.ndarray) -> str:
    """(H,W,3) uint8 -> data URI of a WebP, its longer side at most SIDE."""
    rgb = resize_longer_side(rgb, min(SIDE, max(rgb.shape[:2])))
    data = cv2.imencode(".webp", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_WEBP_QUALITY, 85])[1]
    return f"data:image/webp;base64,{base64.b64encode(data).decode('ascii')}"


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


def render(context: dict) -> str:
    """report.html filled in; everything from outside (file names, paths, settings) is escaped."""
    templates = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent / "reporting"), autoescape=True,
                                   undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    templates.filters.update(number=number, percent=lambda share: f"{share * 100:.1f} %" if share < 0.1 else
                             f"{share * 100:.0f} %")
    return templates.get_template("report.html").render(context)


def number(value: float) -> str:
    """An MSE in four decimals; a small one in two significant digits, so that it does not read 0."""
    return f"{value:.4f}" if value >= 0.001 or value == 0 else f"{value:.2g}"


def main() -> None:
    args = cli.parse(__doc__)
    report(with_weights(load_run(args.config, args.overrides)))


if __name__ == "__main__":
    cli.run(main)
