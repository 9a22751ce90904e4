"""Stands before every Python process of a kernel in `kernel.py test`: refuses what Kaggle's machine would not have.

No network but this machine's own, even where its namespace cannot be left out, none of the packages that Kaggle's image
lacks, and no file of the repository. An audit hook cannot be taken back.
"""
import os
import sys
from importlib.machinery import PathFinder

HIDDEN = {"openvino", "pymatting", "onnx", "onnxruntime", "gdown", "huggingface_hub", "jupytext"}


def guard(repository: str, environment: str) -> None:
    """`environment`: the folder of the Python that runs this, which may lie inside `repository`."""
    def audit(event: str, arguments: tuple) -> None:
        if ((event == "socket.getaddrinfo" and not own(arguments[0]))
                or (event == "socket.connect" and isinstance(arguments[1], tuple) and not own(arguments[1][0]))):
            raise PermissionError("no network here, nor on Kaggle: enable_internet is false")
        if event == "open" and isinstance(arguments[0], str):
            path = arguments[0]
            if path.startswith(f"{repository}/") and not path.startswith(f"{environment}/"):
                raise PermissionError(f"{path} belongs to the repository, which is not on Kaggle")

    class Installed(PathFinder):
        @classmethod
        def find_spec(cls, name, path=None, target=None):
            return None if name.partition(".")[0] in HIDDEN else super().find_spec(name, path, target)

    sys.meta_path[sys.meta_path.index(PathFinder)] = Installed
    sys.addaudithook(audit)


def own(host: str | bytes | None) -> bool:
    """Whether it is this machine: processes that train together, and a notebook with its kernel, talk over loopback."""
    name = host.decode() if isinstance(host, bytes) else host
    return name in (None, "", "localhost", "::1", os.uname().nodename) or name.startswith("127.")
