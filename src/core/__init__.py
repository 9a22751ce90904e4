"""What everything is built on: settings, errors, files, processes, checkpoints."""
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # of the repository
DEFAULTS = ROOT / "config.yaml"
