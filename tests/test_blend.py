"""Blending submissions: the rounded mean of what the files hold, whatever the order of their rows."""
import csv
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from conftest import call
from submission.blend import blend
from submission.submission_csv import HEADER, SubmissionWriter, encode_alpha, read_alphas
from submit import main


def write(path: Path, levels: dict[str, np.ndarray]) -> Path:
    with SubmissionWriter(path) as writer:
        for name, image in levels.items():
            writer.write(name, image / np.float32(255))
    return path


@st.composite
def submissions(draw):
    """(names, (files, names, H, W) uint8, weights, an order of the names for each file)."""
    names = draw(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1),
                          min_size=1, max_size=4, unique=True))
    files = draw(st.integers(2, 4))
    levels = draw(arrays(np.uint8, (files, len(names), 3, 2)))
    weights = draw(st.lists(st.integers(0, 5), min_size=files, max_size=files).filter(any))
    return names, levels, weights, [draw(st.permutations(range(len(names)))) for _ in range(files)]


@given(submissions())
@settings(max_examples=40)
def test_every_pixel_is_the_rounded_weighted_mean_in_any_order_of_rows(drawn):
    names, levels, weights, orders = drawn
    with tempfile.TemporaryDirectory() as folder:
        paths = [write(Path(folder, f"{i}.csv"), {names[row]: levels[i, row] for row in order})
                 for i, order in enumerate(orders)]
        target = Path(folder, "blend.csv")
        blend(dict(zip(paths, weights, strict=True)), target)
        found = {name: alpha for _, name, alpha in read_alphas(target)}
        first = target.read_bytes()
        blend(dict(zip(paths, weights, strict=True)), target)
        assert target.read_bytes() == first
    mean = np.tensordot(weights, levels.astype(float), 1) / sum(weights)
    assert list(found) == [names[row] for row in orders[0]]
    for name, exact in zip(names, mean, strict=True):
        assert np.abs(found[name] - exact).max() <= 0.5 + 1e-9


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """a.csv and b.csv, with the levels 10 and 21 in two images each; the current folder."""
    monkeypatch.chdir(tmp_path)
    for name, level in (("a", 10), ("b", 21)):
        write(tmp_path / f"{name}.csv", dict.fromkeys(("1", "2"), np.full((2, 3), level, np.uint8)))
    return tmp_path


@pytest.fixture
def command(folder):
    return lambda *words: call(main, "blend", *words)


def level(path: Path) -> int:
    return {int(value) for _, _, alpha in read_alphas(path) for value in np.unique(alpha)}.pop()


def test_the_command_takes_equal_weights_or_those_that_it_gets(command, folder):
    code, out, _ = command("a.csv", "b.csv")
    assert code == 0 and "outputs/blend.csv: 2 rows, 0.5 × a.csv + 0.5 × b.csv" in out
    assert level(folder / "outputs/blend.csv") == 16  # 15.5, rounded up as everywhere
    assert command("a.csv", "b.csv", "weights=1,3", "out=c.csv")[0] == 0
    assert level(folder / "c.csv") == 18  # 18.25


@pytest.mark.parametrize("words, said", [
    (["a.csv"], "at least two"), (["a.csv", "./a.csv"], "each given once"), (["a.csv", "no.csv"], "no.csv: no such"),
    (["a.csv", "b.csv", "weights=1"], "2 numbers"), (["a.csv", "b.csv", "weights=1,-1"], "2 numbers >= 0"),
    (["a.csv", "b.csv", "weights=0,0"], "not all 0"), (["a.csv", "b.csv", "weights=nan,1"], "2 numbers"),
    (["a.csv", "b.csv", "out=a.csv"], "would be overwritten"), (["a.csv", "b.csv", "out=mine.txt"], "not written by"),
    (["a.csv", "other.csv"], "other.csv: has no row 2, which a.csv has"),
    (["other.csv", "a.csv"], "a.csv: has no row 3, which other.csv has"),
    (["a.csv", "wide.csv"], "wide.csv line 3 (2): is 4×2, but in a.csv 3×2"),
    (["a.csv", "twice.csv"], "twice.csv line 3: 1 is there twice"),
    (["a.csv", "text.csv"], "text.csv line 3 (2): is not base64"),
])
def test_what_cannot_be_blended_is_refused_in_one_line(command, folder, words, said):
    image = np.zeros((2, 3), np.uint8)
    text = encode_alpha(image)
    write(folder / "other.csv", {"1": image, "3": image})
    write(folder / "wide.csv", {"1": image, "2": np.zeros((2, 4), np.uint8)})
    (folder / "mine.txt").write_text("mine")
    for name, rows in (("twice", [("1", text), ("1", text)]), ("text", [("1", text), ("2", "%")])):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([HEADER, *rows])
    code, _, err = command(*words)
    assert code == 2 and said in err and len(err.splitlines()) == 1
    assert not (folder / "outputs/blend.csv").exists() and (folder / "mine.txt").read_text() == "mine"
