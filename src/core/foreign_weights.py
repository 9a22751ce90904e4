"""Weights of other programs: names the kind of a file that torch.load refuses, finds the weights in a checkpoint.

Looks only at bytes and names; nothing in the file is run.
"""
import re
import string
import zipfile
from pathlib import Path

# Where training programs put the weights, most likely first, averaged ones last.
PLACES = ("model_state", "state_dict", "model_state_dict", "model", "net", "network", "weights", "params", "ema",
          "ema_state_dict", "state_dict_ema", "model_ema", "ema_model")
# What wrappers add to the names: DataParallel and torch.compile; Lightning modules and the like.
WRAPPERS, OUTER = {"module", "_orig_mod"}, {"model", "net", "network", "ema", "model_ema", "ema_model", "online_model"}
AGAIN = "download it again"
CONVERT = "convert it with torch.save({}, 'weights.pth')"
MAGIC = {
    b"version https://git-lfs": "is a git-lfs pointer, not the weights; `git lfs pull` fetches them",
    b"\x89HDF\r\n\x1a\n": "holds Keras or TensorFlow weights (HDF5); only weights of a PyTorch U²-Net fit",
    b"\x1f\x8b": "is compressed by gzip; unpack it (tar -xzf or gunzip) and give the file inside",
    b"BZh": "is compressed by bzip2; unpack it and give the file inside",
    b"\xfd7zXZ": "is compressed by xz; unpack it and give the file inside",
    b"7z\xbc\xaf": "is a 7z archive; unpack it and give the file inside",
    b"Rar!": "is a RAR archive; unpack it and give the file inside",
    b"<?xml": "is XML (an OpenVINO network?); only PyTorch weights are read",
    b"\x93NUMPY": "is one NumPy array; only PyTorch weights are read",
}


def kind_of_file(path: Path, error: Exception) -> str | None:
    """What the file is instead of a PyTorch checkpoint, and a remedy; None if unknown. error: raised by torch.load."""
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        return f"is empty; {AGAIN}"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return f"is a web page, not the weights (perhaps a quota or a login); {AGAIN}"
    known = next((text for magic, text in MAGIC.items() if head.startswith(magic)), None)
    if known:
        return known
    if head.startswith(b"PK"):
        return kind_of_zip(path, error)
    if head[257:262] == b"ustar":
        return "is a tar archive; unpack it (tar -xf) and give the file inside"
    return kind_of_tensors(path, head) or code_in_it(error)


def kind_of_zip(path: Path, error: Exception) -> str | None:
    try:
        if not zipfile.is_zipfile(path):
            return f"is cut off: the end of the archive is missing; {AGAIN}"
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError):
        return f"is a damaged archive; {AGAIN}"
    inner = [name.partition("/")[2] for name in names]
    if "constants.pkl" in inner:
        return f"is TorchScript; {CONVERT.format(f'torch.jit.load({path.name!r}).state_dict()')}"
    if "data.pkl" in inner:
        return code_in_it(error)
    if any(name.endswith(".h5") for name in names):
        return "holds a Keras model; only weights of a PyTorch U²-Net fit"
    return f"is a zip archive ({', '.join(names[:3]) or 'empty'}); unpack it and give the weights file inside"


def kind_of_tensors(path: Path, head: bytes) -> str | None:
    """Other formats of networks, and text."""
    size, suffix = path.stat().st_size, path.suffix.lower()
    if suffix == ".safetensors" or (head[8:9] == b"{" and int.from_bytes(head[:8], "little") < size):
        return f"is in the safetensors format; {CONVERT.format(f'safetensors.torch.load_file({path.name!r})')}"
    if suffix == ".onnx" or re.match(rb"\x08[\x01-\x1f][\x12\x1a\x3a]", head):
        return "is an ONNX network, which has lost the names of its weights; get the .pth that it was exported from"
    if head[4:8] == b"TFL3" or suffix in (".pb", ".tflite"):
        return "is a TensorFlow network; only weights of a PyTorch U²-Net fit"
    text = head.decode("latin-1")
    if all(letter in string.printable for letter in text):
        return f"is a text file ({' '.join(text.split())[:60]!r}), not the weights; {AGAIN}"
    return None


def code_in_it(error: Exception) -> str | None:
    """For pickles: one that holds code, such as a whole network, or one that is cut off."""
    if isinstance(error, EOFError) or re.search(r"unexpected EOF|Ran out of input|truncated", str(error)):
        return f"is cut off; {AGAIN}"
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    if not found:
        return None
    return (f"refused: it holds code ({found[1]}), as a saved network or training state does; if you trust its source, "
            "load it where it was written and use torch.save(model.state_dict(), 'weights.pth')")


def bare_weights(state: dict) -> dict:
    """The state_dict in a checkpoint, with wrappers' prefixes removed from its names."""
    for _ in range(4):  # bounded: a hostile dict can contain itself
        state = next((state[name] for name in PLACES if isinstance(state.get(name), dict)), state)
    found = {}  # by prefix: a checkpoint may hold the network twice (averaged), and other modules' weights
    for key, value in state.items():
        parts = [part for part in str(key).split(".") if part not in WRAPPERS]
        inner = next((i for i, part in enumerate(parts) if part not in OUTER), len(parts))
        found.setdefault(tuple(parts[:inner]), {})[".".join(parts[inner:])] = value
    weights = max(found.values(), key=len, default={})
    weights.pop("n_averaged", None)  # from torch's AveragedModel
    return weights
