"""Who is gone: a worker only when its fork server has ended too, and with it the job that ran."""

from __future__ import annotations

import os
import subprocess
import sys

import msgspec
import pytest

from migrate.resque.process import Process
from migrate.worker import lineage

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what the kernel knows of processes")


def ended() -> int:
    """A pid that nobody has any more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_worker_is_gone_when_its_fork_server_is() -> None:
    this = lineage.this_process(os.getpid())
    assert this.server_started == this.started > 0
    assert lineage.is_gone(this) is False
    dead = msgspec.structs.replace(this, pid=ended())
    assert lineage.is_gone(dead) is False
    assert lineage.is_gone(msgspec.structs.replace(dead, server_pid=ended())) is True
    assert lineage.is_gone(msgspec.structs.replace(dead, server_pid=0, server_started=0)) is True
    another = msgspec.structs.replace(dead, server_started=this.server_started - 1)
    assert lineage.is_gone(another) is True


def test_a_process_of_another_kernel_is_not_known() -> None:
    assert lineage.is_gone(msgspec.structs.replace(lineage.this_process(), kernel="another")) is None


def test_a_process_is_itself_whatever_its_fork_server() -> None:
    this = lineage.this_process()
    assert lineage.is_this(msgspec.structs.replace(this, server_pid=7))
    assert not lineage.is_this(msgspec.structs.replace(this, started=this.started - 1))


def test_records_of_workers_without_a_fork_server_are_read() -> None:
    text = b'{"host":"a","pid":1,"started":2,"kernel":"k"}'
    assert msgspec.json.decode(text, type=Process) == Process("a", 1, 2, "k")
