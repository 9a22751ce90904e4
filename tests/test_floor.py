"""The kernel's sources use nothing newer than the oldest versions they are written for, tests/golden/floor.txt."""
import ast
import json

import pytest

import floor

TEXTS, OWN = floor.sources()
FLOOR = json.loads(floor.RECORD.read_text(encoding="utf-8"))
TODAY = floor.methods()


@pytest.mark.parametrize("name", TEXTS)
def test_a_source_of_the_kernel_uses_nothing_that_the_floor_lacks(name):
    ast.parse(TEXTS[name], feature_version=(3, 11))
    assert not list(floor.problems(TEXTS[name], FLOOR, TODAY, OWN))


@pytest.mark.parametrize("text, words", [
    ("from torch.nn.parallel import DistributedDataParallel as Ddp\nDdp(model, forward_sync_buffers=False)",
     "line 2: torch.nn.parallel.DistributedDataParallel takes no forward_sync_buffers="),
    ("import torch\ntorch.backends.cudnn.conv.fp32_precision = 'ieee'", "line 2: torch.backends.cudnn has no conv"),
    ("import torch.nn.functional as F\nF.interpolate(x, antialiased=True)", "takes no antialiased="),
    ("import cv2\ncv2.resize(x, (2, 2), interpolate=1)", "cv2.resize takes no interpolate="),
    ("from itertools import batched", ""),
    ("from itertools import batched\nbatched(x, 2)", "line 2: itertools has no batched"),
    ("import torch.fft\ntorch.fft.fft(x)", "torch.fft.fft is not recorded"),
    ("import torch\ntorch.zeros(2, dtype=torch.float32).flip(0).clamp(min=0)", "")])
def test_what_is_too_new_is_found(text, words):
    found = list(floor.problems(text, FLOOR, TODAY, OWN))
    assert len(found) == bool(words) and words in "".join(found)


def test_a_method_that_only_todays_classes_have_is_found():
    today = TODAY | {"newest": "dim", "clamp": "min max wrap"}
    found = floor.problems("x.clamp(0, wrap=True).newest()", FLOOR, today, OWN)
    assert sorted(found) == ["line 1: .clamp takes no wrap=", "line 1: no class has .newest"]
