"""What checking pairs found, kept in a file so that no pair is decoded twice for it."""
import contextlib
import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from core.errors import OperationError, UserError, brief
from core.files import stamp, written_whole


class Remembered:
    """{key: finding} of a JSON file; findings of other `rules` than these, or in a damaged file, count as unknown."""

    def __init__(self, path: Path | None, rules: str):
        self.path, self.rules, self.findings = path, rules, {}
        if path is None:
            return
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored["rules"] == rules:
                self.findings = {key: found for key, found in stored["findings"].items() if _is_finding(found)}

    def add(self, findings: Mapping[str, list]) -> None:
        """Also into the file, if that can be written."""
        if findings.items() <= self.findings.items():
            return
        self.findings |= findings
        try:
            with written_whole(self.path) as part:
                part.write_text(json.dumps({"rules": self.rules, "findings": self.findings}), encoding="utf-8")
        except (OSError, OperationError, UserError) as error:
            say_once(f"note    {self.path}: cannot be written ({brief(error)}); the next run checks the pairs again")


@functools.cache  # training and validation pairs share the file
def say_once(line: str) -> None:
    print(line)


def _is_finding(found: object) -> bool:
    """A number and words, as plausible.look() gives them."""
    return (isinstance(found, list) and bool(found) and isinstance(found[0], int | float)
            and all(isinstance(word, str) for word in found[1:]))


def key(*files: Path) -> str | None:
    """Changes with any of the files' places, times and sizes; None where one is missing."""
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        return hashlib.sha256(repr([stamp(path) for path in files]).encode("utf-8", "surrogateescape")).hexdigest()[:32]
    return None
