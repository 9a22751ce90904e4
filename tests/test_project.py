"""The project itself: documented commands work, imports point one way, each target has one line of help."""
import ast
import re
import shutil
import subprocess
import sys
from importlib.metadata import packages_distributions

import pytest

from conftest import ROOT, fresh
from core.config import DEFAULTS, load_config

MODULES = {".".join(path.relative_to(ROOT / folder).with_suffix("").parts): path  # dotted name -> file
           for folder in ("scripts", "src") for path in sorted((ROOT / folder).rglob("*.py"))}
SCRIPTS = [path for name, path in MODULES.items()
           if "." not in name and 'if __name__ == "__main__"' in path.read_text()]
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_opens_with_its_purpose_and_a_command_whose_settings_exist(path):
    doc = ast.get_docstring(ast.parse(path.read_text()))
    commands = re.findall(rf"^ *python {path.relative_to(ROOT)}(.*)$", doc, re.M)
    assert commands
    for command in commands:
        load_config(DEFAULTS, [word for word in command.split("#")[0].split() if "=" in word and "<" not in word])
    result = fresh(f"import runpy; runpy.run_path({str(path)!r}, run_name='__main__')", "--help", path=[path.parent])
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


def test_the_readme_shows_the_tree_with_each_folder():
    tree = re.search(r"```\n(src/.*?)```", (ROOT / "README.md").read_text(), re.S)[1]
    named = re.findall(r"^(  )?(\w+)/ +\S", tree, re.M)
    assert len(named) == len(tree.splitlines())
    shown, top = set(), None
    for indent, name in named:
        top = top if indent else ROOT / name
        shown.add(top / name if indent else top)
    # what enters the container image is what the repository is made of
    allowed = re.findall(r"^!(\w+)$", (ROOT / ".dockerignore").read_text(), re.M)
    tops = [ROOT / name for name in allowed if (ROOT / name).is_dir()]
    folders = [*tops, *(folder for top in tops for folder in top.iterdir() if folder.is_dir())]
    assert shown == {folder for folder in folders if holds_files(folder)}


def holds_files(folder) -> bool:
    return any(path.is_file() and "__pycache__" not in path.parts for path in folder.rglob("*"))


def test_every_target_has_its_line_of_help():
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.M)[1].split()
    assert set(re.findall(r"make ([a-z-]+)", listed)) == set(phony)


def imported(path) -> set[str]:
    """Dotted names of the project's own modules that a file imports, at its top or later."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names & MODULES.keys()


def assert_no_circle(imports: dict[str, set[str]]) -> None:
    while imports:
        leaves = {name for name, needed in imports.items() if not needed & imports.keys()}
        assert leaves, f"a circle among {sorted(imports)}"
        imports = {name: needed for name, needed in imports.items() if name not in leaves}


def test_imports_form_no_circle_of_files():
    imports = {name: imported(path) - {name} for name, path in MODULES.items()}
    assert imports["train"] and imports["infer"] and imports["get_data"]  # the names resolve
    assert_no_circle(imports)


def test_nothing_in_src_imports_a_script():
    for name, path in MODULES.items():
        if path.is_relative_to(ROOT / "src"):
            for needed in imported(path):
                assert MODULES[needed].is_relative_to(ROOT / "src"), f"{name} imports {needed}"


def test_every_package_that_is_imported_is_pinned():
    files = [path for folder in ("src", "scripts", "tests") for path in (ROOT / folder).rglob("*.py")]
    # By lines rather than syntax, since programs for other processes are in strings. Words of prose are not packages.
    imported = {name for path in files for name in re.findall(r"^ *(?:from|import) (\w+)", path.read_text(), re.M)}
    own = {path.stem for path in files} | {path.parent.name for path in files}
    known = packages_distributions()
    pinned = {re.sub(r"[-_.]+", "-", name).lower()
              for file in ("requirements.txt", "requirements-dev.txt", "tests/stress/fuzz/requirements.txt")
              for name in re.findall(r"^([\w.-]+)==", (ROOT / file).read_text(), re.M)}
    needed = {name: {re.sub(r"[-_.]+", "-", each).lower() for each in known[name]}
              for name in (imported & known.keys()) - own - sys.stdlib_module_names}
    assert {"cv2", "kagglesdk", "slugify", "yaml"} <= needed.keys()
    assert not {name for name, packages in needed.items() if not packages & pinned}


def test_scripts_keep_their_line_ends_on_any_system():
    if not shutil.which("git"):
        pytest.skip("no git here to ask for the attributes")
    paths = ["docker/entry.sh", "docker/run.sh", "Makefile", "models/u2netp_dense.pth"]
    result = subprocess.run(["git", "check-attr", "eol", "binary", "--", *paths], cwd=ROOT, capture_output=True,
                            text=True)
    if result.returncode:
        pytest.skip("not in a git checkout")
    lines = result.stdout.splitlines()
    assert all(f"{path}: eol: lf" in lines for path in paths[:3])
    assert f"{paths[3]}: binary: set" in lines
    assert not [path for path in [ROOT / "Makefile", *(ROOT / "docker").iterdir()] if b"\r" in path.read_bytes()]
