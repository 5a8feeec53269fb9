"""Signals: the first asks, the second ends at once with 130, and afterwards everything is as it was before.

In processes of their own: a signal is the whole process's.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from migrate.engine.stopping import SIGNALLED, Stop, stop_on_signals

ROOT = Path(__file__).parents[2]

#: Works in small steps until it is asked to stop; finishes what it has in hand when its input ends.
WORKING = """
import sys
from migrate.engine.stopping import stop_on_signals

def say(word):
    print(word, flush=True)

with stop_on_signals(lambda: say("asked")) as stop:
    say("working")
    while not stop.wait(30):
        pass
    say("finishing")
    sys.stdin.read()
say("over")
"""


@pytest.fixture
def working() -> Iterator[subprocess.Popen[str]]:
    """A process that is at work."""
    with subprocess.Popen(
        [sys.executable, "-c", WORKING], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert reads(process, "working")
        yield process
        process.kill()


def reads(process: subprocess.Popen[str], word: str) -> bool:
    return output(process).readline() == f"{word}\n"


def output(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdout is not None
    return process.stdout


BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: str(number.name))


@BOTH
def test_the_first_signal_lets_the_work_in_hand_be_finished(
    working: subprocess.Popen[str], number: signal.Signals
) -> None:
    working.send_signal(number)
    assert reads(working, "asked")
    assert reads(working, "finishing")
    assert working.stdin is not None
    working.stdin.close()
    assert reads(working, "over")
    assert working.wait(timeout=20) == 0


@BOTH
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM], ids=lambda number: str(number.name))
def test_the_second_signal_ends_the_process_at_once(
    working: subprocess.Popen[str], number: signal.Signals, second: signal.Signals
) -> None:
    working.send_signal(number)
    assert reads(working, "asked")
    assert reads(working, "finishing")
    working.send_signal(second)
    assert working.wait(timeout=20) == SIGNALLED == 130
    assert output(working).read() == ""


def test_old_handlers_come_back_however_the_work_ends() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with stop_on_signals():
        assert signal.getsignal(signal.SIGTERM) not in before
    with pytest.raises(ZeroDivisionError), stop_on_signals():
        raise ZeroDivisionError
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_wait_ends_at_once_when_the_stop_comes_first() -> None:
    stop = Stop()
    assert (stop.requested, stop.wait(0.0)) == (False, False)
    stop.request()
    stop.request()
    assert (stop.requested, stop.wait(3600.0)) == (True, True)


#: A source's thread gets the signal, as the kernel may choose, and waits for what the handler sets.
HEARING = """
import signal, threading
from migrate.config import SourceConfig
from migrate.engine.reporters import Reporter
from migrate.engine.side_by_side import side_by_side
from migrate.engine.stopping import stop_on_signals

with stop_on_signals() as stop:
    def work(source, tally):
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
        print("heard" if stop.wait(10) else "not heard", flush=True)

    side_by_side([SourceConfig("main", "sqlite:///none")], work, Reporter())
"""


def test_a_signal_that_another_thread_gets_is_heard_all_the_same() -> None:
    done = subprocess.run([sys.executable, "-c", HEARING], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "heard\n"


_SIGNALLED_WAITS = """
import os, signal, time
from migrate.engine.stopping import Stop

stop = Stop()
heard = 0
signal.signal(signal.SIGUSR1, lambda *_: stop.request())
parent = os.getpid()
if os.fork() == 0:
    for _ in range(3000):
        time.sleep(0.0003)
        os.kill(parent, signal.SIGUSR1)
    os._exit(0)
while os.waitpid(-1, os.WNOHANG)[0] == 0:
    heard += stop.wait(0.00001)
    stop = Stop()
assert heard > 30, heard
"""


def test_a_signal_in_the_midst_of_a_wait_is_heard() -> None:
    """It may come between any two steps of the wait; with threading.Event some stopped for ever."""
    subprocess.run([sys.executable, "-c", _SIGNALLED_WAITS], timeout=30, check=True, cwd=ROOT)
