"""The adapter that apps import: `Enqueuer` and `AsyncEnqueuer` write each job to where its func stands."""

from __future__ import annotations

from migrate.dualwrite.async_enqueuer import AsyncEnqueuer
from migrate.dualwrite.enqueuer import Enqueuer
from migrate.dualwrite.receipt import Receipt
from migrate.errors import DuplicateJob
from migrate.resque.steps import Step

__all__ = ["AsyncEnqueuer", "DuplicateJob", "Enqueuer", "Receipt", "Step"]
