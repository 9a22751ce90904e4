"""int8: what it rounds to, that the backend computes exactly this, and what is kept in the run folder."""
import json
import shutil

import numpy as np
import pytest
import torch
import yaml

import precision
from conftest import call, scene
from core import checkpoint
from core.config import EMBEDDED, load_run
from core.errors import UserError
from inference import openvino_backend
from inference.int8 import RoundedConv, measure_ranges, ranges_path, rounded, rounded_convolutions
from inference.matte_net import MatteNet
from inference.openvino_backend import OpenvinoNetwork
from inference.predictor import load_model, load_predictor
from scenes.scene import draw_pair

pytestmark = pytest.mark.skipif(
    not openvino_backend.available() or "INT8" not in openvino_backend.capabilities(),
    reason="openvino has no wheel for this platform, or this CPU does not compute in int8")


@pytest.fixture
def run(run_dir, tmp_path):
    """The trained run with the embedded weights, which give usable mattes."""
    folder = shutil.copytree(run_dir, tmp_path / "run")
    state = checkpoint.load(folder / "best.pth")
    checkpoint.save(folder / "best.pth", state | {"model_state": checkpoint.load(EMBEDDED)["model_state"]})
    return load_run(folder / "config.yaml", [f"train.out_dir={folder}", "infer.tta=none", "infer.backend=auto"])


def test_inputs_and_weights_take_the_values_that_8_bits_have():
    conv = torch.nn.Conv2d(4, 2, 3, padding=1, bias=False).requires_grad_(False)
    one = torch.zeros(1, 4, 5, 5)
    one[0, 1, 2, 2] = 0.437
    weight = RoundedConv(conv, greatest=1.0)(one)[0, :, 1:4, 1:4].flip(1, 2) / (round(0.437 * 255) / 255)
    steps = conv.weight.abs().amax((1, 2, 3), keepdim=True)[:, 0] / 127
    torch.testing.assert_close(weight / steps, torch.round(conv.weight[:, 1] / steps), atol=1e-3, rtol=0)
    above = RoundedConv(conv, greatest=1.0)(torch.full((1, 4, 5, 5), 7.0))
    torch.testing.assert_close(above, RoundedConv(conv, greatest=1.0)(torch.ones(1, 4, 5, 5)))


def test_ranges_are_what_nearly_all_values_stay_below(run):
    net = MatteNet(load_model(run)[0])
    square = torch.from_numpy(scene(64)[0])[None]
    ranges = measure_ranges(net, [square, square])
    assert set(ranges) == {name for name, _ in rounded_convolutions(net)}
    assert len(ranges) == 105  # without those of recentred channels
    seen = []
    net.net.stage1.rebnconv1.conv_s1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        net(square)
    share = (seen[0] <= ranges["stage1.rebnconv1.conv_s1"]).float().mean().item()
    assert 0.9998 <= share < 1


def test_openvino_computes_what_the_rounded_network_does(run):
    model = load_model(run).model
    squares = np.stack([draw_pair(3, index, 96)[0] for index in range(2)])
    net = MatteNet(model)
    ranges = measure_ranges(net, torch.from_numpy(squares).split(1))
    infer = run.infer.model_copy(update={"precision": "int8"})
    with torch.inference_mode():
        expected = rounded(net, ranges)(torch.from_numpy(squares)).numpy()
    error = np.abs(OpenvinoNetwork(model, 96, infer, ranges)(squares) - expected)
    assert error.mean() < 5e-3 < expected.std() / 10  # one of the two computes all but the convolutions in bf16


def test_the_command_keeps_ranges_that_inference_takes(run, monkeypatch):
    monkeypatch.setattr(precision, "MOST_GROWTH", 0.1)  # small pictures cost these weights more, 2 to 6 % by CPU
    folder = run.train.out_dir
    code, out, err = call(precision.main, f"train.out_dir={folder}", "infer.tta=none")
    assert code == 0, err
    rows = json.loads((folder / "precision.json").read_text())["rows"]
    assert rows["fp32, torch"]["max_error"] < 1e-4 and rows["fp32, openvino"]["max_error"] < 1e-4
    assert 0 < rows[precision.INT8]["mean_error"] < 0.02
    assert rows[precision.INT8]["change"] < precision.MOST_GROWTH and "infer.precision=int8 applies it" in out
    wanted = run.model_copy(update={"infer": run.infer.model_copy(update={"precision": "int8"})})
    predict = load_predictor(wanted)
    assert "int8" in predict.description
    assert np.abs(predict([scene(64)[0]])[0] - load_predictor(run)([scene(64)[0]])[0]).mean() < 0.02

    values = yaml.safe_load(ranges_path(run.infer.weights).read_text())
    for damage, words in ((values | {"weights": {"sha256": "0" * 64}}, "another checkpoint"),
                          (values | {"ranges": 3}, "holds no valid int8 ranges"),
                          (values | {"ranges": {"stage1": 1.0}}, "holds no valid int8 ranges"),
                          (values | {"ranges": dict.fromkeys(values["ranges"], -1)}, "a range is not positive"),
                          (None, "measure them with `make precision`")):
        ranges_path(run.infer.weights).unlink()
        if damage:
            ranges_path(run.infer.weights).write_text(yaml.safe_dump(damage))
        with pytest.raises(UserError, match=words):
            load_predictor(wanted)


def test_ranges_that_cost_too_much_are_dropped(run, capsys):
    path = ranges_path(run.infer.weights)
    path.write_text("of an earlier time")
    precision.keep_or_drop(run, {"sha256": "0" * 64}, {"stage1.rebnconv1.conv_s1": 1.0}, 0.01)
    assert not path.exists() and "raises the MSE by 1.00%" in capsys.readouterr().out


def test_torch_does_not_compute_in_it(run):
    infer = run.infer.model_copy(update={"precision": "int8", "backend": "torch"})
    with pytest.raises(UserError, match=r"infer\.precision=int8: .*torch does not"):
        load_predictor(run.model_copy(update={"infer": infer}))
