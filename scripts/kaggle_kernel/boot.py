"""The start of the kernel's code: unpacks the project's sources, since Kaggle does not have the repository.

`kernel.py build` appends SETTINGS, which identify the build, and PAYLOAD, the sources as a compressed tar in base64.
"""
import base64
import io
import sys
import tarfile
import tempfile


def unpack(payload: str) -> None:
    """Extracts the sources into a new folder and makes them importable."""
    folder = f"{tempfile.mkdtemp()}/src"
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(payload))) as sources:
        sources.extraction_filter = getattr(tarfile, "data_filter", None)  # unknown to Python before 3.11.4
        sources.extractall(folder)
    sys.path.insert(0, folder)
