"""Loading the app's modules, which register their job functions. `python -m migrate.worker.application M…` tries it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from migrate.errors import MigrateError, UsageError
from migrate.worker.functions import Registry, job
from migrate.worker.performing import name_of


def load(modules: Sequence[str]) -> Registry:
    """Import the modules, from the current folder too. Raises UsageError that names the one that can't be imported."""
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    for module in modules:
        try:
            importlib.import_module(module)
        except MigrateError:
            raise
        except Exception as error:
            raise UsageError(
                f"--app {module}: {name_of(error)}: {error}",
                advice="name a module as Python imports it, e.g. --app myapp.jobs",
            ) from error
    if modules and not job.classes():
        raise UsageError(
            f"--app {', '.join(modules)}: no function is registered there",
            advice='decorate them: from migrate import job; @job("Worker::Mail")',
        )
    return job


if __name__ == "__main__":
    try:
        load(sys.argv[1:])
    except MigrateError as error:
        sys.exit(error.message)
