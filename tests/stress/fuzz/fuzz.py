"""Coverage-guided fuzzing (atheris) of the code that reads foreign files. Any bytes must give a value or a UserError,
never another exception, a hang or a full memory.

    python tests/stress/fuzz/fuzz.py submission -max_total_time=600   # or pairs, config, weights; libFuzzer's options

Starts from seeds/<target>/, keeps new inputs in build/fuzz/<target>/, writes findings to build/fuzz/.
"""
import contextlib
import copy
import io
import sys
import tempfile
import zipfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "src"))

import torch  # not instrumented: too large
import torch._weights_only_unpickler as unpickler

unpickler.Unpickler.load = atheris.instrument_func(unpickler.Unpickler.load)
with atheris.instrument_imports(include=["core", "imaging", "submission",
                                         "csv", "yaml", "zipfile"]):
    from core import checkpoint, config
    from core.errors import UserError
    from imaging.pairs import read_pairs
    from submission.check import validate

from u2net import U2Net  # noqa: E402 (after the instrumented modules)

HERE = Path(__file__).resolve().parent
FOLDER = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
FILE = FOLDER / "file"


def fuzz_submission(data: bytes) -> None:
    """A submission.csv; after an odd first byte: the PNG of its only row."""
    if data[:1] and data[0] & 1:
        import base64
        data = b"filename,image_utf\n1," + base64.b64encode(data[1:]) + b"\n"
    FILE.write_bytes(data)
    validate(FILE, ["1", "2"], (4, 4))


def fuzz_pairs(data: bytes) -> None:
    FILE.write_bytes(data)
    read_pairs(FILE, 20, "fail")


VALUES, READ = config._read(config.DEFAULTS), config._read
config._read = lambda path: copy.deepcopy(VALUES) if path == config.DEFAULTS else READ(path)  # slow, always the same


def fuzz_config(data: bytes) -> None:
    """A config file; after an odd first byte: overrides, one per line."""
    if data[:1] and data[0] & 1:
        cfg = config.load_config(config.DEFAULTS, data[1:].decode(errors="surrogateescape").split("\n"))
    else:
        FILE.write_bytes(data[1:])
        cfg = config.load_config(FILE)
    FILE.write_text(config.dump_config(cfg))
    if config.load_config(FILE) != cfg:
        raise AssertionError("the written config reads back differently")


torch.set_num_threads(1)
MODEL = U2Net()


def fuzz_weights(data: bytes) -> None:
    """A whole checkpoint; after an odd first byte: the pickle in one, with the right checksums."""
    if data[:1] and data[0] & 1:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, body in (("data.pkl", data[1:]), ("byteorder", b"little"), ("data/0", bytes(64))):
                archive.writestr(f"archive/{name}", body)
        data = buffer.getvalue()
    FILE.write_bytes(data)
    checkpoint.load_weights(MODEL, FILE)


TARGETS = {"submission": fuzz_submission, "pairs": fuzz_pairs, "config": fuzz_config, "weights": fuzz_weights}


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: fuzz.py {'|'.join(TARGETS)} [libFuzzer options]")
    name = sys.argv.pop(1)
    found = HERE.parents[2] / "build/fuzz" / name
    found.mkdir(parents=True, exist_ok=True)

    def one(data: bytes) -> None:
        with contextlib.suppress(UserError):
            TARGETS[name](data)

    atheris.Setup([*sys.argv, "-timeout=20", "-rss_limit_mb=3000", f"-artifact_prefix={found.parent}/{name}-",
                   str(found), str(HERE / "seeds" / name)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
