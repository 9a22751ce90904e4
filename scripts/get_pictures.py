"""Free pictures of real places, as backgrounds to pretrain with: views of 18 panoramas.

    python scripts/get_pictures.py --out data/pretrain/pictures

The panoramas are from Poly Haven (CC0), in the npm package @pmndrs/assets, which is verified by SHA-256.
"""
import base64
import hashlib
import io
import os
import re
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

os.environ["OPENCV_IO_ENABLE_OPENEXR"] = "1"  # before OpenCV is loaded

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

import cv2
import numpy as np
import requests
from tqdm import tqdm

from core import cli
from core.errors import OperationError, brief
from core.files import room_for, written_folder
from core.outputs import check_folder
from core.seeds import Purpose, generator
from imaging.images import to_levels, write_image
from submission.proxies import proxy_fault

PACKAGE = "https://registry.npmjs.org/@pmndrs/assets/-/assets-1.7.0.tgz"
SHA256 = "152bd218a3390703f184f0c6ce16e73c8f0a87f32d38530d418a09d33d8208dc"
TIMEOUT = 30  # seconds to wait for data
VIEWS, SIDE = 24, 448  # of each panorama; pixels
FIELD_OF_VIEW, PITCH = (50, 85), (-15, 15)  # degrees
MIDDLE_GREY, BRIGHTEST = (0.25, 0.5), 8  # a view's median after exposure, drawn per view; light is clipped above
SUN = 65504.0  # light that half precision cannot hold


def get_pictures(out: Path) -> None:
    check_folder(out, "choose another --out")
    if out.exists():
        print(f"{out}: already there")
        return
    with room_for(out), tarfile.open(fileobj=io.BytesIO(download(PACKAGE, SHA256))) as archive, \
            written_folder(out) as folder:
        count = write_views(archive, folder)
    print(f"{out}: {count} pictures")


def download(url: str, sha256: str) -> bytes:
    """A package, verified. OperationError if it cannot be fetched or is another one."""
    try:
        answer = requests.get(url, timeout=TIMEOUT, stream=True)
        answer.raise_for_status()
        total = int(answer.headers.get("content-length", 0))
        bar = tqdm(answer.iter_content(2**20), url.rpartition("/")[2], -(-total // 2**20) or None, unit="MB",
                   disable=None, leave=False)
        content = b"".join(bar)
    except requests.RequestException as error:
        raise OperationError(f"{url}: {proxy_fault(str(error)) or brief(error)}") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise OperationError(f"{url}: is not the known file (SHA-256 differs)")
    return content


def write_views(archive: tarfile.TarFile, folder: Path) -> int:
    panoramas = sorted((member for member in archive if member.name.endswith(".exr.js")), key=lambda each: each.name)
    for number, member in enumerate(tqdm(panoramas, "panoramas", disable=None, leave=False)):
        name = Path(member.name).name.partition(".")[0]
        for index, view in enumerate(views(panorama(archive.extractfile(member).read()), number)):
            write_image(folder / f"{name}_{index:02d}.jpg", view)
    return len(panoramas) * VIEWS


def panorama(script: bytes) -> np.ndarray:
    """The package holds each picture as a script with a data URL -> (H,2H,3) float32, linear light."""
    data = base64.b64decode(re.search(rb"base64,([\w+/=]+)", script)[1])
    light = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if light is None:
        raise OperationError("this OpenCV cannot read EXR pictures; install the one in requirements.txt")
    return np.nan_to_num(light[..., 2::-1].astype(np.float32), nan=SUN, posinf=SUN).clip(0)


def views(light: np.ndarray, number: int) -> Iterator[np.ndarray]:
    """VIEWS pictures (SIDE,SIDE,3) uint8, as cameras that look around would take them."""
    for index in range(VIEWS):
        rng = generator(Purpose.PANORAMA_VIEW, number, index)
        seen = looked_at(light, np.radians(rng.uniform(*FIELD_OF_VIEW)), rng.uniform(-np.pi, np.pi),
                         np.radians(rng.uniform(*PITCH)))
        exposed = np.minimum(seen * rng.uniform(*MIDDLE_GREY) / max(np.median(seen.max(2)), 1e-6), BRIGHTEST)
        yield to_levels((exposed / (1 + exposed / 3)).clip(0, 1) ** (1 / 2.2))


def looked_at(light: np.ndarray, field_of_view: float, yaw: float, pitch: float) -> np.ndarray:
    """A pinhole camera's view of an equirectangular panorama, angles in radians -> (SIDE,SIDE,3)."""
    height, width = light.shape[:2]
    x, y = np.meshgrid(np.linspace(-1, 1, SIDE), np.linspace(-1, 1, SIDE))
    z = np.full_like(x, 1 / np.tan(field_of_view / 2))
    y, z = np.cos(pitch) * y - np.sin(pitch) * z, np.sin(pitch) * y + np.cos(pitch) * z
    longitude, latitude = np.arctan2(x, z) + yaw, np.arctan2(y, np.hypot(x, z))
    column = (longitude / (2 * np.pi) + 0.5) % 1 * width
    row = ((latitude / np.pi + 0.5) * height).clip(0, height - 1)
    around = np.concatenate([light, light[:, :1]], 1)  # the last column is next to the first
    return cv2.remap(around, column.astype(np.float32), row.astype(np.float32), cv2.INTER_LINEAR)


def main() -> None:
    args = cli.parse(__doc__, options={"out": ("data/pretrain/pictures", "folder to fill")})
    get_pictures(Path(args.out))


if __name__ == "__main__":
    cli.run(main)
