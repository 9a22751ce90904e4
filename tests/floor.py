"""What the oldest supported versions offer: recorded there, and held against what the kernel's sources use.

    python -m venv floor && floor/bin/pip install -r tests/golden/floor.txt    # Python 3.11; about 3 GB
    floor/bin/python tests/floor.py                                     # writes tests/golden/floor.json

A dotted name that begins at an import (`torch.nn.Conv2d`) must be there, and its call's keywords among its parameters.
Of what is used of an object (`x.flip(2)`) the class is not known: what no class of the floor has, but one of today's
has, is too new.
"""
import ast
import importlib
import inspect
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "tests/golden/floor.json"
MODULE = "<module>"  # in place of parameters
LAZY = {"openvino", "pymatting", "kaggle", "kagglesdk", "pandas"}  # imported only by commands that run elsewhere
# Whose attributes count for what is called on an object.
CLASSES = (
    "builtins.str", "builtins.bytes", "builtins.list", "builtins.dict", "builtins.set", "builtins.int",
    "builtins.float", "builtins.OSError", "builtins.SystemExit", "builtins.UnicodeDecodeError", "types.ModuleType",
    "pathlib.Path", "io.StringIO", "io.BytesIO", "io.TextIOWrapper", "re.Pattern", "re.Match", "threading.Thread",
    "threading.Event", "threading.Timer", "collections.deque", "collections.Counter", "subprocess.Popen",
    "subprocess.CompletedProcess", "subprocess.CalledProcessError", "socket.socket", "argparse.ArgumentParser",
    "concurrent.futures.ThreadPoolExecutor", "concurrent.futures.Future", "zipfile.ZipFile", "zipfile.ZipInfo",
    "tarfile.TarFile", "hashlib._hashlib.HASH", "csv.DictWriter", "inspect.Parameter", "os.stat_result",
    "os.terminal_size", "os.uname_result", "shutil._ntuple_diskusage", "ast.AST", "torch.Tensor", "torch.nn.Module",
    "torch.nn.BatchNorm2d", "torch.nn.Conv2d", "torch.optim.AdamW", "torch.amp.GradScaler", "torch.cuda.CUDAGraph",
    "torch.cuda.Stream", "torch.distributed.TCPStore", "torch.distributed.PrefixStore",
    "torch.nn.parallel.DistributedDataParallel", "numpy.ndarray", "numpy.random.Generator", "PIL.Image.Image",
    "PIL.Image.Exif", "pydantic.BaseModel", "pydantic.ValidationError", "matplotlib.figure.Figure",
    "matplotlib.axes.Axes", "matplotlib.axis.Axis", "matplotlib.spines.Spine", "tqdm.tqdm", "csv.DictReader",
    "yaml.YAMLError", "yaml.Mark")


