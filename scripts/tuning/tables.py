"""What tune.py prints and draws."""
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from core.files import written_whole
from tuning.candidates import THE_ORIGINAL, PostProcessing
from tuning.measuring import TRUTHS
from tuning.nested import Change, Decision, cross_fitted, mean_changes
from tuning.shares import Shares
from tuning.ways import Measured, Ways

COLOURS = {"helps": "tab:green", "hurts": "tab:red", "no evidence": "tab:grey", "no effect": "tab:grey"}
AS_CONFIGURED = "as configured"


def interval(change: Change) -> str:
    return f"{change.low:+.5f} … {change.high:+.5f}"


def decision_lines(what: str, decision: Decision) -> str:
    """Which choice all images make, which ones all but each part make, and what the latter are worth."""
    counts = Counter(name or AS_CONFIGURED for name in decision.by_part.values())
    others = ", ".join(f"{name} ×{count}" for name, count in counts.most_common())
    verdict = "accepted" if decision.accepted else f"not accepted, {what} {AS_CONFIGURED}"
    return (f"{what}: {decision.chosen or AS_CONFIGURED}; chosen without each part: {others}\n"
            f"on the images that had no say in it: {decision.change}: {verdict}")


def table_of_ways(measured: Sequence[Measured], ways: Ways, seed: int) -> str:
    """Over all images; a change is against the first. Nothing is fitted here, so they are not in parts."""
    errors = np.stack([each.errors for each in measured])
    changes = mean_changes(errors - errors[0], ways.division.groups, seed)
    lines = [f"{'input':40}{'MSE':>9}{'change':>10}  {'95 % interval':20}{'s/image':>9}  verdict"]
    return "\n".join(lines + [
        f"{way!s:40}{errors.mean():9.5f}{change.mean:+10.5f}  {interval(change):20}{seconds:9.3f}  {change.verdict}"
        for (way, errors, seconds), change in zip(measured, changes, strict=True)])


def table_of_shares(names: Sequence[str], shares: Shares) -> str:
    """Of each member its own error, its share as fitted on all images, and the range of its shares without each part.
    """
    alone = np.diagonal(shares.grams.mean(0))
    fits = np.array([shares.shares[frozenset({part})] for part in shares.division.names])
    lines = [f"{'member':60}{'MSE alone':>11}{'share':>8}  without each part"]
    return "\n".join(lines + [
        f"{name:60}{error:11.5f}{share:8.3f}  {low:.3f} … {high:.3f}" for name, error, share, low, high in
        zip(names, alone, shares.shares[frozenset()], fits.min(0), fits.max(0), strict=True)])


def changes_of(search: PostProcessing, seed: int) -> dict[str, Change]:
    """Of each candidate, each image's by a fit that did without its part."""
    found = mean_changes(cross_fitted(search), search.division.groups, seed)
    return dict(zip(search.names, found, strict=True))


def table(search: PostProcessing, changes: dict[str, Change], metric: str) -> str:
    deciding, other = TRUTHS[metric], next(truth for name, truth in TRUTHS.items() if name != metric)
    before, before_other = search.before()
    parts = search.division.names
    lines = [f"MSE before: {before:.5f} against the {deciding}, which decides, {before_other:.5f} against the {other}",
             f"{'candidate':26}{'after':>8}{'change':>10}  {'95 % interval':20}{'better in':>10}"
             f"{'after, ' + other:>20}  {'verdict':13}parameters"]
    for name, change in changes.items():
        after, after_other = search.after(name)
        better = sum(search.changes(name, frozenset({part}), part).mean() < 0 for part in parts)
        stable = f"{better} of {len(parts)}"
        lines.append(f"{name:26}{after:8.5f}{change.mean:+10.5f}  {interval(change):20}{stable:>10}{after_other:20.5f}"
                     f"  {change.verdict:13}{search.setting(name)}")
    helping = ", ".join(name for name, change in changes.items() if change.verdict == "helps") or "none"
    return "\n".join([*lines, "", f"{THE_ORIGINAL}: {changes[THE_ORIGINAL].verdict}", f"helping: {helping}"])


def save_ways(path: Path, measured: Sequence[Measured], title: str) -> None:
    """One line per way, the present one green: its MSE, and on the right its seconds per image."""
    figure = Figure(figsize=(9, 0.35 * len(measured) + 1.4), layout="constrained")
    axes = figure.subplots()
    for row, (_, errors, seconds) in enumerate(measured):
        axes.plot(errors.mean(), row, "o", color="tab:blue" if row else "tab:green")
        axes.annotate(f"{seconds:.2g} s", (1.01, row), xycoords=("axes fraction", "data"), va="center")
    axes.set_yticks(range(len(measured)), [str(way) for way, *_ in measured], fontsize=8)
    axes.invert_yaxis()
    axes.margins(y=0.5 / len(measured))
    axes.set(title=title, xlabel="MSE, all images (left is better); on the right: time per image in the network")
    axes.grid(alpha=0.25)
    with written_whole(path) as part:
        figure.savefig(part, dpi=110)


def save_intervals(path: Path, search: PostProcessing, changes: dict[str, Change], title: str) -> None:
    """One line per candidate: its change of the MSE in percent, with its interval."""
    figure = Figure(figsize=(10, 0.5 * len(changes) + 1.6), layout="constrained")
    axes = figure.subplots()
    before = search.before()[0]
    for row, change in enumerate(changes.values()):
        mean, low, high = (100 * value / before for value in change)
        colour = COLOURS[change.verdict]
        axes.plot([low, high], [row, row], color=colour, linewidth=3, solid_capstyle="butt")
        axes.plot(mean, row, "o", color=colour)
        axes.annotate(f"{change.verdict}, {mean:+.1f} %", (1.01, row), xycoords=("axes fraction", "data"), va="center",
                      color=colour)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xscale("symlog", linthresh=1)  # some hurt a hundred times as much as others help
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_yticks(range(len(changes)), [textwrap.fill(f"{name}: {search.setting(name)}", 58) for name in changes],
                    fontsize=8)
    axes.invert_yaxis()
    axes.set(title=title,
             xlabel="change on images not fitted on, % of the MSE before (left is better); bar: 95 % interval")
    axes.grid(axis="x", alpha=0.25)
    with written_whole(path) as part:
        figure.savefig(part, dpi=110)
