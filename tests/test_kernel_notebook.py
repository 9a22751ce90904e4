"""kernel.format=notebook: what build makes of cells.py."""
import ast
import json

import nbformat
import pytest
from nbclient import NotebookClient

from conftest import ROOT
from core.config import DEFAULTS, flat, load_config
from kaggle_kernel import bundle
from kaggle_kernel.lint import kernel_problems
from kaggle_kernel.notebook import comments, settings_cell

SETTINGS = ["kaggle.competition=matting", "kernel.owner=somebody", "kernel.format=notebook", "train.lr=2e-4"]


def built(*more: str) -> dict[str, bytes]:
    return bundle.kernel_files(load_config(DEFAULTS, [*SETTINGS, *more]), {"SHA256SUMS": b""})


def code_of(mode: str) -> list[str]:
    notebook = nbformat.reads(built(f"kernel.mode={mode}")["kernel.ipynb"].decode(), as_version=4)
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def test_the_notebook_is_valid_small_and_the_same_each_time(tmp_path):
    files = built("kernel.title=Another title")
    assert files == built("kernel.title=Another title")
    notebook = nbformat.reads(files["kernel.ipynb"].decode(), as_version=4)
    nbformat.validate(notebook)
    assert notebook.cells[0].source.startswith("# Another title\n")
    assert len(files["kernel.ipynb"]) < bundle.SCRIPT_LIMIT / 2
    metadata = json.loads(files["kernel-metadata.json"])
    assert (metadata["kernel_type"], metadata["code_file"]) == ("notebook", "kernel.ipynb")
    (tmp_path / "kernel.ipynb").write_bytes(files["kernel.ipynb"])
    assert not list(kernel_problems(metadata, tmp_path))


def test_its_long_cell_is_folded():
    notebook = nbformat.reads(built()["kernel.ipynb"].decode(), as_version=4)
    folded = [cell.source for cell in notebook.cells if cell.metadata.get("_kg_hide-input")]
    assert len(folded) == 1 and "PAYLOAD" in folded[0]
    assert all(len(cell.source) < 8000 for cell in notebook.cells if cell.source != folded[0])


def test_each_mode_has_its_own_cells():
    infer, train = code_of("infer"), code_of("train")
    assert "weights = [train(job)]" in train and "show.validation(job)" in train
    assert not [cell for cell in infer if "train(job)" in cell or "validation" in cell]
    assert [cell for cell in infer if "show.weights(weights)" in cell] and infer[-1] == train[-1] == "finish(job)"


@pytest.mark.parametrize("mode", ["infer", "train"])
def test_the_configuration_cell_is_the_resolved_config_with_its_meanings(mode):
    cfg = load_config(DEFAULTS, [*SETTINGS, f"kernel.mode={mode}"])
    cell = settings_cell(cfg)
    values = ast.literal_eval(cell.removeprefix("CONFIG = "))
    resolved = flat(cfg.model_dump(mode="json"))
    assert values == {key: resolved[key] for key in values}
    assert ("train.lr" in values) == (mode == "train") and "infer.tta" in values
    assert "infer.images" not in values and "train.out_dir" not in values
    assert "# none | flip: mean of the alphas" in cell


def test_each_setting_has_its_comment():
    meanings = comments()
    assert set(flat(load_config(DEFAULTS).model_dump(mode="json"))) <= set(meanings)
    assert meanings["train.schedule"].endswith("auto: plateau from trained weights, else cosine")
    assert meanings["model.weights"].endswith("a path | None: train from scratch")


def test_cells_and_their_tracebacks_hold_no_credential(monkeypatch):
    monkeypatch.setenv("KAGGLE_USER_SECRETS_TOKEN", "canary-7c1f0e9b52")
    cells = [f"import sys; sys.path[:0] = [{str(ROOT / 'src')!r}, {str(ROOT / 'scripts')!r}]\n"
             "from on_kaggle.main import screen; screen()",
             "import os; secret = os.environ['KAGGLE_USER_SECRETS_TOKEN']; print('key', secret)",
             "print('key', secret, file=sys.stderr)", "raise ValueError('key ' + secret)"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, kernel_name="python3", allow_errors=True).execute()
    shown = [json.dumps(cell.outputs) for cell in notebook.cells[1:]]
    assert all("key ***" in text and "canary" not in text for text in shown), shown
