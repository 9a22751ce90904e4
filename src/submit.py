"""Validates, scores and uploads a finished submission.csv.

    python src/submit.py validate      # names and sizes against the test folder or the sample submission
    python src/submit.py score         # MSE against data.solution_csv, where the true alphas are known
    python src/submit.py upload        # validates, submits to kaggle.competition, waits for the public score
    python src/submit.py wait          # waits for scores that were still pending when `upload` ended
    python src/submit.py history       # outputs/submissions.csv: every submission, best first
    python src/submit.py blend a.csv b.csv    # their mean in outputs/blend.csv; weights=2,1 and out=c.csv if wanted
"""
import math
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from core import cli
from core.config import EMBEDDED, Config, load_config, nothing_trained, sample_submission
from core.errors import OperationError, Stopped, UserError
from core.outputs import check_folder
from imaging.images import TEST_SHAPE, list_images, read_shapes
from submission import leaderboard
from submission.blend import blend
from submission.check import as_stems, baselines, in_sample_order, score, validate
from submission.kaggle_client import ask_kaggle
from submission.kaggle_submissions import (
    Submission,
    await_end,
    list_submissions,
    page,
    remaining_today,
    send,
)
from submission.submission_csv import read_hosted, read_rows


def run_validate(cfg: Config) -> None:
    print(f"{cfg.infer.submission}: valid, {validated(cfg)} rows")


def run_score(cfg: Config) -> None:
    solution = cfg.data.solution_csv
    trivial = baselines(solution)
    print(f"{'MSE against ' + str(solution):<60}   [0,1]     0…255")
    for name, mse in {str(cfg.infer.submission): score(cfg.infer.submission, solution),
                      "all zero": trivial["zero"], "best constant": trivial["constant"]}.items():
        print(f"{name:<60} {mse:.6f} {mse * 255**2:9.2f}")


def run_upload(cfg: Config) -> None:
    competition = slug(cfg)
    check_folder(leaderboard.PATH.parent, "run the command in a folder that you can write to")
    sending = None if cfg.kaggle.kernel else file_to_send(cfg)
    run = run_numbers((EMBEDDED,) if nothing_trained(cfg) else cfg.infer.checkpoints)
    message = cfg.kaggle.message or describe(run)
    before = list_submissions(competition)  # fails here, before anything is sent, if credentials or slug are wrong
    leaderboard.update(before)
    what, shown = sending or kernel_to_send(cfg.kaggle.kernel)
    print(f"{shown}\nto {competition}, with the message '{message}'", flush=True)
    if sys.stdout.isatty() and (left := remaining_today(competition)):
        print(f"submissions left today: {left}")
    try:
        new = send(competition, what, message, (each.reference for each in before))
    except KeyboardInterrupt:
        raise Stopped(f"interrupted; check on {page(competition)} whether it arrived", signal.SIGINT) from None
    print(f"submitted: reference {new.reference}", flush=True)
    leaderboard.record(new, competition, run)
    follow(cfg, competition, new)


def run_wait(cfg: Config) -> None:
    competition = slug(cfg)
    rows = leaderboard.read()
    waiting = set(rows.loc[rows["status"] == "pending", "reference"])
    pending = [each for each in list_submissions(competition) if each.reference in waiting]
    if not pending:
        print(f"{leaderboard.PATH}: no submission to {competition} has a score pending")
    for each in reversed(pending):  # the oldest first
        follow(cfg, competition, each)


def run_history(cfg: Config) -> None:
    rows = leaderboard.read()
    if cfg.kaggle.competition:  # null: all competitions
        rows = rows[rows["competition"].isin(["", cfg.kaggle.competition])]
    if rows.empty:
        print(f"{leaderboard.PATH}: no submissions yet; `make submit` uploads one")
        return
    print(leaderboard.table(leaderboard.ranked(rows)))
    correlation, count = leaderboard.rank_correlation(rows)
    if correlation is not None:
        print(f"rank correlation of val_mse_dense and the public score: {correlation:+.2f} over {count} submissions")


def run_blend(words: Sequence[str]) -> None:
    """words: paths of submissions; weights=… (one for each, separated by commas) and out=… are optional."""
    given = dict(word.split("=", 1) for word in words if word.startswith(("weights=", "out=")))
    paths = [Path(word).expanduser() for word in words if not word.startswith(("weights=", "out="))]
    if len({path.resolve() for path in paths}) < max(2, len(paths)):
        raise UserError("blend needs the paths of at least two submissions, each given once: blend a.csv b.csv")
    target = Path(given.get("out", "outputs/blend.csv")).expanduser()
    weights = dict(zip(paths, blend_weights(given.get("weights"), len(paths)), strict=True))
    rows = blend(weights, target)
    mean = " + ".join(f"{weight / sum(weights.values()):.4g} × {path}" for path, weight in weights.items())
    print(f"{target}: {rows} rows, {mean}\nnext: python src/submit.py validate infer.submission={target}")


def blend_weights(text: str | None, count: int) -> list[float]:
    """One weight per file, >= 0; equal ones without a text."""
    try:
        weights = [float(part) for part in text.strip("[]").split(",")] if text else [1.0] * count
    except ValueError:
        weights = []
    if len(weights) != count or not 0 < sum(weights) < math.inf or min(weights) < 0:
        raise UserError(f"weights={text}: should be {count} numbers >= 0, one for each file, separated by commas, and "
                        "not all 0")
    return weights


