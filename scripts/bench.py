"""Measures the pipeline against the same work as it is commonly written: one table, docs/benchmarks.md.

    python scripts/bench.py                                # all rows of this machine, minutes on two cores
    python scripts/bench.py --rows xray,components         # some of them; the table in docs/ stays as it is
    python scripts/bench.py --gpu                          # the rows of a GPU

Every row runs the reference and our side in turn, after one warm-up each, and shows the medians. The reference is
scripts/benchmark/baseline.py; the rows are in scripts/benchmark/rows.py.
"""
import json
import multiprocessing
import platform
import re
import signal
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

import cv2
import torch
from tqdm import tqdm

from benchmark.rows import Work, cpu_works, gpu_works
from core import cli
from core.config import load_config
from core.device import processor
from core.errors import UserError
from core.files import written_whole
from core.outputs import check_file, may_write

BAR = r"\|"  # one that does not end a cell
HEADER = "| work | reference | ours | ratio | asked | agreement |\n|---|---|---|---|---|---|\n"


def bench(works: Sequence[Work], repeats: int, machine: str) -> dict:
    """Prints each row as soon as it is measured -> the record of all of them."""
    cv2.setNumThreads(1)
    print(machine, flush=True)
    rows = []
    for work in tqdm(works, "bench", disable=None):
        rows.append(measure(work, repeats))
        tqdm.write(table_line(rows[-1]), file=sys.stdout)
    return {"machine": machine, "date": date.today().isoformat(), "repeats": repeats, "rows": rows}


def choose(works: Sequence[Work], groups: str) -> list[Work]:
    """The works of some groups, joined by commas; all works for an empty text."""
    chosen = {name.strip() for name in groups.split(",") if name.strip()}
    known = {work.group for work in works}
    if chosen - known:
        raise UserError(f"--rows: no {', '.join(sorted(chosen - known))}; known: {', '.join(sorted(known))}")
    return [work for work in works if not chosen or work.group in chosen]


def measure(work: Work, repeats: int) -> dict:
    """Median seconds of both sides, run in turn: if the machine changes its speed, it does so for both."""
    with work.ours() as (ours, note), Reference(work.reference) as reference:
        result = ours()
        seconds = {"reference": [], "ours": []}
        for _ in range(min(repeats, work.most_repeats)):
            if work.reference:
                seconds["reference"].append(reference.time())
            seconds["ours"].append(timed(ours))
        row = {"work": work.name, "group": work.group, "asked": work.ask, "repeats": len(seconds["ours"]),
               **{name: statistics.median(values) for name, values in seconds.items() if values}}
        remarks = [work.agreement(reference.result, result)] if work.reference else []
        row["agreement"] = "; ".join(filter(None, [*remarks, note(row["ours"])]))
    if work.reference:
        row["ratio"] = row["reference"] / row["ours"]
    return row


class Reference:
    """The reference in its own process, as people run it: our side changes how its process handles memory.

    `result` comes from the first run, which is not timed.
    """

    def __init__(self, side: Callable | None):
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(side, theirs), daemon=True) if side else None

    def __enter__(self) -> "Reference":
        if self.process:
            self.process.start()
            self.result = self.connection.recv()
        return self

    def time(self) -> float:
        self.connection.send("run")
        return self.connection.recv()

    def __exit__(self, *_):
        if self.process:
            self.process.terminate()
            self.process.join()


def serve(side: Callable, connection: Connection) -> None:
    """Runs in that process: prepares the side, runs it once, then times one run per request."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    cv2.setNumThreads(1)
    with side() as run:
        connection.send(run())
        while connection.recv():
            connection.send(timed(run))


def timed(side: Callable) -> float:
    started = time.perf_counter()
    side()
    return time.perf_counter() - started


def as_markdown(record: dict) -> str:
    """The table, below a line with the machine and the date."""
    return (f"{record['machine']}; {record['date']}, medians of up to {record['repeats']} runs in turn.\n\n{HEADER}"
            + "\n".join(map(table_line, record["rows"])) + "\n")


def table_line(row: dict) -> str:
    reference = show_seconds(row["reference"]) if "reference" in row else "–"
    ratio = f"**{row['ratio']:.1f}×**" if "ratio" in row else "–"
    return (f"| {row['work']} | {reference} | {show_seconds(row['ours'])} | {ratio} | {row['asked'] or '–'} | "
            f"{row['agreement'].replace('|', BAR)} |")


def show_seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"


def put_table(doc: Path, name: str, table: str) -> None:
    """Replaces the text between <!-- name --> and <!-- /name --> in a document."""
    text, count = re.subn(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", lambda found: found[1] + table + found[2],
                          doc.read_text(encoding="utf-8"), flags=re.S)
    if not count:
        raise UserError(f"{doc}: no place for the table; add the lines <!-- {name} --> and <!-- /{name} -->")
    with written_whole(doc, known=True) as part:
        part.write_text(text, encoding="utf-8")


def describe_machine(gpu: bool) -> str:
    return (f"{f'{torch.cuda.get_device_name()}, ' if gpu else ''}{processor()} "
            f"({torch.backends.cpu.get_cpu_capability()}), Python {platform.python_version()}, "
            f"torch {torch.__version__}")


def main() -> None:
    args = cli.parse(__doc__, options={
        "rows": ("", "groups of rows, joined by commas; default: all"),
        "repeats": (3, "timed runs of each side; slow rows take fewer"),
        "out": ("outputs/bench/bench.json", "JSON file for the figures"),
        "doc": ("", "document whose table is replaced, e.g. docs/benchmarks.md"),
        "gpu": (False, "the rows of a GPU")})
    cfg, out = load_config(args.config, args.overrides), Path(args.out)
    check_file(out, "--out")
    if args.gpu and not torch.cuda.is_available():
        raise UserError("--gpu: torch sees no CUDA device")
    works = choose(gpu_works(cfg) if args.gpu else cpu_works(cfg), args.rows)
    may_write(out)
    record = bench(works, args.repeats, describe_machine(args.gpu))
    with written_whole(out) as part:
        part.write_text(json.dumps(record, indent=1, ensure_ascii=False), encoding="utf-8")
    if args.doc:
        put_table(Path(args.doc), "gpu" if args.gpu else "cpu", as_markdown(record))
    print(f"{out}{f', {args.doc}' if args.doc else ''}")


if __name__ == "__main__":
    cli.run(main)
