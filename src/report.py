"""Run folder -> one picture of its result: the test set's mattes beside the truth, best, median and worst.

    python src/report.py train.out_dir=outputs/u2netp
"""
import numpy as np

import cli
from config import Config, load_config
from images import list_images, read_rgb
from pictures import panel_sheet, save_picture
from submission import baselines, matched_alphas

SHOWN = 6


def report(cfg: Config) -> None:
    """report.png in the run folder, from its submission.csv and data.solution_csv."""
    paths = {path.stem: path for path in list_images(cfg.infer.images)[0]}
    errors = {name: float(np.mean((pred.astype(np.float32) - true) ** 2)) / 255**2
              for name, pred, true in matched_alphas(cfg.infer.submission, cfg.data.solution_csv)}
    ranked = sorted(errors, key=errors.get)
    shown = {ranked[i] for i in np.linspace(0, len(ranked) - 1, min(SHOWN, len(ranked)), dtype=int)}
    panels = {name: (f"{name}   mse {errors[name]:.4f}   rank {ranked.index(name) + 1} of {len(ranked)}",
                     read_rgb(paths[name]), true / np.float32(255), pred / np.float32(255))
              for name, pred, true in matched_alphas(cfg.infer.submission, cfg.data.solution_csv) if name in shown}
    trivial = baselines(cfg.data.solution_csv)
    title = (f"{cfg.infer.submission} · MSE {np.mean(list(errors.values())):.4f} "
             f"(best constant {trivial['constant']:.4f}, all zero {trivial['zero']:.4f})")
    save_picture(cfg.train.out_dir / "report.png", panel_sheet([panels[n] for n in ranked if n in shown], title))
    print(f"submission  {cfg.infer.submission}\npicture     {cfg.train.out_dir / 'report.png'}")


def main() -> None:
    args = cli.parse(__doc__)
    report(load_config(args.config, args.overrides))


if __name__ == "__main__":
    cli.run(main)
