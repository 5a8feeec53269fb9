"""A plausible shop: which jobs wait in its Qudo, and what each of its workers would get. Pure.

Each job keeps the value that the app enqueued beside the bytes that Qudo stores of it, so that the demo can judge what
reaches Resque without trusting any decoder of the migrator's.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from migrate.qudo.serializers import PlainValue, nfreeze

MINUTE, HOUR, DAY = 60, 3600, 86400  #: seconds

#: Of so many jobs one is in a worker's hands, and one is held by a worker that died hours ago.
ONE_IN_FLIGHT_OF, ONE_ABANDONED_OF = 250, 400

#: The job whose text is in EUC-JP, as an old part of the shop wrote it: no worker on the new side could read it.
EUC_JP_JOB = 42
#: The job whose JSON a column that was too short cut off, years ago.
CUT_OFF_JOB = 77
#: Fewer jobs than this don't have one of each sort.
FEWEST_JOBS = 100


class ShopJob(NamedTuple):
    """One row for Qudo's `job` table. Times are Unix seconds."""

    func: str
    serializer: str  #: the hook of the app that enqueued it, for people
    arg: bytes  #: as Qudo stores it
    value: PlainValue  #: as the app enqueued it and as a worker must get it
    enqueue_time: int
    run_after: int
    uniqkey: str | None = None
    priority: int = 0
    retry_cnt: int = 0
    grabbed_until: int = 0
    translatable: bool = True


class LoggedFailure(NamedTuple):
    """One row for `exception_log`."""

    func: str
    message: str
    uniqkey: str | None
    arg: bytes
    exception_time: int  #: Unix seconds


class Shop(NamedTuple):
    """All that waits. A job's id is its place in `jobs`, from 1 on."""

    jobs: list[ShopJob]
    failures: list[LoggedFailure]


def open_shop(jobs: int, now: int) -> Shop:
    """The same shop each time, but for the clock: `now` is the Unix second at which it is looked at."""
    chance = random.Random(32)  # noqa: S311  a shop's everyday life, no secrets
    makers = chance.choices(list(_MAKERS), weights=list(_MAKERS.values()), k=jobs)
    made = [_in_its_state(number, maker(chance, number, now), now) for number, maker in enumerate(makers, 1)]
    made[EUC_JP_JOB - 1] = _in_euc_jp(now)
    made[CUT_OFF_JOB - 1] = _cut_off(now)
    return Shop(made, _failures(made, now))


def _in_its_state(number: int, job: ShopJob, now: int) -> ShopJob:
    """Most jobs wait; some are being worked on, some were when their worker died."""
    if number % ONE_IN_FLIGHT_OF == 17:
        return job._replace(enqueue_time=now, run_after=now, grabbed_until=now + HOUR)
    if number % ONE_ABANDONED_OF == 31:
        grabbed = now - 5 * HOUR
        return job._replace(enqueue_time=grabbed, run_after=grabbed, grabbed_until=grabbed + HOUR)
    return job


# -- the worker classes, one function each --

_CUSTOMERS = ("鮎川 さくら", "山田 太郎", "佐藤 美咲", "Jürgen Groß", "高橋 健一", "Zoë O'Neill", "伊藤 結衣")
_PRODUCTS = ("鮎の塩焼き", "有田焼 湯呑み", "抹茶 100g", "檜のまな板", "南部鉄器 急須", "手ぬぐい（藍）", "柚子胡椒")


def _mail(chance: random.Random, number: int, now: int) -> ShopJob:
    """JSON; one in eight is a reminder for later."""
    value: PlainValue = {
        "template": chance.choice(("order_received", "order_shipped", "review_please")),
        "to": f"customer{number}@example.jp",
        "name": chance.choice(_CUSTOMERS),
        "order": f"{number:08d}",
        "coupon": None,
        "discount": 0.1,
        "extra": {},
    }
    enqueued, later = _some_time_ago(chance, now), chance.random() < 1 / 8
    run_after = now + chance.randint(HOUR, 3 * DAY) if later else enqueued
    return ShopJob("Worker::Mail", "JSON", _json(value), value, enqueued, run_after, priority=0 if later else 5)


