"""Do other input sizes, shares or any post-processing lower the MSE? Judged on images that had no say in the choice.

    python scripts/tune.py train.out_dir=outputs/u2netp
    python scripts/tune.py infer.weights=outputs/folds

Uses a run's validation images, or for a folder of folds all images, each predicted by the network that has not seen it.
First the sizes at which the network sees the images, mirroring and tiles; then, if infer.weights names several, the
share of each; then the post-processing. Writes postprocess.yaml, sizes.png and tune.png beside the checkpoint, into the
folder of folds, or for several weights into train.out_dir; infer.postprocess=tuned applies what was chosen.

A choice is accepted only if choosing in the same way without each fifth of the images, or each fold, lowers the MSE of
just these: the 95 % interval of that change must be below zero.
"""
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from core import cli
from core.config import Config, select_metric, with_infer
from core.folds import weights_identity
from core.outputs import check_folder, may_write
from inference.predictor import load_model
from inference.tuned import NOT_TUNED, Tuned, save_tuned, tuned_path
from tuning.measuring import TRUTHS
from tuning.nested import FEWEST_GROUPS, FEWEST_PARTS, Division, divide
from tuning.pictures import Pictures, pictures, run_config
from tuning.procedure import ALL, Procedure
from tuning.recordings import without_new_caches
from tuning.tables import (
    changes_of,
    decision_lines,
    save_intervals,
    save_ways,
    table,
    table_of_shares,
    table_of_ways,
)
from tuning.ways import Way, largest_side, recordings_for, ways_to_try


def tune(cfg: Config) -> None:
    """cfg: the run's. Writes postprocess.yaml (even for "none"), sizes.png and tune.png."""
    path = tuned_path(cfg)
    check_folder(path.parent, "make it writable, or work on a copy of it")
    found = pictures(cfg)
    sizes, picture = (path.with_name(name) for name in ("sizes.png", "tune.png"))
    for target in (path, sizes, picture):
        may_write(target)
    identity = weights_identity(cfg.infer.checkpoints)  # first, because a running training may replace a file
    division = divide(found.pairs, found.folds, cfg.seed)
    if not division.enough:
        save_tuned(path, identity, NOT_TUNED, {"reason": f"{len(found.pairs)} images"})
        print(f"{found.where}: {len(found.pairs)} images are too little evidence, at least {FEWEST_GROUPS} of "
              f"different groups in {FEWEST_PARTS} parts are needed; chosen: none\n{path}")
        return
    print(f"val     {len(found.pairs)} images of {found.where} with {cfg.infer.named_weights}, in "
          f"{len(division.names)} parts")
    title = f"{path.parent} · MSE against the {TRUTHS[select_metric(cfg)]}"
    tuned, evidence = search(cfg, found, division, Drawings(sizes, picture, title))
    save_tuned(path, identity, tuned, evidence)
    use = "" if tuned == NOT_TUNED else "; infer.postprocess=tuned applies it"
    print(f"chosen: {described(tuned)}{use}\n{path}\n{sizes}\n{picture}")


class Drawings(NamedTuple):
    """Where the pictures go."""
    sizes: Path
    tune: Path
    title: str


def search(cfg: Config, found: Pictures, division: Division, drawings: Drawings) -> tuple[Tuned, dict]:
    """-> what was chosen, and the evidence for it. Prints a table per step."""
    own_sizes = {load_model(with_infer(cfg, weights=member[0].weights)).size for member in found.members}
    ways = ways_to_try(cfg, own_sizes, largest_side(found, cfg))
    procedure = Procedure(cfg, recordings_for(cfg, found, ways), division, select_metric(cfg))
    with without_new_caches([source.weights for member in found.members for source in member]) as used_sizes:
        before = choose_way(procedure, ways, drawings)
        used_sizes |= {*own_sizes, *ways[0].sizes, *procedure.bases[ALL].way.sizes}
        if len(found.members) > 1 and not cfg.infer.shares:
            step = procedure.choose_shares()
            print(f"{table_of_shares(list(map(str, cfg.infer.checkpoints)), step.candidates)}\n"
                  f"{decision_lines('shares', step.decision)}\n")
        choose_postprocessing(procedure, drawings)
    return procedure.tuned(ways[0]), evidence(procedure, before)


def choose_way(procedure: Procedure, ways: Sequence[Way], drawings: Drawings) -> float:
    """-> the MSE of the present way."""
    measured, step = procedure.choose_way(ways)
    print(f"{table_of_ways(measured, step.candidates, procedure.seed)}\n{decision_lines('input', step.decision)}\n")
    save_ways(drawings.sizes, measured, drawings.title)
    return float(measured[0].errors.mean())


def choose_postprocessing(procedure: Procedure, drawings: Drawings) -> None:
    step = procedure.choose_postprocessing()
    changes = changes_of(step.candidates, procedure.seed)
    print(f"{table(step.candidates, changes, procedure.metric)}\n{decision_lines('post-processing', step.decision)}\n")
    save_intervals(drawings.tune, step.candidates, changes, drawings.title)


def evidence(procedure: Procedure, before: float) -> dict:
    """For postprocess.yaml. Prints what all accepted steps are worth together."""
    images = {"decided_by": procedure.metric, "images": len(procedure.division.parts)}
    if not any(step.decision.accepted for step in procedure.steps):
        return {**images, "reason": "no choice's interval is below zero"}
    change = procedure.change()
    print(f"everything chosen in this way: {change} of {before:.5f}, {100 * change.mean / before:+.1f} %")
    return {**images, "before": before, "after": before + change.mean, "interval": [change.low, change.high]}


def described(tuned: Tuned) -> str:
    """What is not as configured."""
    _, *ways = tuned
    values = zip(Tuned._fields[1:], ways, strict=True)
    return " ".join([str(tuned.setting), *(f"{name}={value}" for name, value in values if value is not None)])


def main() -> None:
    args = cli.parse(__doc__)
    tune(run_config(args.config, args.overrides))


if __name__ == "__main__":
    cli.run(main)
