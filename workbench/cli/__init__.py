"""The command line `workbench`: thin, and light to import, so that `--help` answers at once."""

from workbench.cli.app import app, run

__all__ = ["app", "run"]
