"""What everything is built on: settings, errors, files, processes, checkpoints."""