def slug(cfg: Config) -> str:
    if cfg.kaggle.competition is None:
        raise UserError("kaggle.competition is not set: give the last part of the competition's address, "
                        "kaggle.competition=<slug>")
    return cfg.kaggle.competition


def validated(cfg: Config) -> int:
    """Checks cfg.infer.submission against the test folder and the sample submission -> its number of rows."""
    sample, folder = sample_submission(cfg), cfg.infer.images
    if sample and not folder.is_dir():  # no images here, so the sizes are assumed
        own = [name for _, name, _ in read_rows(cfg.infer.submission)]
        names = as_stems([name for _, name, _ in read_hosted(sample)], own)
        return validate(cfg.infer.submission, names, TEST_SHAPE)
    paths = list_images(folder)[0]
    shapes = read_shapes(in_sample_order(paths, sample) if sample else paths)
    return validate(cfg.infer.submission, list(shapes), shapes)


def run_numbers(entries: Sequence[Path]) -> dict[str, str]:
    """run, predicts, epoch, val_mse and val_mse_dense of a checkpoint, if its file has them; of an ensemble the run."""
    weights = entries[0]
    if len(entries) > 1 or weights.is_dir():  # folds
        return {"run": " + ".join(run_name(entry) for entry in entries)}
    from core import checkpoint  # loads torch, which takes seconds and which only `upload` needs

    state = checkpoint.load(weights) if weights.exists() else {}
    metrics = state.get("metrics", {})
    known = {name: f"{metrics[name]:.6g}" for name in ("epoch", "val_mse", "val_mse_dense") if name in metrics}
    if predicts := state.get("config", {}).get("model", {}).get("predicts"):
        known["predicts"] = predicts
    return {"run": run_name(weights), **known}


def run_name(weights: Path) -> str:
    """weights: a checkpoint or a folder of folds."""
    return "embedded" if weights == EMBEDDED else (weights if weights.is_dir() else weights.parent).resolve().name


def describe(run: dict[str, str]) -> str:
    """A submission's message: run, what it predicts, epoch, val_mse_dense and git commit, those that are known."""
    named = [f"{name} {run[name]}" for name in ("predicts", "epoch", "val_mse_dense") if name in run]
    return ", ".join([run["run"], *named, *git_commit()])


def git_commit() -> list[str]:
    """This code's commit, with `-dirty` if it has changes; empty outside a repository."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    except OSError:  # no git here
        return []
    return [f"commit {found.stdout.strip()}"] if found.returncode == 0 else []


def file_to_send(cfg: Config) -> tuple[list[str], str]:
    """Validates the submission -> (the client's arguments, the line shown to the user)."""
    path = cfg.infer.submission
    try:
        rows = validated(cfg)
    except UserError as error:
        raise UserError(f"{error}; nothing was sent; run `make infer` to write a valid file") from None
    for weights in cfg.infer.checkpoints:
        if weights.exists() and weights.stat().st_mtime > path.stat().st_mtime:
            print(f"note    {weights} is newer than {path}, so its val_mse_dense may be another model's; run `make "
                  "infer` to update it")
    return ["--file", str(path)], f"{path}: {rows} rows, {path.stat().st_size:,} bytes"


def kernel_to_send(kernel: str) -> tuple[list[str], str]:
    """As file_to_send, for the kernel's latest version. OperationError unless its run completed."""
    run = ask_kaggle("kernel_status", kernel)
    if run["status"] != "COMPLETE":
        found = f"{run['status']}: {run['message']}" if run["message"] else run["status"]
        raise OperationError(f"kaggle.kernel={kernel}: the run of its latest version is not complete ({found}); "
                             "nothing was submitted")
    version = str(ask_kaggle("kernel_version", kernel))
    what = ["--kernel", kernel, "--version", version, "--file", "submission.csv"]
    return what, f"{kernel}: version {version} of the kernel"


def follow(cfg: Config, competition: str, submission: Submission) -> None:
    """Waits kaggle.wait minutes for the score, records and prints it. OperationError if Kaggle could not score it."""
    end = await_end(competition, submission, cfg.kaggle.wait)
    leaderboard.update([end])
    if end.status == "error":
        why = " ".join(end.error.split()) or "it gives no reason"
        raise OperationError(f"Kaggle could not score submission {end.reference}: {why}")
    if end.status == "pending":
        print(f"the score of {end.reference} is still pending after {cfg.kaggle.wait:g} minutes; "
              f"run `python src/submit.py wait` to keep waiting, or see {page(competition)}")
    else:
        print(f"public score of {end.reference}: {'hidden' if end.public_score is None else end.public_score}")


ACTIONS = {"validate": run_validate, "score": run_score, "upload": run_upload, "wait": run_wait,
           "history": run_history}


def main() -> None:
    args = cli.parse(__doc__, (*ACTIONS, "blend"))
    if args.action == "blend":
        run_blend(args.overrides)
    else:
        ACTIONS[args.action](load_config(args.config, args.overrides))


if __name__ == "__main__":
    cli.run(main)