class Uses(ast.NodeVisitor):
    """What a source uses.

    names: (line, dotted name, keywords of its call); methods: (line, name, keywords); own: what it defines itself.
    """

    def __init__(self, text: str):
        self.imported, self.names, self.methods, self.own = {}, [], [], set()
        tree = ast.parse(text)
        for node in ast.walk(tree):
            self._note_definitions(node)
        self.visit(tree)

    def _note_definitions(self, node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            self.imported |= {name.asname or name.name.partition(".")[0]:
                              name.name if name.asname else name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            self.imported |= {name.asname or name.name: f"{node.module}.{name.name}" for name in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            self.own.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            self.own.add(node.attr)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            self.own.add(node.target.id)

    def visit_Call(self, node: ast.Call) -> None:
        self._note(node.func, frozenset(keyword.arg for keyword in node.keywords if keyword.arg))
        for child in (*node.args, *node.keywords):
            self.visit(child)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self._note(node, frozenset())

    def visit_Name(self, node: ast.Name) -> None:
        self._note(node, frozenset())

    def _note(self, node: ast.expr, keywords: frozenset[str]) -> None:
        parts, inner = [], node
        while isinstance(inner, ast.Attribute):
            parts.insert(0, inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name) and inner.id in self.imported:
            self.names.append((node.lineno, ".".join([self.imported[inner.id], *parts]), keywords))
        elif isinstance(node, ast.Attribute):
            if isinstance(node.ctx, ast.Load):
                self.methods.append((node.lineno, node.attr, keywords))
            self.visit(node.value)
        elif not isinstance(node, ast.Name):
            self.visit(node)


def problems(text: str, record: dict, today: dict[str, str | None], own: set[str] = frozenset()) -> Iterator[str]:
    """What a source uses that the floor lacks.

    today: methods() of the installed versions. own: modules and attributes that the project itself defines.
    """
    uses = Uses(text)
    for line, name, keywords in uses.names:
        if name.partition(".")[0] not in LAZY | own:
            yield from (f"line {line}: {problem}" for problem in of_module(name, keywords, record["spaces"]))
    for line, name, keywords in uses.methods:
        if name not in own | uses.own:
            yield from (f"line {line}: {problem}" for problem in of_class(name, keywords, record["methods"], today))


def of_module(name: str, keywords: frozenset[str], spaces: dict) -> Iterator[str]:
    space, last = split(name, spaces)
    if not space or (spaces[space].get(last) == MODULE and name != f"{space}.{last}"):
        if name.partition(".")[0] not in sys.stdlib_module_names:
            yield f"{name} is not recorded; run tests/floor.py as it says"
    elif last and last not in spaces[space] and not (space == "cv2" and last.isupper()):  # its 2,000 old constants
        yield f"{space} has no {last}"
    elif f"{space}.{last}" == name and last in spaces[space]:
        yield from (f"{name} takes no {keyword}=" for keyword in unknown(keywords, spaces[space][last]))


def of_class(name: str, keywords: frozenset[str], floor: dict, today: dict) -> Iterator[str]:
    if name not in floor:
        if name in today:
            yield f"no class has .{name}"
        return
    for keyword in unknown(keywords, floor[name]):
        if not unknown({keyword}, today.get(name)):
            yield f".{name} takes no {keyword}="


def unknown(keywords: Iterable[str], parameters: str | None) -> list[str]:
    """parameters: separated by blanks, ** among them where any keyword is taken; None: not known."""
    known = None if parameters is None else parameters.split()
    return [] if known is None or "**" in known else sorted(set(keywords) - set(known))


def split(name: str, spaces: dict) -> tuple[str, str]:
    """'torch.nn.Conv2d.forward' -> ('torch.nn', 'Conv2d'): the module, and what is used of it."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        if (space := ".".join(parts[:count])) in spaces:
            return space, parts[count] if count < len(parts) else ""
    return "", ""


def parameters(value: object, name: str) -> str | None:
    """Of something that can be called, by its signature or else by its documentation."""
    if isinstance(value, ModuleType):
        return MODULE
    if not callable(value):
        return None
    try:
        kinds = inspect.signature(value).parameters.values()
        return " ".join("**" if kind.kind is kind.VAR_KEYWORD else kind.name for kind in kinds
                        if kind.kind is not kind.VAR_POSITIONAL)
    except (ValueError, TypeError):
        if (getattr(value, "__module__", None) or "torch").partition(".")[0] not in ("torch", "numpy", "cv2"):
            return None
        found = re.findall(rf"\b{re.escape(name)}\(([^()]*(?:\([^()]*\)[^()]*)*)\)", inspect.getdoc(value) or "")
        words = dict.fromkeys(word for text in found for word in re.findall(r"[a-z_A-Z]\w*", text))
        return " ".join(words) or None


def resolve(name: str) -> object:
    """The module, class or function of a dotted name."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:count]))
        except ImportError:
            continue
        for part in parts[count:]:
            value = getattr(value, part)
        return value
    raise ImportError(name)


def record(texts: list[str], own: set[str]) -> dict:
    """{"spaces": {module: {name: parameters}}, "methods": {name: parameters of all classes together}}."""
    names = {name for text in texts for _, name, _ in Uses(text).names if name.partition(".")[0] not in LAZY | own}
    spaces = {module_of(name) for name in names}
    used = {space: {name.removeprefix(f"{space}.").partition(".")[0] for name in names if name.startswith(f"{space}.")}
            for space in spaces}
    return {"spaces": {space: members(resolve(space), used[space]) for space in sorted(spaces)}, "methods": methods()}


def module_of(name: str) -> str:
    """The longest beginning of a dotted name that is a module."""
    while not isinstance(resolve(name), ModuleType):
        name = name.rpartition(".")[0]
    return name


def members(space: ModuleType, used: set[str]) -> dict[str, str | None]:
    names = {name for name in dir(space) if not (name.startswith("_") or (name.isupper() and space.__name__ == "cv2"))}
    return {name: parameters(getattr(space, name), name) for name in sorted(names | used) if hasattr(space, name)}


def methods() -> dict[str, str | None]:
    merged = {}
    for owner in map(resolve, CLASSES):
        for name in dir(owner):
            if not name.startswith("_") or name.startswith("__"):
                merged.setdefault(name, []).append(parameters(getattr(owner, name, None), name))
    return {name: None if None in found else " ".join(dict.fromkeys(" ".join(found).split()))
            for name, found in sorted(merged.items())}


def sources() -> tuple[dict[str, str], set[str]]:
    """The kernel's sources, {file name: text}, and the names that they define themselves."""
    sys.path[:0] = [str(ROOT / "src"), str(ROOT / "scripts")]
    from kaggle_kernel import bundle

    paths = [*bundle.SOURCES, bundle.BOOT]
    texts = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in paths}
    own = {path.relative_to(ROOT).with_suffix("").parts[1] for path in paths}  # modules and folders below the roots
    return texts, own.union(*(Uses(text).own for text in texts.values()))


if __name__ == "__main__":
    texts, own = sources()
    found = record(list(texts.values()), own)
    lines = [f"{json.dumps(space)}: {json.dumps(names)}" for space, names in found["spaces"].items()]
    RECORD.write_text('{"spaces": {\n' + ",\n".join(lines) + '},\n"methods": ' + json.dumps(found["methods"]) + "}\n",
                      encoding="utf-8")
    print(f"{RECORD}: {len(found['spaces'])} modules, {len(found['methods'])} methods")
