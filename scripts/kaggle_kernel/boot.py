"""The beginning of the kernel's text: brings the project's sources along, since nothing of the repository is on Kaggle.

`kernel.py build` appends SETTINGS, what it knows about itself, and PAYLOAD, the sources as a compressed tar in base64.
"""
import base64
import io
import sys
import tarfile
import tempfile


def unpack(payload: str) -> None:
    """The sources into a folder of their own, from which they can be imported."""
    folder = f"{tempfile.mkdtemp()}/src"
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(payload))) as sources:
        sources.extraction_filter = getattr(tarfile, "data_filter", None)  # unknown to Python before 3.11.4
        sources.extractall(folder)
    sys.path.insert(0, folder)
