"""Runs first in every Python process of `kernel.py test` and refuses what Kaggle's machine would not have:

the network beyond this machine (also if no namespace can shut it off), packages that Kaggle's image lacks, and the
repository's files. An audit hook cannot be removed again.
"""
import os
import sys
from importlib.machinery import PathFinder

HIDDEN = {"openvino", "pymatting", "onnx", "onnxruntime", "gdown", "huggingface_hub", "jupytext"}


def guard(repository: str, environment: str) -> None:
    """`environment`: the folder of the Python that runs this; may be inside `repository`."""
    def audit(event: str, arguments: tuple) -> None:
        if ((event == "socket.getaddrinfo" and not own(arguments[0]))
                or (event == "socket.connect" and isinstance(arguments[1], tuple) and not own(arguments[1][0]))):
            raise PermissionError("no network, as on Kaggle: enable_internet is false")
        if event == "open" and isinstance(arguments[0], str):
            path = arguments[0]
            if path.startswith(f"{repository}/") and not path.startswith(f"{environment}/"):
                raise PermissionError(f"{path} is in the repository, which is not on Kaggle")

    class Installed(PathFinder):
        @classmethod
        def find_spec(cls, name, path=None, target=None):
            return None if name.partition(".")[0] in HIDDEN else super().find_spec(name, path, target)

    sys.meta_path[sys.meta_path.index(PathFinder)] = Installed
    sys.addaudithook(audit)


def own(host: str | bytes | None) -> bool:
    """Whether it is this machine: torchrun's processes, and a notebook and its kernel, talk over loopback."""
    name = host.decode() if isinstance(host, bytes) else host
    return name in (None, "", "localhost", "::1", os.uname().nodename) or name.startswith("127.")