def _payment(chance: random.Random, number: int, now: int) -> ShopJob:
    """JSON, urgent, never twice for one order; one in six failed before and is tried again in a while."""
    value: PlainValue = {
        "order": f"{number:08d}",
        "transaction": 9007199254740993 + number,
        "yen": 110 * chance.randint(3, 400),
        "three_d_secure": True,
    }
    enqueued, retries = _some_time_ago(chance, now), chance.choice((0, 0, 0, 0, 0, 2))
    run_after = now + 30 * MINUTE if retries else enqueued
    return ShopJob(
        "Worker::Payment", "JSON", _json(value), value, enqueued, run_after, f"order-{number}", 20, retry_cnt=retries
    )


def _invoice(chance: random.Random, number: int, now: int) -> ShopJob:
    """Storable, as an older part of the shop writes it; never twice for one order."""
    value: PlainValue = {
        "order": number,
        "customer": {"name": chance.choice(_CUSTOMERS), "postcode": f"0{chance.randint(10, 99)}-0012"},
        "lines": [
            {"sku": f"0{chance.randint(100, 999)}", "name": chance.choice(_PRODUCTS), "count": chance.randint(1, 5)}
            for _ in range(chance.randint(1, 3))
        ],
        "gift_note": None,
    }
    enqueued = _some_time_ago(chance, now)
    return ShopJob("Worker::Invoice", "Storable", nfreeze(value), value, enqueued, enqueued, f"invoice-{number}", 10)


def _thumbnail(chance: random.Random, number: int, now: int) -> ShopJob:
    """MessagePack."""
    value: PlainValue = {
        "image": f"{chance.choice(_PRODUCTS)}/{number:04d}.jpg",
        "sizes": [[120, 120], [480, 480], [1200, 900]],
        "quality": 0.85,
        "crop": None,
    }
    enqueued = _some_time_ago(chance, now)
    return ShopJob("Worker::Thumbnail", "MessagePack", msgspec.msgpack.encode(value), value, enqueued, enqueued)


def _newsletter(chance: random.Random, number: int, now: int) -> ShopJob:
    """Storable, an array; all of them are due tomorrow."""
    value: PlainValue = ["春の新作", f"{number:06d}", [chance.choice(_PRODUCTS), chance.choice(_PRODUCTS)], {}]
    run_after = now + DAY
    return ShopJob("Worker::Newsletter", "Storable", nfreeze(value), value, _some_time_ago(chance, now), run_after)


def _search_index(chance: random.Random, number: int, now: int) -> ShopJob:
    """No serializer: the app passes one string."""
    value = f"product\t{number:05d}\t{chance.choice(_PRODUCTS)}"
    enqueued = _some_time_ago(chance, now)
    return ShopJob("Worker::SearchIndex", "none", value.encode(), value, enqueued, enqueued)


#: How often each occurs, of a hundred jobs.
_MAKERS: dict[Callable[[random.Random, int, int], ShopJob], int] = {
    _mail: 40,
    _thumbnail: 20,
    _search_index: 15,
    _invoice: 12,
    _payment: 8,
    _newsletter: 5,
}


# -- what goes wrong --


def _in_euc_jp(now: int) -> ShopJob:
    text = "product\t00042\t鮎の塩焼き"
    return ShopJob("Worker::SearchIndex", "none", text.encode("euc-jp"), text, now - DAY, now - DAY, translatable=False)


def _cut_off(now: int) -> ShopJob:
    arg = _json({"template": "order_received", "to": "customer77@example.jp", "name": "山田 太郎"})[:60]
    return ShopJob("Worker::Mail", "JSON", arg, None, now - 400 * DAY, now - 400 * DAY, translatable=False)


def _failures(jobs: list[ShopJob], now: int) -> list[LoggedFailure]:
    """Each failed try of a job that waits for its next one, and some jobs that failed for good."""
    tries = [
        LoggedFailure(
            job.func, "the card gateway timed out at lib/Worker/Payment.pm line 87.", job.uniqkey, job.arg, at
        )
        for job in jobs
        for at in range(now - HOUR, now - HOUR + 15 * MINUTE * job.retry_cnt, 15 * MINUTE)
    ]
    gone = [
        LoggedFailure(
            "Worker::Mail", "550 no such mailbox at lib/Worker/Mail.pm line 51.", None, _json(value), now - DAY
        )
        for value in ({"template": "review_please", "to": f"gone{number}@example.jp"} for number in range(1, 6))
    ]
    return tries + gone


def _some_time_ago(chance: random.Random, now: int) -> int:
    return now - chance.randint(1, 6 * HOUR)


def _json(value: PlainValue | dict[str, str]) -> bytes:
    """Compact UTF-8, as JSON::XS writes it."""
    return msgspec.json.encode(value)
