"""Free pictures to pretrain with, from two packages on npm: renders of objects, and views of panoramas.

    python scripts/get_pictures.py --out data/pretrain/pictures

Fills <out>/renders with WebP pictures of 256 px with transparency (Fluent emoji by Microsoft, MIT) and
<out>/backgrounds with views of 18 panoramas (Poly Haven by way of pmndrs, CC0). Both packages are verified by SHA-256.
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

REGISTRY = "https://registry.npmjs.org"
# package -> (path in the registry, SHA-256)
PACKAGES = {
    "renders": ("@lobehub/fluent-emoji-3d/-/fluent-emoji-3d-1.1.0.tgz",
                "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58"),
    "backgrounds": ("@pmndrs/assets/-/assets-1.7.0.tgz",
                    "152bd218a3390703f184f0c6ce16e73c8f0a87f32d38530d418a09d33d8208dc"),
}
# Left out: letters, digits and signs in frames, flags, and each person's five other colours of skin.
NO_OBJECT = re.compile(r"^(00|[0-9a-f]{2}-|1f0|1f1|1f2)|1f3f[b-f]|20e3")
TIMEOUT = 30  # seconds to wait for data
VIEWS, SIDE = 24, 448  # of each panorama; pixels
FIELD_OF_VIEW, PITCH = (50, 85), (-15, 15)  # degrees
MIDDLE_GREY, BRIGHTEST = (0.25, 0.5), 8  # a view's median after exposure, drawn per view; light is clipped above
SUN = 65504.0  # light that half precision cannot hold


def get_pictures(out: Path) -> None:
    check_folder(out, "choose another --out")
    for name, fill in (("renders", write_renders), ("backgrounds", write_views)):
        if (out / name).exists():
            print(f"{out / name}: already there")
            continue
        with room_for(out), tarfile.open(fileobj=io.BytesIO(download(*PACKAGES[name]))) as archive, \
                written_folder(out / name) as folder:
            count = fill(archive, folder)
        print(f"{out / name}: {count} pictures")


def download(path: str, sha256: str) -> bytes:
    """A package, verified. OperationError if it cannot be fetched or is another one."""
    try:
        answer = requests.get(f"{REGISTRY}/{path}", timeout=TIMEOUT, stream=True)
        answer.raise_for_status()
        total = int(answer.headers.get("content-length", 0))
        bar = tqdm(answer.iter_content(2**20), path.rpartition("/")[2], -(-total // 2**20) or None, unit="MB",
                   disable=None, leave=False)
        content = b"".join(bar)
    except requests.RequestException as error:
        raise OperationError(f"{REGISTRY}/{path}: {proxy_fault(str(error)) or brief(error)}") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise OperationError(f"{REGISTRY}/{path}: is not the known file (SHA-256 differs)")
    return content


def write_renders(archive: tarfile.TarFile, folder: Path) -> int:
    pictures = [member for member in archive
                if member.isfile() and member.name.endswith(".webp") and not NO_OBJECT.search(Path(member.name).name)]
    for member in pictures:
        (folder / Path(member.name).name).write_bytes(archive.extractfile(member).read())
    return len(pictures)


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
