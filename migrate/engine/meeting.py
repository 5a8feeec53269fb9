"""The first contact with the target."""

from __future__ import annotations

from migrate.engine.patience import Patience
from migrate.engine.reporters import Reporter
from migrate.engine.stopping import Stop
from migrate.errors import Loading
from migrate.resque.target import Target


def meet(target: Target, retry_for_seconds: float, stop: Stop, reporter: Reporter) -> None:
    """The first contact with the target: its faults are the operator's to mend, so only loading is waited for.

    A wrong host or port is likelier than a restart at this very moment; once met, a target that goes is waited for.
    Raises TargetMismatch, AccessDenied, Unavailable.
    """
    patience = Patience(retry_for_seconds, stop, reporter.says)
    while True:
        try:
            target.check_usable()
        except Loading as error:
            patience.failed(error)
        else:
            return
