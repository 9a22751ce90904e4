"""Weights and training state on disk: saved whole or not at all, loaded without running any code in the file.

torch.save writes a zip archive with a checksum (CRC-32) per member, which torch.load ignores: a flipped bit would
become a wrong weight. load() verifies the checksums.
"""
import argparse
import hashlib
import io
import pickle
import warnings
import zipfile
from pathlib import Path

import torch
from torch import nn

from core.errors import OperationError, UserError, brief, out_of_resources
from core.files import disk_full, move, written_whole
from core.foreign_weights import bare_weights, kind_of_file


class Damaged(UserError):
    """The file is missing, damaged or not a checkpoint."""


def save(path: str | Path, state: dict, previous: Path | None = None) -> None:
    """Saves tensors and plain values only, as load() accepts. The old file, if any, is moved to `previous`."""
    path = Path(path)
    try:
        with written_whole(path) as part:
            torch.save(state, part)
            if previous and path.exists():  # if killed after this, `previous` is whole
                move(path, previous)
    except RuntimeError as error:  # torch's writer hides the OSError
        raise OperationError(disk_full(path, brief(error), needed=size(state))) from None


def to_bytes(state: dict) -> bytes:
    """What save() would write, without its file's name: the same bytes for the same state."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def size(value: object) -> int:
    """Bytes of all tensors in a state, which is nearly its file size."""
    if torch.is_tensor(value):
        return value.nbytes
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return sum(map(size, inner))


def load(path: str | Path) -> dict:
    """Loads, on the CPU, what save() wrote or any file of tensors and plain values. A file with code is refused.

    The only class accepted is argparse.Namespace, a plain container: many programs save their arguments.
    """
    try:
        check(Path(path))
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")  # about odd pickles; faults are reported below
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise Damaged(f"{path}: no such checkpoint; `make train` writes best.pth, `make weights` fetches the "
                      "official weights, model.weights=null trains from scratch") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder, not a checkpoint") from None
    except Exception as error:  # a hostile pickle can make torch's reader raise anything
        if out_of_resources(error) or "can't allocate" in str(error):
            raise
        raise Damaged(f"{path}: {_fault(Path(path), error)}") from None
    if not isinstance(state, dict):
        raise Damaged(f"{path}: holds a {type(state).__name__}, not a state_dict")
    if "model_state" not in state:
        state.pop("config", None)  # from another program, with other keys
    if not plausible(state.get("config")):
        raise Damaged(f"{path}: its config was not written by this program; fetch or train it again")
    return state


def _fault(path: Path, error: Exception) -> str:
    """Why torch.load refused a file, and what to do."""
    reason = f"cannot be read as a checkpoint ({brief(error)[:120]})"
    if isinstance(error, pickle.UnpicklingError):
        reason = "refused: not a file of plain tensors (it is damaged or holds code)"
    return kind_of_file(path, error) or f"{reason}; fetch or train it again"


def plausible(config: object) -> bool:
    """Whether the parts of a checkpoint's config that are used later, if it has one, are valid."""
    sections = config or {"model": {}, "infer": {}}
    if not isinstance(sections, dict) or not all(isinstance(sections.get(name), dict) for name in ("model", "infer")):
        return False
    size, tta = sections["infer"].get("size"), sections["infer"].get("tta")
    sizes = [each for each in (size, *(tta if isinstance(tta, list) else [])) if each not in (None, "flip")]
    return (sections["model"].get("variant", "u2netp") in ("u2netp", "u2net")
            and sections["model"].get("predicts", "dense") in ("alpha", "dense")
            and all(type(each) is int and 32 <= each <= 16384 for each in sizes))


def check(path: Path) -> None:
    """ValueError if a member of the zip archive fails its checksum, or if the archive unpacks to more than its size."""
    if not zipfile.is_zipfile(path):  # the format before torch 1.6, without checksums: the official weights
        return
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > path.stat().st_size:
                raise ValueError("it unpacks to more than its size")
            damaged = archive.testzip()
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise ValueError(f"damaged: {error}") from None
    if damaged:
        raise ValueError(f"damaged: the checksum of {damaged} is wrong")


def load_weights(model: nn.Module, path: str | Path) -> dict:
    """Loads a state_dict, bare or wrapped, with plain or prefixed names (see foreign_weights.py), into the model.

    Strict: UserError lists missing and unexpected keys and wrong shapes. Returns everything in the file.
    """
    state = load(path)
    weights = bare_weights(state)
    own = model.state_dict()
    wrong = {
        "missing": [key for key in own if key not in weights],
        "unexpected": [key for key in weights if key not in own],
        "with the wrong shape": [key for key in own if key in weights and (
            not torch.is_tensor(weights[key]) or weights[key].shape != own[key].shape)],
    }
    if any(wrong.values()):
        listed = "; ".join(f"{len(keys)} {what} ({', '.join(keys[:3])}{', …' if len(keys) > 3 else ''})"
                           for what, keys in wrong.items() if keys)
        raise UserError(f"{path}: does not fit this network: {listed}; set model.variant to that of the file")
    try:
        model.load_state_dict(weights)
    except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:  # e.g. tensors without memory
        raise Damaged(f"{path}: holds tensors that cannot be weights ({brief(error)[:120]})") from None
    return state


def identity(path: Path) -> dict[str, str]:
    """Identifies the network in a file for stored findings; equal for copies, renamed or saved in another form."""
    try:
        return {"sha256": fingerprint(bare_weights(load(path)))}
    except (RuntimeError, TypeError, ValueError) as error:  # e.g. tensors without memory
        raise Damaged(f"{path}: holds tensors that cannot be weights ({brief(error)[:120]})") from None


def fingerprint(weights: dict[str, torch.Tensor]) -> str:
    """SHA-256 of names, shapes and values, floats taken as float32, in which the network computes."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        value = torch.as_tensor(value).detach()
        value = (value.float() if value.is_floating_point() else value).cpu().contiguous()
        digest.update(repr((name, value.dtype, tuple(value.shape))).encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()
