import os
import pickle

import pytest
import torch

from core import checkpoint
from core.errors import UserError
from u2net import U2Net


@pytest.fixture(scope="module")
def model() -> U2Net:
    torch.manual_seed(1)
    return U2Net()


@pytest.mark.parametrize("wrap", [
    lambda state: state,
    lambda state: {"state_dict": state},
    lambda state: {"model_state": state, "epoch": 3},
    lambda state: {f"module.{key}": value for key, value in state.items()},
])
def test_every_usual_form_of_weights_loads(model, tmp_path, wrap):
    checkpoint.save(tmp_path / "w.pth", wrap(model.state_dict()))
    other = U2Net()
    checkpoint.load_weights(other, tmp_path / "w.pth")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


def test_keys_that_do_not_fit_are_listed(model, tmp_path):
    state = dict(model.state_dict())
    del state["side1.bias"]
    state["outconv.weight"] = torch.zeros(1, 5, 1, 1)
    state["extra"] = torch.zeros(1)
    checkpoint.save(tmp_path / "w.pth", state)
    with pytest.raises(UserError) as error:
        checkpoint.load_weights(U2Net(), tmp_path / "w.pth")
    for words in ("1 missing (side1.bias)", "1 unexpected (extra)", "1 with the wrong shape (outconv.weight)"):
        assert words in str(error.value)


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path):
    torch.save({"model_state": Evil(tmp_path / "ran")}, tmp_path / "zip.pth")
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Evil(tmp_path / "ran"), protocol=2))
    for name in ("zip.pth", "bare.pth"):
        with pytest.raises(UserError, match="refused"):
            checkpoint.load(tmp_path / name)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"<html>quota exceeded</html>", b"PK\x03\x04 truncated"])
def test_damaged_files_are_refused_in_one_line(tmp_path, content):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"w\.pth") as error:
        checkpoint.load(tmp_path / "w.pth")
    assert "\n" not in str(error.value)


def test_truncated_weights_are_refused(model, tmp_path):
    checkpoint.save(tmp_path / "w.pth", model.state_dict())
    whole = (tmp_path / "w.pth").read_bytes()
    (tmp_path / "w.pth").write_bytes(whole[:len(whole) // 2])
    with pytest.raises(UserError):
        checkpoint.load(tmp_path / "w.pth")


def test_missing_weights_say_where_to_get_them(tmp_path):
    with pytest.raises(UserError, match="make weights"):
        checkpoint.load(tmp_path / "none.pth")
    with pytest.raises(UserError, match="is a folder"):
        checkpoint.load(tmp_path)


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path):
    checkpoint.save(tmp_path / "w.pth", {"a": 1})
    with pytest.raises((AttributeError, pickle.PicklingError)):
        checkpoint.save(tmp_path / "w.pth", {"a": lambda: None})
    assert checkpoint.load(tmp_path / "w.pth") == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["w.pth"]
