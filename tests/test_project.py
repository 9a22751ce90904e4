"""The project's own promises: documented commands work, imports point one way, one help line per target."""
import ast
import re
import subprocess
import sys
from importlib.metadata import packages_distributions

import pytest

from config import DEFAULTS, load_config
from conftest import ROOT, script

SOURCES = sorted((ROOT / "src").glob("*.py"))
SCRIPTS = [path for path in [*SOURCES, *sorted((ROOT / "scripts").glob("*.py"))]
           if 'if __name__ == "__main__"' in path.read_text()]
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_opens_with_its_purpose_and_a_command_whose_settings_exist(path):
    doc = ast.get_docstring(ast.parse(path.read_text()))
    commands = re.findall(rf"^ *python {path.relative_to(ROOT)}(.*)$", doc, re.M)
    assert commands
    for command in commands:
        load_config(DEFAULTS, [word for word in command.split("#")[0].split() if "=" in word and "<" not in word])
    result = script(str(path.relative_to(ROOT)), "--help")
    assert result.returncode == 0 and doc.splitlines()[0] in result.stdout


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_documented_targets_settings_and_files_exist(path):
    text, makefile = path.read_text(), (ROOT / "Makefile").read_text()
    for target in re.findall(r"`?make ((?:[a-z-]+ ?)+)", "\n".join(re.findall(r"```.*?```|`[^`\n]+`", text, re.S))):
        for word in target.split():
            assert re.search(rf"^{word}:", makefile, re.M), f"make {word}"
    for settings in re.findall(r'ARGS="([^"]+)"', text):
        load_config(DEFAULTS, [word for word in settings.split() if "=" in word])
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / link).exists(), link


def test_every_target_has_its_line_of_help():
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.M)[1].split()
    assert set(re.findall(r"make ([a-z-]+)", listed)) == set(phony)


def test_imports_inside_src_form_no_circle():
    own = {path.stem for path in SOURCES}
    imports = {}
    for path in SOURCES:
        nodes = ast.walk(ast.parse(path.read_text()))
        names = [name for node in nodes for name in (
            [alias.name for alias in node.names] if isinstance(node, ast.Import)
            else [node.module] if isinstance(node, ast.ImportFrom) else [])]
        imports[path.stem] = own.intersection(names)
    while imports:
        leaves = {name for name, needed in imports.items() if not needed & imports.keys()}
        assert leaves, f"a circle among {sorted(imports)}"
        imports = {name: needed for name, needed in imports.items() if name not in leaves}


def test_every_package_that_is_imported_is_pinned():
    files = [path for folder in ("src", "scripts", "tests") for path in (ROOT / folder).rglob("*.py")]
    # By their lines rather than their syntax: programs for other processes are strings. Words of prose are no packages.
    imported = {name for path in files for name in re.findall(r"^ *(?:from|import) (\w+)", path.read_text(), re.M)}
    own = {path.stem for path in files} | {path.parent.name for path in files}
    known = packages_distributions()
    pinned = {re.sub(r"[-_.]+", "-", name).lower()
              for file in ("requirements.txt", "requirements-dev.txt", "tests/fuzz/requirements.txt")
              for name in re.findall(r"^([\w.-]+)==", (ROOT / file).read_text(), re.M)}
    needed = {name: {re.sub(r"[-_.]+", "-", each).lower() for each in known[name]}
              for name in (imported & known.keys()) - own - sys.stdlib_module_names}
    assert {"cv2", "kagglesdk", "slugify", "yaml"} <= needed.keys()
    assert not {name for name, packages in needed.items() if not packages & pinned}


def test_scripts_keep_their_line_ends_on_any_system():
    paths = ["docker/entry.sh", "docker/run.sh", "Makefile", "models/u2netp_dense.pth"]
    result = subprocess.run(["git", "check-attr", "eol", "binary", "--", *paths], cwd=ROOT, capture_output=True,
                            text=True)
    if result.returncode:
        pytest.skip("not in a git checkout")
    lines = result.stdout.splitlines()
    assert all(f"{path}: eol: lf" in lines for path in paths[:3])
    assert f"{paths[3]}: binary: set" in lines
    assert not [path for path in [ROOT / "Makefile", *(ROOT / "docker").iterdir()] if b"\r" in path.read_bytes()]
