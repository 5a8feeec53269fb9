"""Where the servers' programs are. A missing one skips the test on a laptop and fails it in CI."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest

#: Servers live here on Debian and macOS, and a normal user's PATH may lack these.
_MORE_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/usr/local/bin", "/usr/libexec", "/opt/homebrew/bin")


def find_program(*names: str) -> str | None:
    """The path of the first of `names` that is installed."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *_MORE_FOLDERS])
    for name in names:
        found = shutil.which(name, path=path)
        if found:
            return found
    return None


def need_program(*names: str) -> str:
    """The same, but ends the test when none is there."""
    return find_program(*names) or missing(" or ".join(names))


def in_ci() -> bool:
    """Whether this is a CI run, where nothing may be skipped for want of a server."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false")


def missing(what: str) -> NoReturn:
    """Skip, or fail in CI, because `what` is not installed."""
    message = f"{what} is not installed: scripts/test installs it, or see CONTRIBUTING.md"
    if in_ci():
        pytest.fail(message, pytrace=False)
    pytest.skip(message)
