"""Finds what Kaggle would refuse or silently change, before anything is sent.

    for problem in problems(Path("build/kernel"), Path("build/dataset")): …
"""
import json
import re
from collections.abc import Iterator
from pathlib import Path

from kaggle_kernel.bundle import NOBODY, SCRIPT_LIMIT, slugify

# The client silently ignores other keys: a misspelt enable_internet would leave the default, true.
KEYS = {"id", "id_no", "title", "code_file", "language", "kernel_type", "is_private", "enable_gpu", "enable_tpu",
        "enable_internet", "machine_shape", "dataset_sources", "competition_sources", "kernel_sources",
        "model_sources", "keywords", "docker_image", "docker_image_pinning_type"}
KINDS = {"script": ".py", "notebook": ".ipynb"}  # kernel_type -> what code_file ends in
SOURCE = re.compile(r"[\w-]+/[\w-]+")


def problems(kernel: Path, dataset: Path) -> list[str]:
    """One line per problem in the two folders; empty: ready to push."""
    try:
        metadata, data = (json.loads((folder / f"{folder.name}-metadata.json").read_text(encoding="utf-8"))
                          for folder in (kernel, dataset))
    except FileNotFoundError as error:
        return [f"{error.filename}: is not built yet; run `make kernel-build`"]
    return [f"kernel-metadata.json: {problem}" for problem in kernel_problems(metadata, kernel)] + \
           [f"dataset-metadata.json: {problem}" for problem in dataset_problems(data, metadata)]


def kernel_problems(metadata: dict, folder: Path) -> Iterator[str]:
    owner, _, slug = metadata.get("id", "").partition("/")
    title, code = metadata.get("title", ""), folder / metadata.get("code_file", "")
    for key in sorted(metadata.keys() - KEYS):
        yield f"{key} is not a key that Kaggle knows; delete or correct it"
    if owner in ("", NOBODY):
        yield "the owner is unknown; set kernel.owner or KAGGLE_USERNAME to your Kaggle user name"
    if not 5 <= len(title) <= 50:
        yield f"the title '{title}' has {len(title)} characters instead of 5 to 50; change kernel.title"
    if len(slug) < 5 or slug != slugify(title):
        yield f"the slug '{slug}' must be the title with dashes ('{slugify(title)}') and have at least 5 characters"
    if not code.is_file():
        yield f"code_file {code.name or '(none)'} does not exist; run `make kernel-build`"
    elif code.stat().st_size > SCRIPT_LIMIT:
        yield f"{code.name} has {code.stat().st_size:,} bytes; Kaggle accepts at most {SCRIPT_LIMIT:,}"
    if metadata.get("language") != "python" or KINDS.get(metadata.get("kernel_type")) != code.suffix:
        yield f"language and kernel_type do not fit {code.name}"
    if metadata.get("enable_internet", True) is not False:
        yield "enable_internet must be false: a kernel with internet cannot be submitted to a code competition"
    if metadata.get("is_private", True) is not True:
        yield "is_private must be true: weights and code would be public"
    if metadata.get("enable_gpu") and not metadata.get("machine_shape"):
        yield "machine_shape is missing: Kaggle may give a P100, too old for its torch; set it to NvidiaTeslaT4"
    if not metadata.get("competition_sources"):
        yield "no competition is attached: set kaggle.competition to the last part of its address"
    for key in ("dataset_sources", "kernel_sources"):
        for source in metadata.get(key, ()):
            if not SOURCE.fullmatch(source):
                yield f"{key}: '{source}' is not owner/slug"


def dataset_problems(data: dict, kernel: dict) -> Iterator[str]:
    slug, title = data.get("id", "").partition("/")[2], data.get("title", "")
    for name, text in (("slug", slug), ("title", title)):
        if not 6 <= len(text) <= 50:
            yield f"the {name} '{text}' has {len(text)} characters instead of 6 to 50; set kaggle.dataset"
    if len(data.get("licenses", ())) != 1:
        yield "must have exactly one licence"
    if data.get("id") not in kernel.get("dataset_sources", ()):
        yield f"{data.get('id')} is not among the kernel's dataset_sources"
