"""Weights and training state on disk: saved whole or not at all, loaded without running any code in the file."""
import pickle
import shutil
from pathlib import Path

import torch
from torch import nn

from cli import OperationError, UserError, brief, written_whole


def save(path: str | Path, state: dict) -> None:
    """Tensors and plain values only, so that load() can read it back."""
    try:
        with written_whole(path) as part:
            torch.save(state, part)
    except RuntimeError as error:  # torch's writer hides the system's error
        free = shutil.disk_usage(Path(path).parent).free
        raise OperationError(f"{path}: cannot be written, {free / 1e6:.0f} MB are free there; make room and run the "
                             f"same command again ({brief(error)})") from None


def load(path: str | Path) -> dict:
    """What save() wrote, or any file of tensors and plain values, on the CPU. A file with code in it is refused."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint; `make train` writes best.pth, `make weights` fetches the "
                        "official ones, model.weights=null trains from nothing") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder, not a checkpoint") from None
    except pickle.UnpicklingError:
        raise UserError(f"{path}: refused: not a file of plain tensors (damaged, or it holds code); "
                        "fetch or train it again") from None
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise UserError(f"{path}: cannot be read as a checkpoint ({' '.join(str(error).split())[:120]}); "
                        "fetch or train it again") from None
    if not isinstance(state, dict):
        raise UserError(f"{path}: holds a {type(state).__name__}, not a state_dict")
    return state


def load_weights(model: nn.Module, path: str | Path) -> dict:
    """Loads a bare state_dict, {"state_dict": …} or {"model_state": …}, with or without `module.` before the keys.

    Strict: UserError lists missing and unexpected keys and wrong shapes. -> all that the file holds.
    """
    state = load(path)
    weights = next((state[key] for key in ("model_state", "state_dict") if isinstance(state.get(key), dict)), state)
    weights = {str(key).removeprefix("module."): value for key, value in weights.items()}
    own = model.state_dict()
    wrong = {
        "missing": [key for key in own if key not in weights],
        "unexpected": [key for key in weights if key not in own],
        "of another shape": [key for key in own if key in weights and (
            not torch.is_tensor(weights[key]) or weights[key].shape != own[key].shape)],
    }
    if any(wrong.values()):
        listed = "; ".join(f"{len(keys)} {what} ({', '.join(keys[:3])}{', …' if len(keys) > 3 else ''})"
                           for what, keys in wrong.items() if keys)
        raise UserError(f"{path}: does not fit this network: {listed}; is model.variant right?")
    model.load_state_dict(weights)
    return state
