"""What the workers of the shop do. `qudo-migrate work --app shop_jobs` imports this."""

import asyncio
import time
from pathlib import Path

from migrate import Abort, RunningJob, backoff, current_job, job


def write(line: str) -> None:
    """Stands for what a shop does: one line in a file."""
    with Path("outbox.log").open("a", encoding="utf-8") as file:
        file.write(line + "\n")


@job("Shop::Mail", max_retries=3, retry_delay=30)
def mail(arg):
    """The argument is what Qudo's worker had: an object, a list, a string."""
    if arg["to"] is None:
        raise Abort("nobody to write to")  # recorded as a failure, never tried again
    write(f"mail to {arg['to']}: {arg['text']}")


@job("Shop::Thumb", timeout=20)
async def thumb(arg):
    """An async function is run to its end."""

    async def scale(size: int) -> None:
        await asyncio.sleep(0.01)
        write(f"thumb {arg['picture']} {size}")

    await asyncio.gather(*(scale(size) for size in arg["sizes"]))


@job("Shop::Pay", max_retries=8, retry_delay=backoff(first=1, longest=600))
def pay(arg, running: RunningJob):
    """`running` is the job itself; it is passed because the annotation asks for it."""
    if running.attempt == 1:
        raise ConnectionError("the bank doesn't answer")  # tried again in half a second to a second
    write(f"paid {arg['cents']} cents for order {arg['order']}, attempt {running.attempt}")


@job("Shop::Report", timeout=1, max_retries=0)
def report(arg):
    """Over its time: it gets Terminated raised, and five seconds later it would be killed."""
    try:
        time.sleep(arg["rows"])
    finally:
        write("report: cleaned up")


@job.failed
def complain(running: RunningJob, error: BaseException):
    """After each failure of any job; hooks have no part in its retries."""
    again = "for good" if running.is_last or isinstance(error, Abort) else "for now"
    write(f"{current_job().class_name} failed {again}: {error}")
