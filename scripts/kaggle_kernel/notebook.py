"""The kernel as a notebook: cells.py with its boot and config cells filled in, by jupytext.

    render_notebook(cells, boot, cfg)      # -> the text of kernel.ipynb; the same input gives the same bytes
"""
import re
import textwrap

import jupytext
import nbformat

from core.config import DEFAULTS, Config, flat

HIDDEN = {"_kg_hide-input": True, "jupyter": {"source_hidden": True}}  # for Kaggle and for Jupyter
METADATA = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"}}
# The sections or keys that can be changed in the notebook, by kernel.mode …
PREDICTING = ("infer",)
EDITABLE = {"infer": PREDICTING, "train": ("seed", "data.size", "data.limit", "data.on_error", "data.val_share",
                                           "augment", "loss", "train", "kernel.max_hours", "kernel.processes",
                                           *PREDICTING)}
# … except those that the kernel sets itself.
DECIDED = {"train.out_dir", "train.resume", "train.max_hours", "infer.images", "infer.weights", "infer.submission",
           "infer.backend", "infer.postprocess", "infer.png_dir", "infer.cutout_dir"}
COMMENT, WIDTH = 48, 76  # the configuration cell's comments: first column and width


def render_notebook(cells: str, boot: str, cfg: Config) -> str:
    """`cells`: cells.py's text; `boot`: the code that unpacks the sources."""
    notebook = jupytext.reads(cells.replace("{title}", cfg.kernel.title), fmt="py:percent")
    filled = {"boot": f"# Run this first: it unpacks the project's sources.\n{boot}",
              "config": settings_cell(cfg)}
    kept = []
    for cell in notebook.cells[1:]:  # the first is cells.py's own comment
        tags = set(cell.metadata.get("tags", ()))
        if tags & {"train", "infer"} <= {cfg.kernel.mode}:
            (name,) = tags & filled.keys() or {None}
            cell.source = filled.get(name, cell.source)
            cell.metadata = HIDDEN if name == "boot" else {}
            cell.id = f"cell-{len(kept):02}"
            kept.append(cell)
    return nbformat.writes(nbformat.v4.new_notebook(cells=kept, metadata=METADATA)) + "\n"


def settings_cell(cfg: Config) -> str:
    """CONFIG = {"section.key": value, …} with the comments of config.yaml."""
    values, meanings, lines, section = flat(cfg.model_dump(mode="json")), comments(), [], ""
    for key, value in values.items():
        if key in DECIDED or not any(f"{key}.".startswith(f"{part}.") for part in EDITABLE[cfg.kernel.mode]):
            continue
        if lines and key.partition(".")[0] != section:
            lines.append("")
        section = key.partition(".")[0]
        code = f"    {key!r}: {value!r},"
        first, *more = textwrap.wrap(meanings[key], WIDTH) or [""]
        lines += [f"{code:<{COMMENT}}# {first}", *(f"{'':<{COMMENT}}# {line}" for line in more)]
    return "\n".join(["CONFIG = {", *lines, "}"])


def comments() -> dict[str, str]:
    """config.yaml's comment on each key, with None for null."""
    found, sections = {}, []
    for line in DEFAULTS.read_text(encoding="utf-8").splitlines():
        indent, name, comment = re.fullmatch(r"( *)(?:(\w+):[^#]*)?(?:# ?(.*))?", line).groups()
        if name:
            sections[len(indent) // 2:] = [name]
            found[".".join(sections)] = comment or ""
        elif comment and sections and indent:
            found[".".join(sections)] += f" {comment}"
    return {key: re.sub(r"\bnull\b", "None", comment) for key, comment in found.items()}
