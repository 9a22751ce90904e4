"""Executes a notebook as Kaggle does, cell by cell in a Jupyter kernel, and saves it with its outputs.

    python scripts/kaggle_kernel/run_notebook.py kernel.ipynb executed.ipynb      # prints what the cells print

Imports nothing of the project: `kernel.py test` runs it where the project's modules are not installed.
"""
import argparse
import sys

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError


def execute(source: str, target: str) -> int:
    """-> exit code, 1 if a cell raised; then its traceback is on stderr."""
    notebook = nbformat.read(source, as_version=4)
    client = NotebookClient(notebook, timeout=None, kernel_name="python3", on_cell_executed=show,
                            extra_arguments=["--log-level=ERROR"])  # it warns that its sockets are not encrypted
    try:
        client.execute()
    except CellExecutionError:
        return 1
    finally:
        nbformat.write(notebook, target)
    return 0


def show(cell: nbformat.NotebookNode, cell_index: int, execute_reply: dict) -> None:
    for output in cell.outputs:
        if output.output_type == "stream":
            print(output.text, end="", flush=True, file=getattr(sys, output.name))
        elif output.output_type == "error":
            print("\n".join(output.traceback), file=sys.stderr, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("target")
    sys.exit(execute(**vars(parser.parse_args())))
