"""The bench: references compute the same as our side, the table holds what was measured."""
import json
import os

import numpy as np
import pytest
import torch
from torch import nn

import bench
from benchmark import baseline, inputs, roofline, run_pipeline
from conftest import call, scene
from core.config import DEFAULTS, load_config
from losses import matting_loss
from u2net import U2Net

CFG = load_config(DEFAULTS)


def test_a_run_leaves_its_figures_as_json_and_as_the_documents_table(tmp_path, monkeypatch):
    sides = recorded_sides(monkeypatch)
    doc, out = tmp_path / "doc.md", tmp_path / "bench.json"
    doc.write_text("before\n<!-- cpu -->\nold\n<!-- /cpu -->\nafter\n")
    code, shown, err = call(bench.main, "--rows", "components", "--repeats", "1", "--out", str(out), "--doc",
                            str(doc))
    assert code == 0, err
    row = json.loads(out.read_text())["rows"][0]
    assert row["ratio"] == row["reference"] / row["ours"] and "max 0.0e+00" in row["agreement"]
    line = bench.table_line(row)
    text = doc.read_text()
    assert line in shown and line in text
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    (side,) = sides  # the reference ran in a process of its own, which has ended
    assert side.process.pid != os.getpid() and not side.process.is_alive()


def recorded_sides(monkeypatch) -> list[bench.Reference]:
    sides = []

    class Recorded(bench.Reference):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            sides.append(self)

    monkeypatch.setattr(bench, "Reference", Recorded)
    return sides


@pytest.mark.parametrize("arguments, why", [
    (["--rows", "nothing"], "known: components"), (["--gpu"], "no CUDA device")])
def test_what_cannot_be_measured_is_said(arguments, why):
    if "--gpu" in arguments and torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    code, _, err = call(bench.main, *arguments)
    assert code == 2 and why in err


def test_the_reference_step_has_the_loss_of_ours():
    target = torch.from_numpy(np.stack([scene(64, seed)[1] for seed in range(2)])[:, None])
    logits = tuple(torch.randn(target.shape, generator=torch.Generator().manual_seed(n)) for n in range(7))
    theirs = sum(baseline.output_loss(torch.sigmoid(output), target, CFG.loss) for output in logits) / 7
    assert matting_loss(logits, target, CFG.loss)["total"].item() == pytest.approx(theirs.item(), rel=1e-4)


def test_the_step_that_is_timed_trains():
    rgb, target = inputs.training_batch(CFG, 64, 2)
    with run_pipeline.our_run(CFG, 2, torch.device("cpu")) as run:
        losses = [run_pipeline.our_step(run, rgb, target) for _ in range(12)]  # AdamW's first steps are too large
    assert losses[-1] < losses[0]


def test_bytes_moved_are_those_read_and_written():
    a, b = torch.zeros(1000), torch.zeros(1000)
    with roofline.BytesMoved() as moved:
        (a + b).view(10, 100)
    assert moved.bytes == 3 * 4000


def test_operations_are_those_of_the_convolutions():
    convolutions = []  # two operations per weight and output pixel

    def note(module, _, output):
        convolutions.append(2 * module.weight.numel() * output.shape[2] * output.shape[3])

    model = U2Net().eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(note)
    with torch.no_grad():
        model(torch.zeros(1, 3, 64, 64))
    assert roofline.forward_operations(64) == sum(convolutions)
